"""Security groups over a platform that keeps definitions in memory: rules as templates write them, and groups in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pcloud.events.event import Event
from pcloud.model.deployable import FirewallRule
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_platform import MemoryPlatform, guests
from tests.stacks.templates import cfn, hot, instance, ref

ANY = "0.0.0.0/0"


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform()


def group(ingress: Any = None, egress: Any = None, **properties: Any) -> dict[str, Any]:
    given = {"GroupDescription": "x", "SecurityGroupIngress": ingress, "SecurityGroupEgress": egress, **properties}
    given = {key: value for key, value in given.items() if value is not None}
    return {"Type": "AWS::EC2::SecurityGroup", "Properties": given}


def rule(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::EC2::SecurityGroup{kind}", "Properties": properties}


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ({"IpProtocol": "-1", "CidrIp": ANY}, FirewallRule(network=ANY)),
        ({"IpProtocol": -1, "CidrIp": ANY}, FirewallRule(network=ANY)),
        ({"CidrIp": "10.0.0.0/8"}, FirewallRule(network="10.0.0.0/8")),
        (
            {"IpProtocol": "tcp", "FromPort": "80", "ToPort": "81", "CidrIp": ANY},
            FirewallRule(protocol="tcp", first=80, last=81, network=ANY),
        ),
        (
            {"IpProtocol": "6", "FromPort": 80, "ToPort": 80, "CidrIp": "10.1.2.3/8"},
            FirewallRule(protocol="tcp", first=80, last=80, network="10.0.0.0/8"),
        ),
        (
            {"IpProtocol": "icmp", "FromPort": "-1", "ToPort": "-1", "CidrIp": ANY},
            FirewallRule(protocol="icmp", network=ANY),
        ),
        ({"IpProtocol": "ICMP", "FromPort": 8, "CidrIp": ANY}, FirewallRule(protocol="icmp", icmp=8, network=ANY)),
        ({"IpProtocol": "udp", "CidrIpv6": "::/0"}, FirewallRule(protocol="udp", network="::/0")),
    ],
)
async def test_rules_as_templates_write_them(
    manager: StackManager, platform: MemoryPlatform, written: dict[str, Any], means: FirewallRule
) -> None:
    """One map stands for a list that holds it; numbers may be text."""
    server = instance(SecurityGroups=[ref("G")])
    await made(manager, "map", cfn(G=group(written), S=server))
    assert guests(platform)["s"].firewall == (means,)
    await made(manager, "list", cfn(G=group([written]), L=server))
    assert guests(platform)["l"].firewall == (means,)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}, "one of CidrIp, CidrIpv6 or another group"),
        ({"CidrIp": ANY, "SourceSecurityGroupName": "web"}, "one only"),
        ({"CidrIp": ANY, "CidrIpv6": "::/0"}, "one only"),
        ({"IpProtocol": "tcp", "FromPort": 90, "ToPort": 80, "CidrIp": ANY}, "90 to 80 is no range of ports"),
        ({"IpProtocol": "icmp", "FromPort": 256, "CidrIp": ANY}, "256 is no type of icmp message"),
        ({"IpProtocol": "carrier", "CidrIp": ANY}, "'carrier' is not tcp"),
        ({"CidrIp": "10.0.0.0/99"}, "10.0.0.0/99"),
        ({"SourcePrefixListId": "pl-1"}, "there are no lists of prefixes"),
    ],
)
async def test_what_is_no_rule_is_refused(manager: StackManager, written: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidDocument, match=says):
        await manager.create("no", cfn(G=group(written)))
    with pytest.raises(InvalidDocument, match=says):
        await manager.create("no", cfn(G=group(), R=rule("Ingress", GroupId=ref("G"), **written)))


async def test_rules_name_groups(manager: StackManager, platform: MemoryPlatform) -> None:
    """By id, by reference and by given name; the owner is told to mean nothing."""
    source = cfn(
        Web=group(GroupName="web"),
        Db=group(
            {"SourceSecurityGroupId": {"Fn::GetAtt": ["Web", "GroupId"]}},
            [{"DestinationSecurityGroupId": ref("Web")}, {"IpProtocol": "udp", "CidrIp": ANY}],
        ),
        W=instance(SecurityGroups=["web", "default"]),
        D=instance(SecurityGroupIds=[ref("Db")], SecurityGroups=[ref("Web")]),
        N=instance(SecurityGroups=["default"]),
    )
    stack = await made(manager, "named", source)
    web, database = (manager.current(stack)[name].physical for name in ("Web", "Db"))
    found = guests(platform)
    assert (found["w"].groups, found["w"].firewall) == ((web,), ())
    assert found["d"].groups == (database, web)
    assert found["d"].firewall == (
        FirewallRule(group=web),
        FirewallRule(direction="out", group=web),
        FirewallRule(direction="out", protocol="udp", network=ANY),
    )
    assert (found["n"].groups, found["n"].firewall) == ((), None)
    other = await manager.create("other", cfn(G=group({"SourceSecurityGroupName": "nobody"})))
    await manager.wait(other)
    assert "there is no security group nobody" in other.reason
    twice = await manager.create("twice", cfn(G=group(GroupName="web")))
    await manager.wait(twice)
    assert "there is a security group web already" in twice.reason


async def test_a_rule_of_its_own_reaches_guests_that_are_there(manager: StackManager, platform: MemoryPlatform) -> None:
    """It is in force while it is there; a group may name itself, and another stack's."""
    base = cfn(G=group(), S=instance(SecurityGroups=[ref("G")]))
    stack = await made(manager, "base", base)
    identity = manager.current(stack)["G"].physical
    ports = {"IpProtocol": "tcp", "FromPort": "22", "ToPort": "22"}
    own = cfn(
        Own=group(),
        In=rule("Ingress", GroupId=identity, SourceSecurityGroupId=identity, **ports),
        Out=rule("Egress", GroupId=identity, DestinationSecurityGroupId={"Fn::GetAtt": ["Own", "GroupId"]}),
    )
    more = await made(manager, "more", own)
    other = manager.current(more)["Own"].physical
    assert set(guests(platform)["s"].firewall or ()) == {
        FirewallRule(protocol="tcp", first=22, last=22, group=identity),
        FirewallRule(direction="out", group=other),
    }
    assert platform.settled[-1] == (next(iter(platform.stored)), guests(platform)["s"].name)
    fewer = cfn(Own=group(), In=rule("Ingress", GroupId=identity, CidrIp=ANY, **ports))
    await changed(manager, more, fewer)
    assert guests(platform)["s"].firewall == (FirewallRule(protocol="tcp", first=22, last=22, network=ANY),)
    await manager.delete(more)
    await manager.wait(more)
    assert guests(platform)["s"].firewall == ()


