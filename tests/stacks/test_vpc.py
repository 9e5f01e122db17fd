"""EC2's VPCs over a platform that keeps networks in memory: what the router is told, updates, refusals, crashes."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pcloud.environment.infrastructure import ExecResult
from pcloud.infrastructure.lxc_router_rules import Router, rules
from pcloud.model.deployable import Interface
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.types.registry import types
from tests.stacks.crashes import crash_everywhere
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_networks import MemoryNetworks, Networked
from tests.stacks.memory_platform import MemoryPlatform, guests
from tests.stacks.templates import ref

ANY = "0.0.0.0/0"


def ec2(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::EC2::{kind}", "Properties": properties}


def instance(**properties: Any) -> dict[str, Any]:
    return ec2("Instance", ImageId="bookworm", InstanceType="m1.small", **properties)


def vpc(**more: Any) -> dict[str, Any]:
    """A public subnet and a private one."""
    return {
        "Vpc": ec2("VPC", CidrBlock="172.20.0.0/16", EnableDnsSupport="true"),
        "Gateway": ec2("InternetGateway"),
        "Attached": ec2("VPCGatewayAttachment", VpcId=ref("Vpc"), InternetGatewayId=ref("Gateway")),
        "Public": ec2("Subnet", VpcId=ref("Vpc"), CidrBlock="172.20.1.0/24"),
        "Private": ec2("Subnet", VpcId=ref("Vpc"), CidrBlock="172.20.2.0/24"),
        "Table": ec2("RouteTable", VpcId=ref("Vpc")),
        "Out": ec2("Route", RouteTableId=ref("Table"), DestinationCidrBlock=ANY, GatewayId=ref("Gateway")),
        "Given": ec2("SubnetRouteTableAssociation", SubnetId=ref("Public"), RouteTableId=ref("Table")),
        **more,
    }


FRONT = {
    "Front": instance(SubnetId=ref("Public")),
    "Address": ec2("EIP", Domain="vpc", InstanceId=ref("Front")),
}
BACK = {"Back": instance(SubnetId=ref("Private"), PrivateIpAddress="172.20.2.9")}


def source(resources: dict[str, Any], **outputs: Any) -> Source:
    told = {name: {"Value": value} for name, value in outputs.items()}
    return Source(template=json.dumps({"Resources": resources, **({"Outputs": told} if told else {})}))


@pytest.fixture
def platform() -> Networked:
    return Networked()


async def removed(manager: StackManager, stack: StackRecord, platform: Networked) -> None:
    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE", stack.reason
    assert platform.networks.empty
    assert platform.outer == {}


def ids(manager: StackManager, stack: StackRecord) -> dict[str, str]:
    return {name: record.physical for name, record in manager.current(stack).items()}


async def test_what_becomes_of_a_vpc(manager: StackManager, platform: Networked) -> None:
    """Each subnet has a bridge, the VPC's router joins them; only the public one has a way outside."""
    told = {name: {"Fn::GetAtt": ["Front", name]} for name in ("PublicIp", "PrivateIp", "VpcId")}
    stack = await made(manager, "vpc", source(vpc(**FRONT, **BACK), **told))
    by = ids(manager, stack)
    found = guests(platform)
    public, private = by["Public"], by["Private"]
    assert platform.networks.networks == {public, private}
    assert found["front"].interfaces == (
        Interface(network=public, address="172.20.1.4/24", gateway="172.20.1.1"),
    )  # EC2 keeps the first addresses
    assert found["back"].interfaces[0].address == "172.20.2.9/24"
    assert (found["back"].address, found["front"].addresses) == ("", ())
    subnets, outside, floating = platform.networks.routers[by["Vpc"]]
    assert (sorted(subnets), outside) == (sorted([public, private]), True)
    assert floating == [(by["Address"], "172.20.1.4")]
    assert platform.networks.ways[by["Vpc"]] == [(public, ANY)]
    values = {name: output["value"] for name, output in stack.outputs.items()}
    assert values == {"PublicIp": by["Address"], "PrivateIp": "172.20.1.4", "VpcId": by["Vpc"]}

    await manager.detect_drift(stack)
    assert stack.drift["status"] == "IN_SYNC"
    platform.networks.networks.discard(private)
    await manager.detect_drift(stack)
    drifted = [name for name, record in manager.current(stack).items() if record.drift["status"] == "DELETED"]
    assert drifted == ["Private"]
    await removed(manager, stack, platform)


