"""Guests of stacks over a platform that keeps definitions in memory: one deployable, single changes, crashes, refusals."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pcloud.cpe.settings import StackSettings, StackSize
from pcloud.infrastructure import lxc_firewall, lxc_groups
from pcloud.model.deployable import Assembly, AttachedVolume, Deployable, FirewallRule, ResourceState
from pcloud.model.errors import InvalidDocument
from pcloud.model.status import DeployableStatus
from pcloud.stacks.guests import seed
from pcloud.stacks.guests.catalogue import Catalogue, tables
from pcloud.stacks.guests.platform import loses
from pcloud.stacks.records import Source
from pcloud.stacks.types.database import sql
from tests.stacks.lifecycle import opened
from tests.stacks.memory_platform import JEOS, MemoryPlatform
from tests.stacks.templates import cfn, instance


async def test_servers_are_assemblies_of_one_deployable(tmp_path: Path) -> None:
    """Made at the same time, each by one change; changed and deleted without touching the others."""
    platform = MemoryPlatform()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("many", cfn(**{f"S{number}": instance() for number in range(20)}))
    await manager.wait(stack)
    assert (stack.status, stack.reason) == ("CREATE_COMPLETE", "")
    (deployable,) = platform.stored.values()
    assert len(deployable.assemblies) == 20
    assert len(platform.applied) == 20
    assert [len(each.assemblies) for each in platform.applied] == list(range(1, 21))

    before = {one.name: one for one in deployable.assemblies}
    source = cfn(**{f"S{number}": instance() for number in range(1, 20)}, new=instance(InstanceType="m1.large"))
    await manager.update(stack, source)
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    after = {one.name: one for one in platform.stored[deployable.name].assemblies}
    assert len(before.keys() & after.keys()) == 19
    assert all(before[name] == after[name] for name in before.keys() & after.keys())
    assert [after[name].memory for name in after.keys() - before.keys()] == [4096]

    await manager.delete(stack)
    await manager.wait(stack)
    assert (stack.status, platform.stored) == ("DELETE_COMPLETE", {})
    await manager.close()


async def test_a_crash_does_not_make_two(tmp_path: Path) -> None:
    """A daemon that ends while a guest is being made carries on with the same guest, keys and user data included."""
    platform = MemoryPlatform()
    platform.hold = asyncio.Event()
    manager = await opened(tmp_path, platform)
    await manager.create("one", cfn(S=instance(UserData=base64.b64encode(b"#!/bin/sh\n").decode())))
    while not platform.applied:
        await asyncio.sleep(0.01)
    await manager.close()
    platform.hold.set()
    again = await opened(tmp_path, platform)
    stack = again.get("one")
    await again.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    (deployable,) = platform.stored.values()
    assert len(deployable.assemblies) == 1
    assert all(each.assemblies == deployable.assemblies for each in platform.applied)
    await again.close()


async def test_a_guest_that_can_not_be_made_fails_the_stack(tmp_path: Path) -> None:
    """The engine's reason is told, and everything is undone."""
    platform = MemoryPlatform()
    platform.failing = "its image could not be built: no such package"
    manager = await opened(tmp_path, platform)
    stack = await manager.create("bad", cfn(S=instance()))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "no such package" in stack.reason
    assert platform.stored == {}
    await manager.close()


async def test_a_blocked_deployable_fails_its_guests(tmp_path: Path) -> None:
    """Nobody waits half an hour for what will not come without an operator."""

    class Blocked(MemoryPlatform):
        async def status(self, name: str) -> DeployableStatus | None:
            found = await super().status(name)
            if found is None or not found.assemblies:
                return found
            parts = tuple(
                msgspec.structs.replace(one, state=ResourceState.STARTING, answers=False) for one in found.assemblies
            )
            changes = {"state": ResourceState.BLOCKED, "reason": "no decision can be made", "assemblies": parts}
            return msgspec.structs.replace(found, **changes)

    platform = Blocked()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("stuck", cfn(S=instance()))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "no decision can be made" in stack.reason
    await manager.close()


async def test_what_was_so_before_a_change_fails_no_guest(tmp_path: Path) -> None:
    """The engine says for a moment still what became of the deployable before: it was given up."""

    class Late(MemoryPlatform):
        stale = 0

        async def apply(self, deployable: Deployable) -> None:
            self.stale = 3 if deployable.name in self.stored else 0
            await super().apply(deployable)

        async def status(self, name: str) -> DeployableStatus | None:
            found = await super().status(name)
            if found is None or not self.stale:
                return found
            self.stale -= 1
            lost = tuple(msgspec.structs.replace(one, state=ResourceState.UNRECOVERABLE) for one in found.assemblies)
            changes = {"state": ResourceState.FAILED, "reason": "given up", "change": "pending", "assemblies": lost}
            return msgspec.structs.replace(found, **changes)

    platform = Late()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("late", cfn(S=instance()))
    await manager.wait(stack)
    await manager.update(stack, cfn(S=instance(InstanceType="m1.large")))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    await manager.close()


