"""What runs against what resources say: guests, what is nested, and what can not be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pcloud.cpe.documents import ModelDocuments
from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.errors import Unavailable
from pcloud.model.status import DeployableStatus, ResourceStatus
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.lifecycle import made, opened
from tests.stacks.memory_platform import MemoryPlatform
from tests.stacks.templates import cfn, hot, instance

NESTED = "AWS::CloudFormation::Stack"


class DriftingPlatform(MemoryPlatform):
    """Guests that somebody changes, stops or takes away behind the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, ResourceState] = {}
        self.gone: set[str] = set()
        self.target = "started"
        self.change = ""
        self.silent = False
        self.services: dict[str, ResourceState] = {}

    def read(self, document: Mapping[str, Any]) -> Deployable:
        return ModelDocuments().read(msgspec.json.encode(document), "json", "")

    async def holds_guest(self, deployable: str, assembly: str) -> bool:
        return assembly not in self.gone

    async def status(self, name: str) -> DeployableStatus | None:
        if self.silent:
            raise Unavailable.of("NO_ANSWER", "the engine does not answer")
        found = await super().status(name)
        if found is None:
            return None
        stored = {one.name: one.resources for one in self.stored[name].assemblies}
        guests = tuple(
            msgspec.structs.replace(
                one,
                state=self.states.get(one.name, one.state),
                answers=one.name not in self.states,
                resources=tuple(
                    ResourceStatus(name=each.name, state=self.services.get(each.name, ResourceState.RUNNING))
                    for each in stored[one.name]
                ),
            )
            for one in found.assemblies
        )
        return msgspec.structs.replace(found, assemblies=guests, target=self.target, change=self.change)

    def edit(self, **changes: Any) -> None:
        """Change every guest, as somebody does who has the engine's own API."""
        for name, each in self.stored.items():
            guests = tuple(msgspec.structs.replace(one, **changes) for one in each.assemblies)
            self.stored[name] = msgspec.structs.replace(each, assemblies=guests)

    @property
    def guest(self) -> Assembly:
        """The only one."""
        (found,) = [one for each in self.stored.values() for one in each.assemblies]
        return found


@pytest.fixture
def platform() -> DriftingPlatform:
    return DriftingPlatform()


async def drift(manager: StackManager, stack: StackRecord) -> dict[str, Any]:
    await manager.detect_drift(stack)
    return {name: record.drift["status"] for name, record in manager.current(stack).items()}


SERVERS: dict[str, dict[str, Any]] = {
    "ec2": instance(InstanceType="m1.small"),
    "ec2 without a size": instance(),
    "nova": {"Type": "OS::Nova::Server", "Properties": {"image": "bookworm", "flavor": "m1.small"}},
    "database": {
        "Type": "AWS::RDS::DBInstance",
        "Properties": {
            "Engine": "MySQL",
            "DBInstanceClass": "db.m1.small",
            "AllocatedStorage": "5",
            "MasterUsername": "u",
            "MasterUserPassword": "p",
        },
    },
}


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_guest_is_compared_with_what_runs(manager: StackManager, platform: DriftingPlatform, kind: str) -> None:
    stack = await made(manager, "s", cfn(S=SERVERS[kind]))
    record = manager.current(stack)["S"]
    assert await drift(manager, stack) == {"S": "IN_SYNC"}
    assert stack.drift["status"] == "IN_SYNC"
    before = platform.guest
    platform.edit(memory=77, cpus=7.0, image="noble")
    assert await drift(manager, stack) == {"S": "MODIFIED"}
    assert record.drift["differences"] == {"memory": 77, "cpus": 7.0, "image": "noble"}
    assert (stack.drift["status"], stack.drift["drifted"]) == ("DRIFTED", 1)
    platform.edit(memory=before.memory, cpus=before.cpus, image=before.image)
    assert await drift(manager, stack) == {"S": "IN_SYNC"}

    for state in (ResourceState.STOPPED, ResourceState.FAILED, ResourceState.UNRECOVERABLE):
        platform.states[before.name] = state
        assert await drift(manager, stack) == {"S": "MODIFIED"}
        assert record.drift["differences"] == {"state": state.value}
    platform.gone.add(before.name)
    assert await drift(manager, stack) == {"S": "DELETED"}
    platform.states.clear()
    platform.change = "failed"
    assert await drift(manager, stack) == {"S": "MODIFIED"}
    platform.change = ""
    platform.stored.clear()
    assert await drift(manager, stack) == {"S": "DELETED"}