def actions(manager: StackManager, stack: StackRecord, wanted: Source) -> dict[str, str]:
    plan = manager.plan(stack, wanted, stack.name)
    return {change.name: str(change.action) for change in plan.changes if change.action != "none"}


async def test_an_update_touches_only_what_it_says(manager: StackManager, platform: Networked) -> None:
    """One subnet more, one way less, another address: all in place; guests and the other subnets stay as they are."""
    stack = await made(manager, "vpc", source(vpc(**FRONT, **BACK)))
    before, kept = ids(manager, stack), guests(platform)
    more = vpc(**FRONT, **BACK, Third=ec2("Subnet", VpcId=ref("Vpc"), CidrBlock="172.20.3.0/24"))
    assert actions(manager, stack, source(more)) == {"Third": "create"}
    await changed(manager, stack, source(more))
    after = ids(manager, stack)
    assert {name: after[name] for name in before} == before
    assert guests(platform) == kept
    assert len(platform.networks.routers[after["Vpc"]][0]) == 3
    assert platform.networks.ways[after["Vpc"]] == [(after["Public"], ANY)]

    more["Third2"] = ec2("SubnetRouteTableAssociation", SubnetId=ref("Third"), RouteTableId=ref("Table"))
    more["Out"]["Properties"]["DestinationCidrBlock"] = "10.0.0.0/8"
    assert actions(manager, stack, source(more)) == {"Third2": "create", "Out": "replace"}
    await changed(manager, stack, source(more))
    led = sorted([(after["Public"], "10.0.0.0/8"), (after["Third"], "10.0.0.0/8")])
    assert platform.networks.ways[after["Vpc"]] == led

    # Another table for a subnet: never without one.
    more["Other"] = ec2("RouteTable", VpcId=ref("Vpc"))
    more["Given"]["Properties"]["RouteTableId"] = ref("Other")
    assert actions(manager, stack, source(more)) == {"Other": "create", "Given": "replace"}
    await changed(manager, stack, source(more))
    assert platform.networks.ways[after["Vpc"]] == [(after["Third"], "10.0.0.0/8")]

    for name in ("Attached", "Gateway", "Out", "Address"):
        del more[name]
    await changed(manager, stack, source(more))
    assert platform.networks.routers[after["Vpc"]][1:] == (False, [])
    assert platform.networks.ways[after["Vpc"]] == []
    assert guests(platform) == kept
    await removed(manager, stack, platform)


REPLACES = [
    ("Vpc", "CidrBlock", "172.21.0.0/16"),
    ("Public", "CidrBlock", "172.20.9.0/24"),
    ("Public", "AvailabilityZone", "eu"),
    ("Front", "PrivateIpAddress", "172.20.1.77"),
]
STAYS = [
    ("Vpc", "EnableDnsHostnames", True, "none"),
    ("Vpc", "Tags", [{"Key": "a", "Value": "b"}], "none"),
    ("Public", "MapPublicIpOnLaunch", True, "none"),
    ("Eni", "Description", "text", "none"),
    ("Eni", "GroupSet", ["default"], "update"),
]


async def test_what_a_changed_property_does(manager: StackManager, platform: Networked) -> None:
    """As CloudFormation's reference says: replacement, in place, or nothing to do."""
    whole = vpc(**FRONT, Eni=ec2("NetworkInterface", SubnetId=ref("Private")))
    stack = await made(manager, "vpc", source(whole))

    def with_(name: str, key: str, value: Any) -> Source:
        other = json.loads(json.dumps(whole))
        other[name].setdefault("Properties", {})[key] = value
        return source(other)

    for name, key, value in REPLACES:
        assert actions(manager, stack, with_(name, key, value))[name] == "replace", (name, key)
    for name, key, value, action in STAYS:
        found = actions(manager, stack, with_(name, key, value))
        assert set(found) <= {name}, (name, key)
        assert found.get(name, "none") in (action, "update"), (name, key)
    await removed(manager, stack, platform)