async def test_a_rule_that_comes_while_a_guest_is_made_is_not_lost(
    manager: StackManager, platform: MemoryPlatform
) -> None:
    """Neither the server nor the rule waits for the other."""
    platform.hold = asyncio.Event()
    stack = await manager.create("slow", cfn(G=group(), S=instance(SecurityGroups=[ref("G")])))
    while not platform.applied:
        await asyncio.sleep(0.01)
    await made(manager, "rule", cfn(R=rule("Ingress", GroupId=manager.current(stack)["G"].physical, CidrIp=ANY)))
    platform.hold.set()
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert guests(platform)["s"].firewall == (FirewallRule(network=ANY),)


async def test_a_guest_that_came_up_gets_what_changed_meanwhile(
    manager: StackManager, platform: MemoryPlatform
) -> None:
    """Its start had begun with the rules before; guests in no group are left alone."""
    await made(manager, "up", cfn(G=group(), S=instance(SecurityGroups=[ref("G")]), N=instance()))
    before = len(platform.settled)
    ((name, deployable),) = platform.stored.items()
    for one in sorted(deployable.assemblies, key=lambda one: one.name):  # the one in no group first
        event = Event(type="assembly.state", deployable=name, assembly=one.name, state="running", time=0.0)
        platform.queue.put_nowait(event)
    async with asyncio.timeout(60):
        while len(platform.settled) == before:
            await asyncio.sleep(0.01)
    assert [place[1].partition("-")[0] for place in platform.settled[before:]] == ["s"]