async def test_our_own_types_are_compared(manager: StackManager, platform: DriftingPlatform) -> None:
    manifest = {"deployable": "shop", "assemblies": {"web": {"image": "bookworm"}}}
    stack = await made(
        manager,
        "s",
        cfn(
            A={"Type": "PCloud::Assembly", "Properties": {"image": "bookworm", "memory": "256 MiB"}},
            R={"Type": "PCloud::Resource", "Properties": {"assembly": {"Ref": "A"}, "template": "httpd"}},
            D={"Type": "PCloud::Deployable", "Properties": {"manifest": manifest}},
        ),
    )
    assert await drift(manager, stack) == {"A": "IN_SYNC", "R": "IN_SYNC", "D": "IN_SYNC"}
    platform.services[manager.current(stack)["R"].data["name"]] = ResourceState.FAILED
    platform.edit(memory=77)
    shop = platform.stored["shop"]
    other = msgspec.structs.replace(shop.assemblies[0], name="other")
    platform.stored["shop"] = msgspec.structs.replace(shop, assemblies=(other,))
    assert set((await drift(manager, stack)).values()) == {"MODIFIED"}
    assert {name: record.drift["differences"] for name, record in manager.current(stack).items()} == {
        "A": {"memory": 77},
        "R": {"state": "failed"},
        "D": {"assemblies": ["other"]},
    }
    platform.edit(resources=())
    del platform.stored["shop"]
    assert await drift(manager, stack) == {"A": "MODIFIED", "R": "DELETED", "D": "DELETED"}
    platform.stored.clear()
    assert set((await drift(manager, stack)).values()) == {"DELETED"}


async def test_what_is_not_known_is_not_checked(manager: StackManager, platform: DriftingPlatform) -> None:
    stack = await made(manager, "s", cfn(S=instance(), V={"Type": "OS::Heat::TestResource"}))
    assert await drift(manager, stack) == {"S": "IN_SYNC", "V": "NOT_CHECKED"}
    assert stack.drift["status"] == "IN_SYNC"
    assert "is not compared" in manager.current(stack)["V"].drift["why"]
    platform.states[platform.guest.name] = ResourceState.UNKNOWN
    assert await drift(manager, stack) == {"S": "NOT_CHECKED", "V": "NOT_CHECKED"}
    platform.silent = True
    assert await drift(manager, stack) == {"S": "NOT_CHECKED", "V": "NOT_CHECKED"}
    assert manager.current(stack)["S"].drift["why"] == "the engine does not answer"


async def test_a_suspended_stack_has_not_drifted(manager: StackManager, platform: DriftingPlatform) -> None:
    stack = await made(manager, "s", cfn(S=instance()))
    stack.status = "SUSPEND_COMPLETE"
    platform.states[platform.guest.name] = ResourceState.STOPPED
    platform.target = "stopped"
    platform.gone.add(platform.guest.name)  # the engine has it not loaded
    assert await drift(manager, stack) == {"S": "IN_SYNC"}


async def test_what_is_nested_is_entered(manager: StackManager, platform: DriftingPlatform, tmp_path: Path) -> None:
    server = {"type": "AWS::EC2::Instance", "properties": {"ImageId": "F17-x86_64-cfntools"}}
    inner = hot(s=server).template
    group = {"count": 1, "resource_def": {"type": "inner.yaml"}}
    outer = hot(n={"type": "inner.yaml"}, g={"type": "OS::Heat::ResourceGroup", "properties": group})
    source = Source(template=outer.template, files={"inner.yaml": inner})
    stack = await made(manager, "s", source)
    assert await drift(manager, stack) == {"n": "IN_SYNC", "g": "IN_SYNC"}
    platform.edit(memory=77)
    assert await drift(manager, stack) == {"n": "MODIFIED", "g": "MODIFIED"}
    drifted = [record for each in manager.stacks.values() for record in manager.records(each)]
    assert {record.drift["status"] for record in drifted} == {"MODIFIED"}
    assert len(drifted) == 5
    (child,) = [each for each in manager.stacks.values() if each.parent == stack.id and each.parent_resource == "n"]
    await manager.delete(child, forced=True)
    await manager.wait(child)
    assert (await drift(manager, stack))["n"] == "DELETED"
    await manager.store.flush()
    again = await opened(tmp_path, platform)
    assert again.get("s").drift["status"] == "DRIFTED"
    await again.close()


async def test_a_check_looks_too(manager: StackManager, platform: DriftingPlatform) -> None:
    stack = await made(manager, "s", cfn(S=instance(), V={"Type": "OS::Heat::TestResource"}))
    await manager.check(stack)
    await manager.wait(stack)
    assert stack.status == "CHECK_COMPLETE", stack.reason
    found = {name: record.drift["status"] for name, record in manager.current(stack).items()}
    assert found == {"S": "IN_SYNC", "V": "NOT_CHECKED"}
    platform.silent = True
    await manager.check(stack)
    await manager.wait(stack)
    assert stack.status == "CHECK_FAILED"
    assert "the engine does not answer" in stack.reason