async def test_another_vpc_replaces_all_that_is_in_it(manager: StackManager, platform: Networked) -> None:
    """The new one is made before the old one goes, and nothing of the old one is left."""
    inner = {
        "Vpc": ec2("VPC", CidrBlock="172.20.0.0/16"),
        "Sub": ec2("Subnet", VpcId=ref("Vpc"), CidrBlock={"Fn::GetAtt": ["Vpc", "CidrBlock"]}),
        "Table": ec2("RouteTable", VpcId=ref("Vpc")),
        "Given": ec2("SubnetRouteTableAssociation", SubnetId=ref("Sub"), RouteTableId=ref("Table")),
        "Guest": instance(SubnetId=ref("Sub")),
    }
    stack = await made(manager, "vpc", source(inner))
    before = ids(manager, stack)
    inner["Vpc"]["Properties"]["CidrBlock"] = "172.21.0.0/16"
    await changed(manager, stack, source(inner))
    after = ids(manager, stack)
    assert all(before[name] != after[name] for name in inner)
    assert set(platform.networks.routers) == {after["Vpc"]}
    assert platform.networks.networks == set(platform.networks.subnets) == {after["Sub"]}
    assert guests(platform)["guest"].interfaces[0].address == "172.21.0.4/16"
    await removed(manager, stack, platform)


