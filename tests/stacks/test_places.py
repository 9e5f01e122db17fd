"""Where guests of stacks are made: what each infrastructure can do for them is data; what it lacks is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pcloud.cpe.settings import StackSettings
from pcloud.environment.infrastructure import InfrastructureUnavailable
from pcloud.infrastructure.checks import checks_of
from pcloud.infrastructure.lxc_guest_network import LxcGuestNetwork
from pcloud.model.deployable import Assembly, AttachedVolume, Deployable
from pcloud.model.errors import InvalidDocument, PcloudError, Unavailable
from pcloud.stacks.engine import manager as manager_module
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.guests.platform import EnginePlatform
from pcloud.stacks.records import Source
from pcloud.stacks.store import SqliteStore
from tests.stacks.lifecycle import opened
from tests.stacks.memory_platform import MemoryPlatform
from tests.stacks.templates import cfn, instance

VOLUME = {"Type": "AWS::EC2::Volume", "Properties": {"AvailabilityZone": "any", "Size": "1"}}
GROUP = {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": "none"}}


def planner(
    tmp_path: Path, infrastructure: str, *, stacks: StackSettings | None = None, **settings: Any
) -> StackManager:
    """Stacks of a daemon with these settings, whose engine is never asked."""
    engine: Any = SimpleNamespace(
        home=SimpleNamespace(path=tmp_path),
        settings=SimpleNamespace(infrastructures={infrastructure: settings}),
        desired=SimpleNamespace(rows={}),
    )
    return StackManager(
        SqliteStore(":memory:"), EnginePlatform(engine, stacks or StackSettings(infrastructure=infrastructure))
    )


def refusals(manager: StackManager, **resources: Mapping[str, Any]) -> str:
    with pytest.raises(InvalidDocument) as caught:
        manager.plan(None, cfn(**resources))
    return " / ".join(problem.message for problem in caught.value.problems)


async def test_the_plan_says_where_guests_are_made(tmp_path: Path) -> None:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
    for name in ("lxc", "libvirt"):
        planned = planner(tmp_path, name).plan(None, cfn(S=instance()))
        assert f"guests are made on {name}" in planned.notes
    values = Source(template=json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {
        "W": {"Type": "AWS::CloudFormation::WaitConditionHandle"}}}))  # fmt: skip
    assert planner(tmp_path, "lxc").plan(None, values).notes == ()


async def test_machines_have_volumes_where_libvirtd_is_on_this_host(tmp_path: Path) -> None:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
    copied = {"Type": "AWS::EC2::Volume", "Properties": {"AvailabilityZone": "any", "SnapshotId": "snap-1"}}
    assert (
        "guests are made on libvirt"
        in planner(tmp_path, "libvirt").plan(None, cfn(S=instance(), V=VOLUME, W=copied)).notes
    )
    told = refusals(planner(tmp_path, "libvirt", uri="qemu+ssh://root@elsewhere.example/system"), V=VOLUME)
    assert told.startswith("AWS::EC2::Volume is refused: this platform has no ")
    assert "libvirtd is on another host" in told


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"network": "user"}, "user-mode networking"),
        ({"uri": "qemu+ssh://root@elsewhere.example/system"}, "libvirtd is on another host"),
    ],
)
async def test_machines_that_can_not_reach_this_daemon_are_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    told = refusals(planner(tmp_path, "libvirt", **settings), S=instance())
    assert told.startswith("AWS::EC2::Instance is refused: this platform has no guests (")
    assert reason in told
    pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
    warned = [each for each in checks_of("libvirt", settings) if each.check == "libvirt: network"]
    assert [each.state for each in warned] == ["warning"]
    assert reason in warned[0].detail


async def test_security_groups_need_bridged_packets_to_be_filtered(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
    monkeypatch.setattr("pcloud.infrastructure.libvirt_checks._BRIDGED", tmp_path / "none")
    told = refusals(planner(tmp_path, "libvirt"), S=instance(), G=GROUP)
    assert told.startswith("AWS::EC2::SecurityGroup is refused: this platform has no firewall (")
    assert "modprobe br_netfilter" in told


def test_an_unknown_infrastructure_is_told(tmp_path: Path) -> None:
    with pytest.raises(PcloudError, match="there is no infrastructure 'nowhere'"):
        planner(tmp_path, "nowhere")


async def test_a_stack_stays_where_its_guests_are(tmp_path: Path) -> None:
    """The setting was changed: what is there can be changed and deleted, a new server can not be made elsewhere."""
    platform = MemoryPlatform()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("stays", cfn(A=instance()))
    await manager.wait(stack)
    (before,) = platform.stored.values()
    platform.infrastructure = "elsewhere"
    platform.capabilities -= {"resize"}
    await manager.update(stack, cfn(A=instance(), B=instance()))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    assert "a stack has one infrastructure" in stack.reason or any(
        "a stack has one infrastructure" in event.reason for event in manager.store.events(stack.id)
    )
    (after,) = platform.stored.values()
    assert (after.infrastructure, len(after.assemblies)) == (before.infrastructure, 1)
    await manager.update(stack, cfn(A=instance(InstanceType="m1.large")))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    (after,) = platform.stored.values()
    assert after == before, "a server on it keeps its size"
    platform.capabilities |= {"resize"}
    await manager.update(stack, cfn(A=instance(InstanceType="m1.large")))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE"
    await manager.close()


class AwayPlatform(MemoryPlatform):
    """Its infrastructure does not answer while `away`."""

    reached = 0

    async def prepare(self) -> str:
        if self.away:
            raise Unavailable.of("NO_BRIDGE", "libvirtd does not answer")
        self.reached += 1
        return ""


async def test_a_daemon_starts_while_the_infrastructure_of_its_guests_is_away(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(manager_module, "_AGAIN", 0.01)
    platform = AwayPlatform()
    manager = await opened(tmp_path, platform)
    await manager.wait(await manager.create("there", cfn(S=instance())))
    await manager.close()
    platform.away, platform.reached = True, 0
    again = await opened(tmp_path, platform)
    assert again.get("there").status == "CREATE_COMPLETE"
    assert platform.reached == 0
    platform.away = False
    async with asyncio.timeout(60):
        while not platform.reached:
            await asyncio.sleep(0.01)
    await again.close()


async def test_a_cloud_must_be_told_where_guests_reach_this_daemon(tmp_path: Path) -> None:
    pytest.importorskip("openstack", reason="openstacksdk is not installed")
    told = refusals(planner(tmp_path, "openstack"), S=instance())
    assert told.startswith("AWS::EC2::Instance is refused: this platform has no guests (")
    assert "stacks.guest_url" in told
    reached = StackSettings(infrastructure="openstack", guest_url="http://192.0.2.7:8000/", transport="none")
    manager = planner(tmp_path, "openstack", stacks=reached)
    assert "guests are made on openstack" in manager.plan(None, cfn(S=instance(), G=GROUP)).notes
    assert await manager.platform.prepare() == "http://192.0.2.7:8000"
    assert "this platform has no volumes" in refusals(manager, V=VOLUME)
    assert "this platform has no addresses" in refusals(manager, A={"Type": "AWS::EC2::EIP"})
    told = refusals(manager, D={"Type": "PCloud::Resource", "Properties": {"assembly": "x", "template": "nginx"}})
    assert "no access (stacks.transport is none: nothing in guests is reached)" in told


async def test_an_outage_tells_nothing_of_a_guest(tmp_path: Path, monkeypatch) -> None:
    """Whoever waits for a guest's end waits on; whoever wants something of the infrastructure is told."""
    platform = planner(tmp_path, "lxc").platform

    async def away(*_: Any) -> bool:
        raise InfrastructureUnavailable("it does not answer")

    for name in ("holds", "take"):
        monkeypatch.setattr(LxcGuestNetwork, name, away)
    platform._engine.desired.rows["d"] = SimpleNamespace(loaded=True, infrastructure="lxc")  # type: ignore[attr-defined]
    assert await platform.holds_guest("d", "a")
    with pytest.raises(Unavailable, match="it does not answer"):
        await platform.allocate_address("a")
    with pytest.raises(Unavailable, match="it does not answer"):
        await platform.prepare()
    await platform.close()  # type: ignore[attr-defined]


