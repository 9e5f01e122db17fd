"""A stack of which something can not be read is seen, and can be deleted: its guests are never forgotten."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.api.heat import heat_app
from pcloud.model.errors import Conflict
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.boto import Server
from tests.stacks.damage import rows, spoil
from tests.stacks.lifecycle import made, opened
from tests.stacks.memory_platform import MemoryPlatform, guests
from tests.stacks.serving import serving
from tests.stacks.templates import cfn, hot, instance

pytestmark = pytest.mark.timeout(300)
SERVER = {"type": "OS::Nova::Server", "properties": {"image": "bookworm", "flavor": "m1.small"}}
VALUE = {"type": "OS::Heat::TestResource", "properties": {"value": "v"}}


class WithVolumes(MemoryPlatform):
    """Has volumes too; giving addresses back may have to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = self.capabilities | {"volumes"}
        self.volume_ids: set[str] = set()
        self.released: list[str] = []
        self.waits: asyncio.Event | None = None

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        self.volume_ids.add(volume)

    async def delete_volume(self, volume: str) -> None:
        self.volume_ids.discard(volume)

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        return volume in self.volume_ids, ""

    async def volumes(self) -> list[Any]:
        return []

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        self.released.append(holder)
        if self.waits is not None:
            await self.waits.wait()


async def deleted(manager: StackManager, name: str) -> list[tuple[str, str, str]]:
    """Delete a stack, which must succeed and leave no record; return its events."""
    stack = manager.get(name, aside=True)
    await manager.delete(stack)
    await manager.wait(stack)
    return await gone(manager, stack)


async def gone(manager: StackManager, stack: StackRecord) -> list[tuple[str, str, str]]:
    assert stack.status == "DELETE_COMPLETE", stack.reason
    assert stack.id not in manager.unreadable
    await manager.store.flush()
    return [(event.name, event.status, event.reason) for event in manager.events(stack)]


async def prepared(folder: Path, source: Source, platform: Any) -> dict[str, str]:
    """A stack that was made by a daemon that has ended; the ids of its records by their names."""
    manager = await opened(folder, platform)
    stack = await made(manager, "s", source)
    ids = {"": stack.id} | {record.name: record.id for record in manager.records(stack)}
    for child in manager.stacks.values():
        if child.parent:
            ids["child"] = child.id
            ids |= {f"child.{record.name}": record.id for record in manager.records(child)}
    await manager.close()
    return ids


