"""Elastic and floating addresses of stacks on a cloud: where they are taken they are given back, and none is taken twice."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from pcloud.cpe.settings import StackSettings
from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable
from pcloud.model.errors import InvalidDocument, Unavailable
from pcloud.stacks.engine.manager import StackManager
from tests.infrastructure.neutron import Neutron
from tests.infrastructure.test_openstack_addresses import driver
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_platform import MemoryPlatform, guests
from tests.stacks.templates import cfn, hot, instance, ref
from tests.stacks.test_places import planner, refusals

EIP = {"Type": "AWS::EC2::EIP"}


class Cloud(MemoryPlatform):
    """Guests in memory, whose addresses are those of a Neutron in memory."""

    infrastructure = "openstack"

    def __init__(self) -> None:
        super().__init__()
        self.neutron = Neutron()
        self.given = driver(self.neutron)
        self.stuck = False
        """Whether nobody learns any more what was taken."""
        self.reason = ""
        self.released: list[str] = []

    async def offers_addresses(self) -> None:
        if self.reason:
            raise Unavailable.of("NO_ADDRESS", self.reason)

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        try:
            taken = await self.given.take(holder, wanted)
        except InfrastructureError as problem:
            raise Unavailable.of("NO_ADDRESS", str(problem)) from problem
        if self.stuck:
            await asyncio.Event().wait()
        return taken

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        self.released.append(infrastructure)
        await self.given.give_back(holder)


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
async def manager(tmp_path: Path, cloud: Cloud):
    manager = await opened(tmp_path, cloud)
    yield manager
    await manager.close()


async def test_an_address_goes_from_guest_to_guest_and_with_its_stack(manager: StackManager, cloud: Cloud) -> None:
    stack = await made(
        manager, "moves", cfn(A=instance(), B=instance(), E={**EIP, "Properties": {"InstanceId": ref("A")}})
    )
    assert guests(cloud)["a"].addresses == ("203.0.113.1/32",)
    assert manager.current(stack)["E"].attributes["PublicIp"] == "203.0.113.1"
    await changed(manager, stack, cfn(A=instance(), B=instance(), E={**EIP, "Properties": {"InstanceId": ref("B")}}))
    assert (guests(cloud)["a"].addresses, guests(cloud)["b"].addresses) == ((), ("203.0.113.1/32",))
    await manager.delete(stack)
    await manager.wait(stack)
    assert cloud.neutron.addresses == {}
    assert cloud.neutron.made == 1


async def test_a_heat_template_names_the_port_of_its_server(manager: StackManager, cloud: Cloud) -> None:
    port = {"get_attr": ["s", "addresses", "private", 0, "port"]}
    server = {"type": "OS::Nova::Server", "properties": {"image": "bookworm", "flavor": "m1.small"}}
    given = {"floating_network": "public", "port_id": port}
    stack = await made(manager, "heat", hot(s=server, f={"type": "OS::Neutron::FloatingIP", "properties": given}))
    assert guests(cloud)["s"].addresses == ("203.0.113.1/32",)
    await manager.delete(stack)
    await manager.wait(stack)
    assert cloud.neutron.addresses == {}


@pytest.mark.parametrize("deleted", [False, True])
async def test_one_that_was_taken_and_not_recorded_is_found_again(tmp_path: Path, cloud: Cloud, deleted: bool) -> None:
    """The daemon ends between the request and its record; its stack goes on, or is deleted."""
    cloud.stuck = True
    manager = await opened(tmp_path, cloud)
    stack = await manager.create("cut", cfn(E=EIP))
    async with asyncio.timeout(60):
        while not cloud.neutron.addresses:
            await asyncio.sleep(0.01)
    await manager.close()
    cloud.stuck = False
    again = await opened(tmp_path, cloud)
    stack = again.get("cut")
    if deleted:
        await again.delete(stack)
    await again.wait(stack)
    assert stack.status == ("DELETE_COMPLETE" if deleted else "CREATE_COMPLETE"), stack.reason
    assert cloud.neutron.made == 1
    assert len(cloud.neutron.addresses) == (0 if deleted else 1)
    await again.close()


async def test_it_is_given_back_where_it_was_taken(manager: StackManager, cloud: Cloud) -> None:
    """And no guest elsewhere gets it: the settings name another infrastructure meanwhile."""
    stack = await made(manager, "moved", cfn(E=EIP))
    cloud.infrastructure = "lxc"
    other = await manager.create("other", cfn(S=instance(), X={
        "Type": "AWS::EC2::EIPAssociation",
        "Properties": {"EIP": manager.current(stack)["E"].physical, "InstanceId": ref("S")},
    }))  # fmt: skip
    await manager.wait(other)
    assert other.status == "ROLLBACK_COMPLETE"
    reasons = [event.reason for event in manager.store.events(other.id)]
    assert any("the address is one of openstack, the guest is on lxc" in each for each in reasons)
    await manager.delete(stack)
    await manager.wait(stack)
    assert cloud.released == ["openstack"]


async def test_a_quota_fails_the_resource_and_leaves_nothing(manager: StackManager, cloud: Cloud) -> None:
    cloud.neutron.quota = 1
    stack = await manager.create("many", cfn(E=EIP, F=EIP))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert any("the quota is used up" in event.reason for event in manager.store.events(stack.id))
    assert cloud.neutron.addresses == {}


async def test_nothing_starts_where_the_cloud_gives_none(manager: StackManager, cloud: Cloud) -> None:
    cloud.reason = "there is no network 'outside'"
    stack = await manager.create("none", cfn(S=instance(), E=EIP))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert any(cloud.reason in event.reason for event in manager.store.events(stack.id))
    assert (cloud.applied, cloud.neutron.made) == ([], 0)
    await made(manager, "without", cfn(S=instance()))


async def test_the_settings_decide_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openstack", reason="openstacksdk is not installed")
    stacks = StackSettings(infrastructure="openstack", guest_url="http://192.0.2.7:8000/", transport="none")
    said = refusals(planner(tmp_path, "openstack", stacks=stacks), E=EIP)
    assert said.startswith(
        "AWS::EC2::EIP is refused: this platform has no addresses (infrastructures.openstack.floating_network"
    )
    manager = planner(tmp_path, "openstack", stacks=stacks, floating_network="outside")
    assert [change.action for change in manager.plan(None, cfn(S=instance(), E=EIP)).changes] == ["create", "create"]
    asked = {"type": "OS::Neutron::FloatingIP", "properties": {"floating_ip_address": "203.0.113.9"}}
    for refused, reason in (
        ({"type": "OS::Neutron::Port", "properties": {"network": "x"}}, "this platform has no network"),
        (asked, "'floating_ip_address' can not be honoured"),
    ):
        with pytest.raises(InvalidDocument, match=reason):
            manager.plan(None, hot(x=refused))
    given = manager.platform._place.apart  # type: ignore[attr-defined]
    for problem in (
        InfrastructureUnavailable("it does not answer"),
        InfrastructureError("there is none", permanent=True),
    ):
        monkeypatch.setattr(given, "offered", AsyncMock(side_effect=problem))
        known = not isinstance(problem, InfrastructureUnavailable)
        with pytest.raises(Unavailable, match="there is none") if known else contextlib.nullcontext():
            await manager.platform.offers_addresses()
    await manager.platform.close()  # type: ignore[attr-defined]
    without = planner(tmp_path, "openstack")
    with pytest.raises(Unavailable, match=r"an address of openstack can not be given back: .*stacks\.guest_url"):
        await without.platform.release_address("held", "openstack")