async def test_members_of_a_scaling_group_get_changed_rules(manager: StackManager, platform: MemoryPlatform) -> None:
    """Those that are there, by one change of their deployable; those that come later."""

    def source(port: int, size: int) -> Source:
        launch = {"ImageId": "F17-x86_64-cfntools", "InstanceType": "m1.small", "SecurityGroups": [ref("G")]}
        scaling = {"AvailabilityZones": [], "LaunchConfigurationName": ref("L"), "MinSize": size, "MaxSize": size}
        return cfn(
            G=group({"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": ANY}),
            L={"Type": "AWS::AutoScaling::LaunchConfiguration", "Properties": launch},
            A={"Type": "AWS::AutoScaling::AutoScalingGroup", "Properties": scaling},
        )

    stack = await made(manager, "many", source(80, 5))
    before = len(platform.applied)
    await changed(manager, stack, source(443, 5))
    assert len(platform.applied) == before + 1
    await changed(manager, stack, source(443, 7))
    found = guests(platform)
    assert len(found) == 7
    assert {one.firewall for one in found.values()} == {
        (FirewallRule(protocol="tcp", first=443, last=443, network=ANY),)
    }
    assert {one.groups for one in found.values()} == {(manager.current(stack)["G"].physical,)}


async def test_neutrons_words(manager: StackManager, platform: MemoryPlatform) -> None:
    """`remote_mode` without a group means the group itself; rules of their own; both kinds of addresses."""
    rules = [
        {"remote_mode": "remote_group_id", "protocol": "tcp", "port_range_min": 1, "port_range_max": 9},
        {"remote_group_id": {"get_resource": "other"}},
        {"ethertype": "IPv6"},
    ]
    server = {"image": "bookworm", "flavor": "m1.small", "security_groups": [{"get_resource": "g"}]}
    single = {"security_group": {"get_resource": "g"}, "remote_group": {"get_resource": "other"}, "protocol": "udp"}
    stack = await made(
        manager,
        "hot",
        hot(
            other={"type": "OS::Neutron::SecurityGroup"},
            g={"type": "OS::Neutron::SecurityGroup", "properties": {"rules": rules}},
            r={"type": "OS::Neutron::SecurityGroupRule", "properties": single},
            s={"type": "OS::Nova::Server", "properties": server},
        ),
    )
    own, other = (manager.current(stack)[name].physical for name in ("g", "other"))
    assert set(guests(platform)["s"].firewall or ()) == {
        FirewallRule(protocol="tcp", first=1, last=9, group=own),
        FirewallRule(group=other),
        FirewallRule(network="::/0"),
        FirewallRule(protocol="udp", group=other),
    }
    for bad, says in (
        ({"remote_group_id": "x", "remote_ip_prefix": ANY}, "not both"),
        ({"remote_group_id": "x", "ethertype": "IPv6"}, "IPv4 addresses only"),
    ):
        with pytest.raises(InvalidDocument, match=says):
            await manager.create("no", hot(g={"type": "OS::Neutron::SecurityGroup", "properties": {"rules": [bad]}}))


async def test_where_members_are_not_followed_it_is_refused(tmp_path: Path) -> None:
    """Before anything starts; rules of networks are taken."""
    platform = MemoryPlatform()
    platform.capabilities = frozenset({"guests", "firewall"})
    manager = await opened(tmp_path, platform)
    for resources in (
        {"W": group(), "G": group({"SourceSecurityGroupId": ref("W")})},
        {"W": group(), "R": rule("Ingress", GroupId=ref("W"), SourceSecurityGroupId=ref("W"))},
    ):
        with pytest.raises(InvalidDocument, match="does not follow the addresses of a group's guests"):
            await manager.create("no", cfn(**resources))
    with pytest.raises(InvalidDocument, match="does not follow"):
        own = {"rules": [{"remote_mode": "remote_group_id"}]}
        await manager.create("no", hot(g={"type": "OS::Neutron::SecurityGroup", "properties": own}))
    await made(manager, "yes", cfn(G=group({"CidrIp": ANY})))
    await manager.close()