async def test_what_a_type_need_not_know_hinders_nothing(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    ids = await prepared(tmp_path, hot(a=SERVER, b=SERVER), platform)
    spoil(tmp_path, "resource", ids["a"], requires=7, created="today")
    manager = await opened(tmp_path, platform)
    events = await deleted(manager, "s")
    await manager.close()
    assert (platform.stored, rows(tmp_path, "resource")) == ({}, 0)
    assert ("a", "DELETE_COMPLETE", "") in events


@pytest.mark.parametrize("changes", [{}, {"data": 7}])
async def test_the_guest_of_a_lost_record_goes_and_what_is_kept_stays(tmp_path: Path, changes: dict[str, Any]) -> None:
    platform = MemoryPlatform()
    ids = await prepared(tmp_path, hot(a=SERVER, kept={**SERVER, "deletion_policy": "retain"}), platform)
    spoil(tmp_path, "resource", ids["a"], **changes)
    manager = await opened(tmp_path, platform)
    assert list(guests(platform)) == ["a", "kept"], "it runs on until somebody asks"
    events = await deleted(manager, "s")
    await manager.close()
    assert list(guests(platform)) == ["kept"]
    assert rows(tmp_path, "resource") == 0
    (told,) = [reason for name, status, reason in events if (name, status) == ("a", "DELETE_SKIPPED")]
    assert told.startswith("OS::Nova::Server")
    assert "by hand" in told
    assert any("claims a-" in reason for _, _, reason in events)
    assert events[-1][2] == "Not everything is known of [a]: their events say what"


async def test_a_crash_on_the_way_takes_no_kept_guest_for_a_lost_one(tmp_path: Path) -> None:
    """The record of what is kept is gone by then, those that are lost are there yet."""
    platform = WithVolumes()
    ids = await prepared(tmp_path, hot(a=SERVER, kept={**SERVER, "deletion_policy": "retain"}), platform)
    spoil(tmp_path, "resource", ids["a"])
    manager = await opened(tmp_path, platform)
    platform.waits = asyncio.Event()
    await manager.delete(manager.get("s", aside=True))
    while ids["a"] not in platform.released:
        await asyncio.sleep(0.01)
    await manager.store.flush()
    await manager.close()
    assert rows(tmp_path, "resource") == 1
    platform.waits.set()
    again = await opened(tmp_path, platform)
    stack = again.stacks[ids[""]]
    await again.wait(stack)
    await gone(again, stack)
    await again.close()
    assert list(guests(platform)) == ["kept"]
    assert rows(tmp_path, "resource") == 0


async def test_a_crash_before_anything_was_looked_at(tmp_path: Path) -> None:
    """What can not be read is found unreadable again, by a deletion that is carried on."""
    platform = MemoryPlatform()
    ids = await prepared(tmp_path, hot(a=SERVER), platform)
    manager = await opened(tmp_path, platform)
    stack = manager.get("s")
    manager._begin = lambda _: None  # type: ignore[method-assign]  # the daemon ends once it has promised
    await manager.delete(stack)
    await manager.close()
    spoil(tmp_path, "resource", ids["a"])
    again = await opened(tmp_path, platform)
    stack = again.stacks[ids[""]]
    await again.wait(stack)
    await gone(again, stack)
    await again.close()
    assert platform.stored == {}


async def test_of_a_stack_nothing_can_be_read(tmp_path: Path) -> None:
    """Its resources say what they are; the guest of the one that does not is known by the stack's id."""
    platform = MemoryPlatform()
    ids = await prepared(tmp_path, cfn(A=instance(), B=instance()), platform)
    spoil(tmp_path, "stack", ids[""])
    spoil(tmp_path, "resource", ids["B"])
    spoil(tmp_path, "resource", ids["A"])
    manager = await opened(tmp_path, platform)
    events = await deleted(manager, ids[""])
    await manager.close()
    assert platform.stored == {}
    assert sum("of a type that is not known" in reason for _, _, reason in events) == 2


@pytest.mark.parametrize("lost", ["child", "child.deep", "nested", ""])
async def test_nested_stacks(tmp_path: Path, lost: str) -> None:
    inner = {"heat_template_version": "2018-08-31", "resources": {"deep": SERVER}}
    template = {"heat_template_version": "2018-08-31", "resources": {"nested": {"type": "inner.yaml"}}}
    source = Source(template=json.dumps(template), files={"inner.yaml": json.dumps(inner)})
    platform = MemoryPlatform()
    ids = await prepared(tmp_path, source, platform)
    spoil(tmp_path, "stack" if lost in ("child", "") else "resource", ids[lost])
    manager = await opened(tmp_path, platform)
    assert [stack.parent for stack in manager.stacks.values() if stack.id == ids["child"]] == [ids[""]]
    (theirs,) = platform.stored
    assert manager.owner_of_deployable(theirs) == manager.stacks[ids[""]].name, "nobody else may change it"
    await deleted(manager, ids[""])
    assert manager.owner_of_deployable(theirs) == ""
    assert not [stack for stack in manager.stacks.values() if stack.live]
    await manager.close()
    assert (platform.stored, rows(tmp_path, "resource")) == ({}, 0)


@pytest.mark.parametrize("policy", ["Delete", "Retain", None])
async def test_a_volume_goes_only_when_it_is_known_that_it_may(tmp_path: Path, policy: str | None) -> None:
    platform = WithVolumes()
    volume = {"Type": "AWS::EC2::Volume", "Properties": {"Size": "1", "AvailabilityZone": "a"}}
    ids = await prepared(tmp_path, cfn(V=volume | ({"DeletionPolicy": policy} if policy else {})), platform)
    spoil(tmp_path, "resource", ids["V"])
    if policy is None:
        spoil(tmp_path, "stack", ids[""], source=7)
    manager = await opened(tmp_path, platform)
    (kept,) = platform.volume_ids
    events = await deleted(manager, "s")
    await manager.close()
    assert platform.volume_ids == (set() if policy == "Delete" else {kept})
    (told,) = [reason for _, status, reason in events if status == "DELETE_SKIPPED"]
    wanted = {
        "Delete": f"deleted: the volume {kept}",
        "Retain": "its policy is Retain",
        None: f"left: the volume {kept}",
    }
    assert wanted[policy] in told


async def test_an_unknown_policy_keeps_what_is_known_otherwise(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    ids = await prepared(tmp_path, hot(a=SERVER), platform)
    spoil(tmp_path, "resource", ids["a"], deletion_policy=7)
    spoil(tmp_path, "stack", ids[""], source=7)
    manager = await opened(tmp_path, platform)
    events = await deleted(manager, "s")
    await manager.close()
    assert list(guests(platform)) == ["a"]
    assert any("not whether it may be deleted" in reason for _, _, reason in events)


async def test_guests_of_others_keep_what_guests_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether a stack that can not be read has some."""
    platform, left = MemoryPlatform(), []

    async def release() -> None:
        left.append("released")

    monkeypatch.setattr(platform, "release", release)
    manager = await opened(tmp_path, platform)
    first = await made(manager, "first", hot(a=SERVER))
    await made(manager, "second", hot(a=SERVER))
    await manager.close()
    spoil(tmp_path, "stack", first.id)
    again = await opened(tmp_path, platform)
    await deleted(again, "second")
    assert left == []
    await deleted(again, first.id)
    await again.close()
    assert left == ["released"]


async def test_clients_see_it_with_its_reason_and_delete_it(tmp_path: Path) -> None:
    ids = await prepared(tmp_path, hot(a=VALUE), NoPlatform())
    spoil(tmp_path, "resource", ids["a"])
    manager = await opened(tmp_path, NoPlatform())
    async with (
        serving(heat_app(manager, {"good": "admin"}.get)) as heat,
        serving(cloudformation_app(manager, {"good": "admin"}.get)) as query,
        httpx2.AsyncClient(headers={"X-Auth-Token": "good"}, follow_redirects=True) as client,
    ):
        (listed,) = (await client.get(f"{heat}/v1/admin/stacks")).json()["stacks"]
        shown = (await client.get(f"{heat}/v1/admin/stacks/s")).json()["stack"]
        told = (await client.get(f"{heat}/v1/admin/stacks/s/events")).json()["events"]
        assert "can not be read" in listed["stack_status_reason"]
        assert listed["stack_status_reason"] == shown["stack_status_reason"] == told[-1]["resource_status_reason"]
        assert (await client.get(f"{heat}/v1/admin/stacks/s/resources")).status_code == 409

        boto = Server(manager, query)
        for answer in (await boto.call("describe_stacks"), await boto.call("describe_stacks", StackName="s")):
            assert "can not be read" in answer["Stacks"][0]["StackStatusReason"]
        (summary,) = (await boto.call("list_stacks"))["StackSummaries"]
        assert "can not be read" in summary["StackStatusReason"]
        assert (await boto.call("describe_stack_events", StackName="s"))["StackEvents"]
        await boto.call("delete_stack", StackName="s")
        await boto.wait("stack_delete_complete", ids[""])
        assert (await client.get(f"{heat}/v1/admin/stacks")).json()["stacks"] == []
    await manager.close()


async def test_heat_deletes_one_that_has_no_name_any_more(tmp_path: Path) -> None:
    ids = await prepared(tmp_path, hot(a=VALUE), NoPlatform())
    spoil(tmp_path, "stack", ids[""])
    manager = await opened(tmp_path, NoPlatform())
    async with (
        serving(heat_app(manager, {"good": "admin"}.get)) as heat,
        httpx2.AsyncClient(headers={"X-Auth-Token": "good"}, follow_redirects=True) as client,
    ):
        (listed,) = (await client.get(f"{heat}/v1/admin/stacks")).json()["stacks"]
        assert listed["stack_name"] == ids[""]
        assert (await client.delete(f"{heat}/v1/admin/stacks/{ids['']}")).status_code == 204
        await manager.wait(manager.stacks[ids[""]])
        assert (await client.get(f"{heat}/v1/admin/stacks")).json()["stacks"] == []
    await manager.close()


async def test_termination_protection_holds(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("s", hot(a=VALUE), protected=True)
    await manager.wait(stack)
    await manager.close()
    spoil(tmp_path, "stack", stack.id, generation="many")
    again = await opened(tmp_path, platform)
    with pytest.raises(Conflict, match="TerminationProtection is enabled"):
        await again.delete(again.get("s", aside=True))
    await again.close()
