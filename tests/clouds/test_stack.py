"""A stack whose servers are Nova's: what is asked of a real OpenStack for them. Nothing is in a server of Nova's FakeDriver,
so nothing in it is reached (`stacks.transport = "none"`), and no wait condition is told.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from tests.clouds.guests import SDK_WARNINGS
from tests.clouds.peer import CLOUD
from tests.e2e.stack_stage import StackStage, guarded_server
from tests.e2e.stage import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]
PREFIX = "pcst-"
OUTSIDE = f"{PREFIX}outside"
URL = "http://192.0.2.7:8000"
SETTINGS = f"""guest_url = "{URL}"
transport = "none"
[engine]
slots = 1
[infrastructures.openstack]
cloud = "peer"
prefix = "{PREFIX}"
network = "pcloud"
floating_network = "{OUTSIDE}"
poll = 1.0
"""
SCRIPT = "#!/bin/sh\ntouch /srv/made\n"


def document(port: int, **more: Any) -> str:
    config = {"services": {"systemd": {"front": {"enabled": "true", "ensureRunning": "true"}}}}
    ingress = [
        {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "10.0.0.0/8"},
        {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "CidrIp": "0.0.0.0/0"},
    ]
    resources = {**guarded_server(config, SCRIPT, ingress), **more}
    outputs = {"Own": {"Value": {"Fn::GetAtt": ["Server", "PublicIp"]}}}
    return json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources, "Outputs": outputs})


@pytest.fixture(scope="module")
def stage(cloud: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackStage]:
    """A daemon of our own, whose stacks have their guests on the OpenStack of the tests."""
    file = tmp_path_factory.mktemp("credentials") / "clouds.yaml"
    file.touch(0o600)
    file.write_text("clouds:\n  peer:\n" + CLOUD.format(**cloud))
    made = StackStage("nova")
    made.environment["OS_CLIENT_CONFIG_FILE"] = str(file)
    made.begin(SETTINGS, "openstack")
    try:
        yield made
    finally:
        made.close()


def ours(found: Any) -> list[Any]:
    return [each for each in found if each.name.startswith(PREFIX)]


def rules(nova: Any, group: Any) -> set[tuple[Any, ...]]:
    """What a security group lets in."""
    return {
        (each.ether_type, each.protocol, each.port_range_min, each.port_range_max, each.remote_ip_prefix)
        for each in nova.network.security_group_rules(security_group_id=group.id)
        if each.direction == "ingress"
    }


def test_a_stack_of_servers(stage: StackStage, nova: Any) -> None:
    def body(port: int) -> str:
        return stage.write("cloud.template", document(port))

    watched = {
        "Watched": {"Type": "PCloud::Resource", "Properties": {"assembly": {"Ref": "Server"}, "template": "nginx"}}
    }
    refused = stage.run("stack", "create", "cloud", "-t", stage.write("watched.template", document(80, **watched)))
    assert "no access (stacks.transport is none: nothing in guests is reached)" in refused.stdout + refused.stderr
    assert stage.json("get") == []

    assert "guests are made on openstack" in stage.pcloud("stack", "plan", "cloud", "-t", body(80))
    stage.pcloud("stack", "create", "cloud", "-t", body(80), "--wait")
    (server,) = ours(nova.compute.servers())
    assert server.status == "ACTIVE"
    deployable, assembly = stage.places("cloud")["server"].split("/")
    assert server.name == f"{PREFIX}{deployable}.{assembly}"
    own = stage.outputs("cloud")["Own"]
    assert own in {each["addr"] for network in server.addresses.values() for each in network}

    # What the server was made with: a flavor that has its size, its key, its security group, and its user data
    assert server.flavor["ram"] >= 512
    assert nova.compute.get_keypair(server.key_name).public_key.startswith("ssh-ed25519 ")
    assert server.metadata["pcloud_guest"] == f"{deployable}.{assembly}"
    (group,) = ours(nova.network.security_groups())
    assert [each["name"] for each in server.security_groups] == [server.name] == [group.name]
    assert rules(nova, group) == {
        ("IPv4", "tcp", 80, 80, "10.0.0.0/8"),
        ("IPv4", "icmp", None, None, None),
    }
    given = nova.compute.get_server(server.id).user_data  # an administrator is told
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(base64.b64decode(given)))) as archive:
        files = {
            member.name: archive.extractfile(member).read().decode(errors="replace")  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }
    assert files["var/lib/cloud/seed/nocloud/user-data"] == SCRIPT
    assert "front" in json.loads(files["var/lib/heat-cfntools/cfn-init-data"])["AWS::CloudFormation::Init"]["config"][
        "services"]["systemd"]  # fmt: skip
    assert files["var/lib/heat-cfntools/cfn-metadata-server"] == f"{URL}/"
    assert files["var/lib/heat-cfntools/managed"] == "", "cfn-init enables the services: the engine does not run them"

    # Changed rules change the group of the same server
    stage.pcloud("stack", "update", "cloud", "-t", body(81), "--wait")
    assert {each[2] for each in rules(nova, group)} == {81, None}
    assert [each.id for each in ours(nova.compute.servers())] == [server.id]

    # A server that is gone is made again, with its group
    cursor = stage.cursor()
    nova.compute.delete_server(server.id)
    stage.told(cursor, f"{deployable}/{assembly}", "failed")
    stage.told(cursor, f"{deployable}/{assembly}", "running")
    stage.running(deployable)
    (again,) = ours(nova.compute.servers())
    assert again.id != server.id
    assert [each["name"] for each in again.security_groups] == [group.name]

    stage.pcloud("stack", "delete", "cloud", "--wait")
    assert ours(nova.compute.servers()) == []
    until("its security group is gone", lambda: ours(nova.network.security_groups()) == [])
    assert ours(nova.compute.keypairs()) == []


@pytest.fixture
def outside(stage: StackStage, nova: Any) -> Iterator[Callable[[], None]]:
    """Makes an external network, and a router from the servers' own to it. No l3 agent runs: nothing goes through it. It is
    another project's, so that whoever lets Nova choose a network has one choice as before."""
    made: list[Callable[[], Any]] = []

    def make() -> None:
        project = nova.identity.create_project(name=OUTSIDE, domain_id="default")
        made.append(lambda: nova.identity.delete_project(project))
        network = nova.network.create_network(name=OUTSIDE, is_router_external=True, project_id=project.id)
        made.append(lambda: nova.network.delete_network(network))
        nova.network.create_subnet(
            name=OUTSIDE, network_id=network.id, ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False,
            project_id=project.id,
        )  # fmt: skip
        router = nova.network.create_router(name=OUTSIDE, external_gateway_info={"network_id": network.id})
        made.append(lambda: nova.network.delete_router(router))
        inner = nova.network.find_subnet("pcloud")
        nova.network.add_interface_to_router(router, subnet_id=inner.id)
        made.append(lambda: nova.network.remove_interface_from_router(router, subnet_id=inner.id))

    yield make
    stage.run("stack", "delete", "elastic", "--wait")  # of a test that failed: the router is in use until then
    for each in reversed(made):
        each()