async def test_addresses_outside(manager: StackManager, platform: Networked) -> None:
    """A subnet or an interface says whether an instance gets one; an elastic one takes its place; an interface has its
    own."""
    mapped = vpc(
        One=instance(SubnetId=ref("Public")),
        Two=instance(
            NetworkInterfaces=[{"DeviceIndex": "0", "SubnetId": ref("Public"), "AssociatePublicIpAddress": False}]
        ),
        Three=instance(NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": ref("Eni")}]),
        Eni=ec2("NetworkInterface", SubnetId=ref("Public"), PrivateIpAddress="172.20.1.50"),
        Held=ec2("EIP", Domain="vpc"),
        At=ec2(
            "EIPAssociation",
            AllocationId={"Fn::GetAtt": ["Held", "AllocationId"]},
            NetworkInterfaceId=ref("Eni"),
        ),
    )
    mapped["Public"]["Properties"]["MapPublicIpOnLaunch"] = True
    told = {name: {"Fn::GetAtt": [name, "PublicIp"]} for name in ("One", "Two", "Three")}
    stack = await made(manager, "vpc", source(mapped, **told))
    by = ids(manager, stack)
    first = {name: output["value"] for name, output in stack.outputs.items()}
    assert (first["Two"], first["Three"]) == ("", by["Held"])
    own = guests(platform)["one"].interfaces[0].address.partition("/")[0]
    wanted = sorted([(first["One"], own), (by["Held"], "172.20.1.50")])
    assert sorted(platform.networks.routers[by["Vpc"]][2]) == wanted
    assert guests(platform)["three"].interfaces[0].address == "172.20.1.50/24"

    mapped["More"] = ec2("EIP", Domain="vpc", InstanceId=ref("Two"))
    await changed(manager, stack, source(mapped, **told))
    more = ids(manager, stack)["More"]
    assert stack.outputs["Two"]["value"] == more
    mapped["More"]["Properties"]["InstanceId"] = ref("One")
    await changed(manager, stack, source(mapped, **told))
    assert (ids(manager, stack)["More"], stack.outputs["Two"]["value"]) == (more, "")
    assert sorted(platform.networks.routers[by["Vpc"]][2]) == sorted([(more, own), (by["Held"], "172.20.1.50")])
    assert stack.outputs["One"]["value"] == more
    del mapped["More"]
    await changed(manager, stack, source(mapped, **told))
    assert sorted(platform.networks.routers[by["Vpc"]][2]) == wanted
    await removed(manager, stack, platform)


async def test_groups_of_a_vpc(manager: StackManager, platform: Networked) -> None:
    """An instance is in the groups of its interfaces; other ones reach it in place; those of another VPC are refused."""

    def group(**more: Any) -> dict[str, Any]:
        return ec2("SecurityGroup", GroupDescription="x", **more)

    rule = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "CidrIp": ANY}
    whole = vpc(
        Web=group(VpcId=ref("Vpc"), SecurityGroupIngress=[rule]),
        Shut=group(VpcId=ref("Vpc")),
        Eni=ec2("NetworkInterface", SubnetId=ref("Private"), GroupSet=[ref("Web")]),
        One=instance(NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": ref("Eni")}]),
        Two=instance(NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": ref("Public"), "GroupSet": [ref("Shut")]}]),
    )
    stack = await made(manager, "vpc", source(whole))
    by = ids(manager, stack)
    found = guests(platform)
    assert (found["one"].groups, found["two"].groups) == ((by["Web"],), (by["Shut"],))
    whole["Eni"]["Properties"]["GroupSet"] = [ref("Shut")]
    await changed(manager, stack, source(whole))
    after = guests(platform)["one"]
    assert (after.groups, after.firewall, after.interfaces) == ((by["Shut"],), (), found["one"].interfaces)
    whole["Elsewhere"] = ec2("VPC", CidrBlock="172.22.0.0/16")
    whole["Foreign"] = group(VpcId=ref("Elsewhere"))
    whole["Bad"] = instance(SubnetId=ref("Private"), SecurityGroupIds=[ref("Foreign")])
    await manager.update(stack, source(whole))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    assert "is of another VPC than the guest" in stack.reason
    await removed(manager, stack, platform)


class Reached(Networked):
    """Commands in guests work; what balancers are told is kept."""

    capabilities = Networked.capabilities | {"access"}

    def __init__(self) -> None:
        super().__init__()
        self.written = ""

    async def execute(
        self, deployable: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        self.written = stdin.decode() or self.written
        return ExecResult(returncode=0, stdout=b"", stderr=b"")


async def test_groups_and_balancers_in_subnets(tmp_path: Path) -> None:
    """Members are spread over the subnets; the balancer is in its own, with an address outside, and serves the members at
    theirs inside."""
    platform = Reached()
    manager = await opened(tmp_path, platform)
    zones = [ref("Public"), ref("Private")]

    def body(size: int, **changes: Any) -> Source:
        balancer = {
            "Subnets": [ref("Public")],
            "SecurityGroups": [ref("Web")],
            "Listeners": [{"LoadBalancerPort": 80, "InstancePort": 8080, "Protocol": "HTTP"}],
            **changes,
        }
        group = {
            "VPCZoneIdentifier": zones,
            "LaunchConfigurationName": ref("Launch"),
            "LoadBalancerNames": [ref("Balancer")],
            "MinSize": size,
            "MaxSize": size,
        }
        launch = {
            "ImageId": "bookworm",
            "InstanceType": "m1.small",
            "SecurityGroups": [ref("Web")],
            "AssociatePublicIpAddress": True,
        }
        whole = vpc(
            Web=ec2("SecurityGroup", GroupDescription="x", VpcId=ref("Vpc")),
            Other=ec2("SecurityGroup", GroupDescription="x", VpcId=ref("Vpc")),
            Balancer={"Type": "AWS::ElasticLoadBalancing::LoadBalancer", "Properties": balancer},
            Launch={"Type": "AWS::AutoScaling::LaunchConfiguration", "Properties": launch},
            Group={"Type": "AWS::AutoScaling::AutoScalingGroup", "Properties": group, "DependsOn": ["Attached"]},
        )
        return source(whole, DNS={"Fn::GetAtt": ["Balancer", "DNSName"]})

    stack = await made(manager, "scaled", body(3))
    by = ids(manager, stack)

    def members() -> dict[str, str]:
        found = guests(platform)
        return {name: one.interfaces[0].network for name, one in sorted(found.items()) if name.startswith("member")}

    public, private = by["Public"], by["Private"]
    assert members() == {"member0": public, "member1": private, "member2": public}
    found = guests(platform)
    assert {one.groups for one in found.values()} == {(by["Web"],)}
    assert [one.network for one in found["balancer"].interfaces] == [public]
    outer = {inner: address for address, inner in platform.networks.routers[by["Vpc"]][2]}
    assert len(outer) == 4
    inside = found["balancer"].interfaces[0].address.partition("/")[0]
    assert stack.outputs["DNS"]["value"] == outer[inside]
    for name in members():
        assert f"{found[name].interfaces[0].address.partition('/')[0]}:8080" in platform.written

    before = {name: one.interfaces for name, one in found.items()}
    await changed(manager, stack, body(4, SecurityGroups=[ref("Other")]))
    assert list(members().values()) == [public, private, public, private]
    found = guests(platform)
    assert {name: found[name].interfaces for name in before} == before
    assert found["balancer"].groups == (by["Other"],)
    await changed(manager, stack, body(4, Scheme="internal"))
    assert stack.outputs["DNS"]["value"].startswith("172.20.1.")
    assert len(platform.networks.routers[by["Vpc"]][2]) == 4
    await removed(manager, stack, platform)
    await manager.close()


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        ({"V": ec2("VPC", CidrBlock="172.20.0.0/8")}, "must be between /16 and /28"),
        ({"V": ec2("VPC", CidrBlock="10.88.0.0/16")}, "overlaps the guests' own"),
        ({"V": ec2("VPC", CidrBlock="fd00::/56")}, "'fd00::/56' is no range of IPv4 addresses"),
        ({"V": ec2("VPC", Ipv4IpamPoolId="x")}, "no pools of addresses"),
        ({"S": ec2("Subnet", VpcId="v", CidrBlock="10.1.0.0/29")}, "must be between /16 and /28"),
        ({"S": ec2("Subnet", VpcId="v", CidrBlock="10.1.0.0/24", Ipv6CidrBlock="x")}, "networks of stacks are IPv4"),
        ({"R": ec2("Route", RouteTableId="r", DestinationCidrBlock=ANY, NatGatewayId="n")}, "no NAT gateways"),
        ({"R": ec2("Route", RouteTableId="r", DestinationCidrBlock=ANY, InstanceId="i")}, "no guests that route"),
        ({"R": ec2("Route", RouteTableId="r", DestinationCidrBlock=ANY)}, "GatewayId is needed"),
        ({"R": ec2("Route", RouteTableId="r", DestinationCidrBlock="x", GatewayId="g")}, "'x' is no range"),
        ({"A": ec2("VPCGatewayAttachment", VpcId="v", VpnGatewayId="g")}, "no VPN gateways"),
        ({"N": ec2("NatGateway", SubnetId="s")}, "by an internet gateway and an address of its own"),
        ({"N": ec2("NetworkAcl", VpcId="v")}, "no access lists"),
        ({"N": ec2("NetworkAclEntry", VpcId="v")}, "no access lists"),
        ({"N": ec2("VPCPeeringConnection", VpcId="v")}, "apart from each other"),
        ({"I": instance(SubnetId="subnet-0abc12345")}, "no stack can have the subnet"),
        ({"I": instance(SubnetId="x", NetworkInterfaces=[{"DeviceIndex": 0}])}, "is that of an interface"),
        ({"E": ec2("NetworkInterface", SubnetId="s", SecondaryPrivateIpAddressCount=1)}, "one address here"),
        ({"A": ec2("EIPAssociation", EIP="1.2.3.4")}, "InstanceId or NetworkInterfaceId is needed"),
    ],
)
async def test_refused_before_anything_starts(
    manager: StackManager, platform: Networked, resources: Any, says: str
) -> None:
    with pytest.raises(InvalidDocument, match=says):
        await manager.create("no", source(resources))
    assert platform.networks.empty


ODD: list[Any] = [
    None, "", 0, True, [], [[]], [None], {}, {"a": 1}, "10.0.0.0/16", "999.1.1.1/99", "subnet-", f"subnet-{16 * 'a'}",
    ref("Other"), [ref("Other")], [{}], [{"SubnetId": ref("Other")}], [{"DeviceIndex": ref("Other"), "SubnetId": "s"}],
    [{"PrivateIpAddress": "1.1.1.1", "Primary": True}], {"Fn::Split": [",", ref("Other")]},
]  # fmt: skip


async def test_odd_values_are_problems_and_no_exceptions(manager: StackManager) -> None:
    """Each property of each type with each of these, where others are not known yet."""
    others = ["AWS::ElasticLoadBalancing::LoadBalancer", "AWS::AutoScaling::AutoScalingGroup"]
    kinds = ["VPC", "Subnet", "VPCGatewayAttachment", "Route", "NetworkInterface", "Instance", "EIPAssociation"]
    for name in [*others, *(f"AWS::EC2::{kind}" for kind in kinds)]:
        schema = types()[name].schema
        needed = {key: "bookworm" for key, rule in schema.items() if rule.required}
        for key, value in itertools.product(schema, ODD):
            resources = {
                "Odd": {"Type": name, "Properties": {**needed, key: value}},
                "Other": ec2("VPC", CidrBlock="10.1.0.0/16"),
            }
            with contextlib.suppress(InvalidDocument):
                manager.plan(None, source(resources), "odd")


async def test_where_there_are_no_networks_they_are_refused(tmp_path: Path) -> None:
    manager = await opened(tmp_path, MemoryPlatform())
    with pytest.raises(InvalidDocument, match="this platform has no networks"):
        await manager.create("no", source({"V": ec2("VPC", CidrBlock="10.0.0.0/16")}))
    with pytest.raises(InvalidDocument, match="this platform has no networks"):
        await manager.create("no", source({"I": instance(SubnetId=f"subnet-{16 * 'a'}")}))
    await manager.close()


async def test_subnets_of_others_mean_the_guests_own_network(manager: StackManager, platform: Networked) -> None:
    """The plan says so."""
    stack = await made(manager, "plain", source({"One": instance(SubnetId="any")}))
    assert guests(platform)["one"].interfaces == ()
    notes = manager.plan(stack, source({"One": instance(SubnetId="any")}), "plain").notes
    assert any("'any' is no subnet of a stack" in note for note in notes)


AGAIN = ec2("SubnetRouteTableAssociation", SubnetId=ref("Public"), RouteTableId=ref("Table"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"S": ec2("Subnet", VpcId=ref("Vpc"), CidrBlock="172.20.0.0/20")}, "another subnet of the VPC"),
        ({"S": ec2("Subnet", VpcId=ref("Vpc"), CidrBlock="172.30.0.0/20")}, "is not in 172.20.0.0/16"),
        ({"G": {**AGAIN, "DependsOn": "Given"}}, "has a route table already"),
        (
            {
                "R": {
                    **ec2("Route", RouteTableId=ref("Table"), DestinationCidrBlock=ANY, GatewayId=ref("Gateway")),
                    "DependsOn": "Out",
                }
            },
            "has a route to 0.0.0.0/0 already",
        ),
        (
            {
                "Else": ec2("VPC", CidrBlock="172.21.0.0/16"),
                "A": {
                    **ec2("VPCGatewayAttachment", VpcId=ref("Else"), InternetGatewayId=ref("Gateway")),
                    "DependsOn": "Attached",
                },
            },
            "is attached already",
        ),
        (
            {
                "Else": ec2("VPC", CidrBlock="172.21.0.0/16"),
                "T": ec2("RouteTable", VpcId=ref("Else")),
                "A": ec2("SubnetRouteTableAssociation", SubnetId=ref("Private"), RouteTableId=ref("T")),
            },
            "is not of the VPC",
        ),
        ({"I": instance(SubnetId=f"subnet-{16 * 'a'}")}, "no stack has the subnet"),
    ],
)
async def test_what_can_not_be_made_is_undone(manager: StackManager, platform: Networked, more: Any, says: str) -> None:
    """The stack says why, and nothing of it is left."""
    stack = await manager.create("bad", source(vpc(**{name: {"DependsOn": ["Public", "Private"], **each}
                                                      for name, each in more.items()})))  # fmt: skip
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert says in stack.reason
    assert platform.networks.empty