async def test_a_changed_deployable_is_waited_for(tmp_path: Path) -> None:
    """What runs before the change is not what was asked for; a change that can not be made says so."""

    class Changing(MemoryPlatform):
        change = ""
        asked = 0

        def read(self, document: Mapping[str, Any]) -> Deployable:
            web = Assembly(name="web", image="bookworm", memory=document["memory"])
            return Deployable(name=document["deployable"], assemblies=(web,))

        async def status(self, name: str) -> DeployableStatus | None:
            found = await super().status(name)
            self.asked += 1
            if found is None or not self.change:
                return found
            state = ResourceState.FAILED if self.change == "pending" else ResourceState.RUNNING
            return msgspec.structs.replace(found, state=state, change=self.change, reason="no such package")

    def shop(memory: int) -> Source:
        manifest = {"deployable": "shop", "memory": memory}
        return cfn(D={"Type": "PCloud::Deployable", "Properties": {"manifest": manifest}})

    platform = Changing()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("one", shop(256))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    for change in ("pending", "building"):
        platform.change, platform.asked = change, 0
        await manager.update(stack, shop(512 if change == "pending" else 768))
        async with asyncio.timeout(60):
            while stack.busy and platform.asked < 2:
                await asyncio.sleep(0.01)
        assert stack.busy, (change, stack.status)
        platform.change = ""
        await manager.wait(stack)
        assert stack.status == "UPDATE_COMPLETE", stack.reason
    platform.change = "failed"
    await manager.update(stack, shop(1024), on_failure="DO_NOTHING")
    await manager.wait(stack)
    assert (stack.status, "no such package" in stack.reason) == ("UPDATE_FAILED", True)
    await manager.close()


async def test_a_ports_name_is_known_and_changes_in_place(tmp_path: Path) -> None:
    class Giving(MemoryPlatform):
        async def allocate_address(self, holder: str, wanted: str = "") -> str:
            return "192.0.2.7/24"

    def template(**properties: str) -> Source:
        body = {
            "heat_template_version": "2018-08-31",
            "resources": {"port": {"type": "OS::Neutron::Port", "properties": properties}},
            "outputs": {"name": {"value": {"get_attr": ["port", "name"]}}, "id": {"value": {"get_resource": "port"}}},
        }
        return Source(template=json.dumps(body))

    manager = await opened(tmp_path, Giving())
    stack = await manager.create("ports", template())
    await manager.wait(stack)
    before = {key: output["value"] for key, output in stack.outputs.items()}
    assert before["name"].startswith("ports-port-")
    await manager.update(stack, template(name="front"))
    await manager.wait(stack)
    assert {key: output["value"] for key, output in stack.outputs.items()} == {**before, "name": "front"}
    await manager.close()


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"ImageId": "BeOS"}, "no image here is meant by 'BeOS'"),
        ({"ImageId": "noble"}, "the image 'noble' has neither cloud-init nor heat-cfntools"),
        ({"InstanceType": "z9.huge"}, "'z9.huge' is no size"),
        ({"SubnetId": "subnet-1"}, "can not be honoured"),
        ({"Volumes": [{"Device": "/dev/vdb", "VolumeId": "vol-1"}]}, "this platform has no volumes"),
    ],
)
async def test_refused_before_anything_starts(tmp_path: Path, properties: dict[str, Any], says: str) -> None:
    """Nothing is stored."""
    platform = MemoryPlatform()
    manager = await opened(tmp_path, platform)
    with pytest.raises(InvalidDocument, match=says):
        await manager.create("no", cfn(S=instance(**properties)))
    assert platform.applied == []
    await manager.close()


async def test_changed_rules_reach_the_guests_that_name_the_group(tmp_path: Path) -> None:
    """The group and the guest stay as they are; the guest gets the rules, without a restart."""

    def source(port: int) -> Source:
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "10.0.0.0/8"}
        group = {"Type": "AWS::EC2::SecurityGroup"}
        group["Properties"] = {"GroupDescription": "x", "SecurityGroupIngress": [rule]}  # type: ignore[assignment]
        return cfn(G=group, S=instance(SecurityGroups=[{"Ref": "G"}]))

    platform = MemoryPlatform()
    manager = await opened(tmp_path, platform)
    stack = await manager.create("walled", source(80))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    (before,) = next(iter(platform.stored.values())).assemblies
    group, settled = manager.current(stack)["G"].physical, len(platform.settled)
    await manager.update(stack, source(443))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert manager.current(stack)["G"].physical == group
    (after,) = next(iter(platform.stored.values())).assemblies
    assert after.firewall == (FirewallRule(protocol="tcp", first=443, last=443, network="10.0.0.0/8"),)
    assert (after.name, after.seed) == (before.name, before.seed)
    assert platform.settled[settled:] == [(next(iter(platform.stored)), after.name)]
    await manager.close()