def test_elastic_addresses_of_a_stack(stage: StackStage, nova: Any, outside: Callable[[], None]) -> None:
    """The API's own view of them is all there is here."""
    address = {"Type": "AWS::EC2::EIP", "Properties": {"InstanceId": {"Ref": "Server"}}}
    file = stage.write("elastic.template", document(80, Address=address))
    stage.run("stack", "create", "elastic", "-t", file, "--wait")
    told = stage.ask("describe-stack-events", "--stack-name", "elastic")["StackEvents"]
    reason = f"there is no network '{OUTSIDE}' for floating addresses"
    assert any(reason in each.get("ResourceStatusReason", "") for each in told)
    assert {each["ResourceType"] for each in told} == {"AWS::CloudFormation::Stack"}, "nothing was begun"
    stage.pcloud("stack", "delete", "elastic", "--wait")

    outside()
    said = {each["check"]: each for each in json.loads(stage.run("doctor", "-o", "json").stdout)}
    assert said["openstack: floating_network"]["state"] == "ok"

    def floating() -> list[tuple[str, str]]:
        """Every address with the server that it is given to."""
        owners = {each.id: each.device_id for each in nova.network.ports()}
        return [(each.floating_ip_address, owners.get(each.port_id, "")) for each in nova.network.ips()]

    stage.pcloud("stack", "create", "elastic", "-t", file, "--wait")
    (server,) = ours(nova.compute.servers())
    ((own, owner),) = floating()
    assert own.startswith("203.0.113.")
    assert owner == server.id

    # A server that is gone is made again, and has it from its start on
    deployable, assembly = stage.places("elastic")["server"].split("/")
    cursor = stage.cursor()
    nova.compute.delete_server(server.id)
    stage.told(cursor, f"{deployable}/{assembly}", "failed")
    stage.told(cursor, f"{deployable}/{assembly}", "running")
    (again,) = ours(nova.compute.servers())
    assert again.id != server.id
    assert floating() == [(own, again.id)]

    # Without a guest it is kept; it goes with its stack
    free = document(80, Address={"Type": "AWS::EC2::EIP"})
    stage.pcloud("stack", "update", "elastic", "-t", stage.write("free.template", free), "--wait")
    assert floating() == [(own, "")]
    stage.pcloud("stack", "delete", "elastic", "--wait")
    assert floating() == []
    assert ours(nova.compute.servers()) == []