@pytest.mark.parametrize("deleting", [False, True])
async def test_a_crash_at_every_write_comes_to_the_same_end(tmp_path: Path, deleting: bool) -> None:
    """Nothing is made twice, nothing is left over."""

    def whole(networks: MemoryNetworks, outer: dict[str, str]) -> None:
        assert (len(networks.networks), len(networks.subnets), len(networks.leases), len(outer)) == (2, 2, 2, 1)
        ((subnets, outside, floating),) = networks.routers.values()
        assert (len(subnets), outside, floating) == (2, True, [("10.88.1.1", "172.20.1.4")])
        (ways,) = networks.ways.values()
        assert ways is not None
        assert [there for _, there in ways] == [ANY]

    template = source(vpc(**FRONT, **BACK))
    await crash_everywhere(tmp_path, template, deleting=deleting, step=9, whole=whole)


def test_rules_of_a_router() -> None:
    """Only those with an address outside pass, to and from where their subnet has a way."""
    legs = {"pub": ("in1", "172.20.1.0/24"), "priv": ("in2", "172.20.2.0/24")}
    router = Router(
        name="v",
        subnets=("pub", "priv"),
        outside="10.88.0.5/16",
        floating=(("10.88.0.9", "172.20.1.4"), ("10.88.0.10", "172.20.2.4")),
        ways=(("pub", "10.0.0.0/8"), ("pub", ANY), ("gone", ANY)),
        within="172.20.0.0/16",
    )
    text = rules(router, legs)
    assert 'oifname "ext" ip daddr 172.20.0.0/16 drop' in text
    assert 'iifname "in1" oifname "ext" ip saddr 172.20.1.4 ip daddr 10.0.0.0/8 accept' in text
    assert 'iifname "ext" oifname "in1" ct status dnat ip daddr 172.20.1.4 accept' in text
    assert '"in2" oifname' not in text
    assert 'oifname "in2" ct' not in text
    assert "masquerade" not in text
    assert "snat to 10.88.0.5" not in text
