"""A VPC of EC2's on real guests, by the real client: who reaches whom is what the template says."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack_stage import StackStage
from tests.e2e.stage import until
from tests.e2e.test_stack_network import answers, made, opens, there

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stage() -> Iterator[StackStage]:
    """A daemon of our own."""
    with StackStage.opened("vpc") as stage:
        yield stage


def ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def ec2(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::EC2::{kind}", "Properties": properties}


def server(**properties: Any) -> dict[str, Any]:
    return ec2("Instance", ImageId="bookworm-cfntools", InstanceType="m1.tiny", **properties)


def attribute(name: str, what: str) -> dict[str, Any]:
    return {"Value": {"Fn::GetAtt": [name, what]}}


def document(**more: Any) -> str:
    """A public subnet with a guest that has an address outside, a private one, and a guest beside the VPC."""
    within = {"VpcId": ref("Vpc")}
    group = {"GroupDescription": "ssh from the VPC and outside", **within}
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}
    resources = {
        "Vpc": ec2("VPC", CidrBlock="172.29.0.0/16"),
        "Gateway": ec2("InternetGateway"),
        "Attached": ec2("VPCGatewayAttachment", InternetGatewayId=ref("Gateway"), **within),
        "Public": ec2("Subnet", CidrBlock="172.29.1.0/24", **within),
        "Private": ec2("Subnet", CidrBlock="172.29.2.0/24", **within),
        "Table": ec2("RouteTable", **within),
        "Out": {
            **ec2("Route", RouteTableId=ref("Table"), DestinationCidrBlock="0.0.0.0/0", GatewayId=ref("Gateway")),
            "DependsOn": "Attached",
        },
        "Given": ec2("SubnetRouteTableAssociation", SubnetId=ref("Public"), RouteTableId=ref("Table")),
        "Group": ec2("SecurityGroup", SecurityGroupIngress=[rule], **group),
        "Interface": ec2("NetworkInterface", SubnetId=ref("Public"), GroupSet=[ref("Group")]),
        "Front": server(NetworkInterfaces=[{"DeviceIndex": "0", "NetworkInterfaceId": ref("Interface")}]),
        "Address": ec2("EIP", Domain="vpc"),
        "Associated": {
            **ec2(
                "EIPAssociation",
                AllocationId={"Fn::GetAtt": ["Address", "AllocationId"]},
                NetworkInterfaceId=ref("Interface"),
            ),
            "DependsOn": "Attached",
        },
        "Back": server(SubnetId=ref("Private"), SecurityGroupIds=[ref("Group")]),
        "Beside": server(),
        **more,
    }
    outputs = {
        "Outside": {"Value": ref("Address")},
        "Front": attribute("Front", "PrivateIp"),
        "Back": attribute("Back", "PrivateIp"),
        "Beside": attribute("Beside", "PrivateIp"),
        **({"Third": attribute("Third", "PrivateIp")} if "Third" in more else {}),
        **({"Balanced": attribute("Balancer", "DNSName")} if "Balancer" in more else {}),
    }
    return json.dumps({"Resources": resources, "Outputs": outputs})


MORE = {
    "More": ec2("Subnet", CidrBlock="172.29.3.0/24", VpcId=ref("Vpc")),
    "Third": server(SubnetId=ref("More")),
    "Balancer": {
        "Type": "AWS::ElasticLoadBalancing::LoadBalancer",
        "Properties": {
            "Subnets": [ref("Public")],
            "Instances": [ref("Back")],
            "Listeners": [{"LoadBalancerPort": 2222, "InstancePort": 22, "Protocol": "TCP"}],
        },
    },
}


def greeting(address: str, port: int) -> bytes:
    """Return what a server says first; empty where there is none."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.recv(4)
    except OSError:
        return b""


def physical(stage: StackStage) -> dict[str, str]:
    found = stage.ask("describe-stack-resources", "--stack-name", "vpc")["StackResources"]
    return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found}


def test_who_reaches_whom_in_a_vpc(stage: StackStage) -> None:
    """By `aws cloudformation deploy`: the public subnet has a way outside, the private one has none; a subnet and
    a balancer more touch nothing else; a restart keeps it; nothing is left."""

    def deploy(**more: Any) -> None:
        name = stage.write("vpc.template", document(**more))
        stage.aws("deploy", "--stack-name", "vpc", "--template-file", name)

    deploy()
    place, told = stage.places("vpc"), stage.outputs("vpc")
    assert told["Front"].startswith("172.29.1.")
    assert told["Back"].startswith("172.29.2.")
    front, back, beside = (place[name] for name in ("front", "back", "beside"))
    # Not for want of a way: the guest beside the VPC knows its router, which keeps it out.
    state = stage.home / "infrastructure/lxc"
    router = json.loads((state / "routers" / f"{physical(stage)['Vpc']}.json").read_text())["outside"]
    stage.guest(beside, "ip", "route", "add", "172.29.0.0/16", "via", router.partition("/")[0])

    def holds() -> None:
        until("from this host", lambda: answers(told["Outside"], 22))
        until("between subnets", lambda: opens(stage, front, told["Back"]))
        until("and back", lambda: opens(stage, back, told["Front"]))
        until("from outside", lambda: opens(stage, beside, told["Outside"]))
        until("to outside", lambda: opens(stage, front, told["Beside"]))
        assert not opens(stage, back, told["Beside"])
        assert not opens(stage, back, told["Outside"])
        assert not opens(stage, beside, told["Front"])
        assert not opens(stage, beside, told["Back"])

    holds()
    before, booted = physical(stage), {each: stage.booted(each) for each in (front, back, beside)}
    deploy(**MORE)
    after = physical(stage)
    assert {name: after[name] for name in before} == before
    assert {each: stage.booted(each) for each in booted} == booted
    third = stage.places("vpc")["third"]
    third_is = stage.outputs("vpc")["Third"]
    until("the new subnet", lambda: opens(stage, back, third_is))
    until("from the new subnet", lambda: opens(stage, third, told["Front"]))
    assert not opens(stage, third, told["Beside"])
    balanced = stage.outputs("vpc")["Balanced"]
    until("the private guest by the balancer", lambda: greeting(balanced, 2222) == b"SSH-")
    holds()

    stage.guest(front, "sh", "-c", "systemctl reboot --no-block; true")
    until("another boot", lambda: stage.rebooted(front, booted[front]))
    holds()

    wanted = made(stage)
    assert len(wanted) == len(there(wanted)) == 4  # three subnets' bridges and the VPC's router
    stage.aws("delete-stack", "--stack-name", "vpc")
    stage.aws("wait", "stack-delete-complete", "--stack-name", "vpc")
    assert stage.left() == []
    assert there(wanted) == set()
    for kind in ("networks", "subnets", "routers", "segments", "leases", "groups"):
        assert not (state / kind).exists() or list((state / kind).iterdir()) == [], kind