def test_machines_are_given_time_until_their_agent_answers(tmp_path: Path) -> None:
    assert Deployable(name="x").infrastructure == "lxc"
    for name, least in (("lxc", 0.0), ("openstack", 600.0)):
        assert planner(tmp_path, name).platform.start_timeout == least


async def test_who_is_slow_takes_off_nothing_that_others_attached_meanwhile(tmp_path: Path, monkeypatch) -> None:
    """Two resources settle one guest: the first has asked what is wanted before the second's volume was."""
    platform: Any = planner(tmp_path, "lxc").platform
    changing, go_on, attached = asyncio.Event(), asyncio.Event(), []
    wanted: list[AttachedVolume] = []

    async def definition(_: str) -> Deployable:
        assembly = Assembly(name="web", volumes=tuple(wanted))
        return Deployable(name="shop", assemblies=(assembly,))

    async def slowly(*_: Any) -> None:
        changing.set()
        await go_on.wait()

    async def attach(guest: str, volumes: Any) -> None:
        attached.append((guest, tuple(volumes)))

    place = SimpleNamespace(changes=SimpleNamespace(settle=slowly), volumes=SimpleNamespace(attach=attach))
    monkeypatch.setattr(platform, "definition", definition)
    monkeypatch.setattr(platform, "_at", lambda _: place)
    first = asyncio.create_task(platform.settle("shop", "web"))
    async with asyncio.timeout(60):
        await changing.wait()
        wanted.append(AttachedVolume(volume="vol-1", device="/dev/vdb"))
        go_on.set()
        await platform.settle("shop", "web")
        await first
    assert attached == [("shop.web", tuple(wanted))] * 2