def test_firewall_rules_are_written_as_data(tmp_path: Path) -> None:
    """Only checked words come into the script; this host reaches what it must; a group is a set that a file fills."""
    text = lxc_firewall.script(
        [
            FirewallRule(protocol="tcp", first=80, last=90, network="192.0.2.7/24"),
            FirewallRule(protocol="udp", first=53, last=53),
            FirewallRule(direction="out", protocol="tcp", first=25, last=25, network="0.0.0.0/0"),
            FirewallRule(protocol="tcp", first=3306, last=3306, group='web"; accept'),
            FirewallRule(direction="out", group='web"; accept'),
            FirewallRule(protocol="icmp", icmp=8, network="10.0.0.0/8"),
        ],
        ipaddress.IPv4Address("10.88.0.1"),
        lxc_groups.Groups(tmp_path),
    )
    name = lxc_groups.set_name('web"; accept')
    assert name.isalnum()
    assert f"set {name} {{ type ipv4_addr; }}" in text
    assert f"ip saddr @{name} tcp dport 3306 accept" in text
    assert f"ip daddr @{name} accept" in text
    assert f'include "{tmp_path}/groups/{name}/elements.nft"' in text
    assert "ip saddr 10.0.0.0/8 icmp type 8 accept" in text
    assert "ip saddr 192.0.2.0/24 tcp dport 80-90 accept" in text
    assert "udp dport 53 accept" in text
    assert "meta nfproto ipv4 tcp dport 25 accept" in text
    assert "ip saddr 10.88.0.1 tcp dport { 22, 3121 } accept" in text
    assert text.count("counter drop") == 2


def test_the_catalogue_means_what_it_says() -> None:
    """Names, patterns, the operator's own; packages and services exist in it once."""
    mine = StackSettings(
        images={"F17-special": "bookworm", "bare": "noble", "cloud": "somebodys"}, sizes={"tiny": StackSize(memory=64)}
    )
    catalogue = Catalogue(mine, JEOS)
    assert catalogue.image("F17-x86_64-cfntools") == "bookworm-cfntools"
    assert catalogue.image("F17-special") == "bookworm-cfntools"
    assert catalogue.image("bookworm") == "bookworm-cfntools"
    assert catalogue.image("bare") is None
    assert catalogue.meaning("bare") == "noble"
    assert catalogue.image("cloud") == "somebodys"
    assert catalogue.image("Plan9") is None
    assert catalogue.size("tiny") == StackSize(memory=64)
    assert catalogue.size("huge") is None
    assert all(name for meant in tables().packages.values() for name in meant.packages)


def test_what_a_guest_gets() -> None:
    """Mapped packages and their files for the image; services after the user data; user data decoded."""
    config = {
        "packages": {"yum": {"httpd": [], "wordpress": [], "unheard-of": []}, "apt": {"tree": []}},
        "services": {"systemd": {"httpd": {"ensureRunning": "true"}, "mysqld": {"ensureRunning": "false"}}},
    }
    metadata = {seed.INIT: {"configSets": {"default": ["config"]}, "config": config}}
    packages, files, commands, _ = seed.image_parts(metadata)
    assert {"apache2", "wordpress", "tree"} <= set(packages)
    assert "unheard-of" not in packages
    assert "/usr/share/wordpress/wp-config.php" in dict(files)
    assert len(commands) == len(set(commands))
    assert [(one.name, one.after) for one in seed.resources(metadata)] == [
        ("user-data", ()),
        ("apache2", ("user-data",)),
    ]
    assert seed.decoded(base64.b64encode(b"#!/bin/sh\n").decode()) == "#!/bin/sh\n"
    assert seed.decoded("#!/bin/sh\n") == "#!/bin/sh\n"
    assert seed.resources({}) == ()
    for hostile in ({seed.INIT: []}, {seed.INIT: {"config": {"packages": 3, "services": {"systemd": None}}}}):
        seed.image_parts(hostile)
        assert seed.resources(hostile) == ()


def test_a_databases_password_is_text() -> None:
    """No character of it ends the statement."""
    text = sql({"MasterUsername": "keeper", "MasterUserPassword": "a'b\\", "DBName": "shop"})
    assert "IDENTIFIED BY 'a''b\\\\';" in text


def test_what_only_loses_something_is_not_started_for_that() -> None:
    one, two = Assembly(name="one", image="bookworm"), Assembly(name="two", image="bookworm")
    disk = (AttachedVolume(volume="vol-1", device="/dev/vdb"),)
    with_disk = msgspec.structs.replace(one, volumes=disk)

    def of(*assemblies: Assembly) -> Deployable:
        return Deployable(name="shop", assemblies=assemblies)

    assert loses(of(one, two), of(one))
    assert loses(of(with_disk, two), of(one, two))
    assert not loses(of(one), of(one, two))
    assert not loses(of(one), of(one)), "asked for as it is, it is to run"
    assert not loses(of(with_disk), of(msgspec.structs.replace(one, memory=1)))
