"""Security groups, elastic and floating addresses of guests, for real: packets pass, or they do not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.infrastructure.lxc_segments import Segments
from pcloud.model.errors import PcloudError
from tests.e2e.stack_stage import StackStage, template
from tests.e2e.stage import names, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
SERVE = """#!/bin/sh
cat > /etc/systemd/system/serve@.service <<UNIT
[Service]
ExecStart=/usr/bin/python3 -m http.server %i
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now serve@8080 serve@8081
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[StackStage]:
    """A daemon of our own."""
    with StackStage.opened("n") as stage:
        yield stage


def answers(address: str, port: int) -> bool:
    """Tell whether something takes connections."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def document(*ports: int) -> dict[str, Any]:
    """A guest with two servers in it, some of which may be reached, and an address more."""
    ingress = [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "0.0.0.0/0"} for port in ports]
    return {
        "Resources": {
            "Group": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "some ports", "SecurityGroupIngress": ingress},
            },
            "Server": {
                "Type": "AWS::EC2::Instance",
                "Properties": {
                    "ImageId": "bookworm-cfntools",
                    "InstanceType": "m1.tiny",
                    "SecurityGroups": [{"Ref": "Group"}],
                    "UserData": {"Fn::Base64": SERVE},
                },
            },
            "Address": {"Type": "AWS::EC2::EIP"},
            "Association": {
                "Type": "AWS::EC2::EIPAssociation",
                "Properties": {"EIP": {"Ref": "Address"}, "InstanceId": {"Ref": "Server"}},
            },
        },
        "Outputs": {
            "Own": {"Value": {"Fn::GetAtt": ["Server", "PublicIp"]}},
            "Further": {"Value": {"Ref": "Address"}},
        },
    }


def test_groups_and_elastic_addresses(stage: StackStage) -> None:
    """What no rule lets in stays out, at both addresses; changed rules need no restart; a restart keeps them."""

    def body(*ports: int) -> str:
        return stage.write("network.template", json.dumps(document(*ports)))

    stage.pcloud("stack", "create", "network", "-t", body(8080), "--wait")
    told = stage.outputs("network")
    own, further = told["Own"], told["Further"]
    assert own != further
    until("8080 answers", lambda: answers(own, 8080), 60)
    until("at the other address too", lambda: answers(further, 8080))
    place = stage.places("network")["server"]
    until("8081 is served", lambda: "8081" in stage.guest(place, "ss", "-ltn"))
    assert not answers(own, 8081)
    assert not answers(further, 8081)

    before = stage.booted(place)
    stage.pcloud("stack", "update", "network", "-t", body(8081), "--wait")
    until("8081 answers", lambda: answers(own, 8081))
    assert not answers(own, 8080)
    assert stage.booted(place) == before

    # Nothing is lost with a restart
    stage.guest(place, "sh", "-c", "systemctl reboot --no-block; true")
    until("another boot", lambda: stage.rebooted(place, before))
    until("8081 answers", lambda: answers(further, 8081), 30)
    assert not answers(further, 8080)

    stage.pcloud("stack", "delete", "network", "--wait")
    assert stage.left() == []
    leases = stage.home / "infrastructure/lxc/leases"
    assert not leases.exists() or list(leases.iterdir()) == []


HOT = """
heat_template_version: 2016-10-14
resources:
  key: {type: "OS::Nova::KeyPair", properties: {name: netkey, save_private_key: true}}
  group:
    type: OS::Neutron::SecurityGroup
    properties: {rules: [{protocol: icmp}, {protocol: tcp, port_range_min: 8080, port_range_max: 8080}]}
  port:
    type: OS::Neutron::Port
    properties: {network: any, security_groups: [{get_resource: group}]}
  server:
    type: OS::Nova::Server
    properties:
      image: Fedora-cfntools
      flavor: m1.tiny
      key_name: {get_resource: key}
      admin_pass: Secret1
      networks: [{port: {get_resource: port}}]
      user_data_format: RAW
      user_data: |
        #!/bin/sh
        for port in 8080 8081; do systemd-run python3 -m http.server $port; done
  floating:
    type: OS::Neutron::FloatingIP
    properties: {floating_network: any, port_id: {get_resource: port}}
outputs:
  own: {value: {get_attr: [server, first_address]}}
  at_port: {value: {get_attr: [port, fixed_ips, 0, ip_address]}}
  floating: {value: {get_attr: [floating, floating_ip_address]}}
"""


def test_ports_keys_and_floating_addresses(stage: StackStage) -> None:
    """A server has its port's address and the floating one; its root takes the key pair."""
    template = stage.write("ports.yaml", HOT)
    stage.pcloud("stack", "create", "ports", "-t", template, "--wait")
    told = stage.outputs("ports")
    until("8080 answers", lambda: answers(told["own"], 8080), 60)
    place = stage.places("ports")["server"]
    until("8081 is served", lambda: "8081" in stage.guest(place, "ss", "-ltn"))
    for address in told.values():
        until(f"8080 answers at {address}", lambda address=address: answers(address, 8080))  # type: ignore[misc]
        assert not answers(address, 8081), address
    assert "ssh-ed25519" in stage.guest(place, "cat", "/root/.ssh/authorized_keys")
    assert stage.guest(place, "getent", "shadow", "root").startswith("root:$")
    stage.pcloud("stack", "delete", "ports", "--wait")
    assert stage.left() == []


def test_daemon_and_engines_die_while_a_guest_is_made(stage: StackStage) -> None:
    """`kill -9` of all processes of ours: the next start brings the stack to its end, with one guest."""
    template = stage.write("crash.template", json.dumps(document(8080)))
    stage.pcloud("stack", "create", "crash", "-t", template)
    until("the deployable", lambda: any(each["name"].startswith("crash-") for each in stage.deployables()), 60)
    stage.kill_all()
    stage.pcloud("up", "--detach")

    def state() -> str:
        return str(stage.ask("describe-stacks", "--stack-name", "crash")["Stacks"][0]["StackStatus"])

    until("the stack's end", lambda: not state().endswith("IN_PROGRESS"), 600)
    assert state() == "CREATE_COMPLETE", stage.pcloud("stack", "events", "crash")
    assert list(stage.places("crash")) == ["server"]
    until("8080 answers", lambda: answers(stage.outputs("crash")["Further"], 8080), 60)
    stage.pcloud("stack", "delete", "crash", "--wait")
    assert stage.left() == []
    assert stage.deployables() == []


def opens(stage: StackStage, place: str, address: str, port: int = 22) -> bool:
    """Tell whether a guest reaches a port."""
    words = ["timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
    deployable, _, assembly = place.partition("/")
    try:
        return stage.client.execute(deployable, assembly, words).returncode == 0
    except PcloudError:  # it does not run commands now
        return False


def members_document(size: int) -> dict[str, Any]:
    """A guest that takes members of a group only, members that are scaled, and one that is none."""
    server = {"ImageId": "bookworm-cfntools", "InstanceType": "m1.tiny"}
    scaling = {"AvailabilityZones": ["local"], "LaunchConfigurationName": {"Ref": "Launch"}}
    return {
        "Resources": {
            "Web": {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": "members"}},
            "Db": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {
                    "GroupDescription": "the one rule is a map",
                    "SecurityGroupIngress": {
                        "IpProtocol": "tcp",
                        "FromPort": "8080",
                        "ToPort": "8080",
                        "SourceSecurityGroupId": {"Fn::GetAtt": ["Web", "GroupId"]},
                    },
                },
            },
            "Server": {
                "Type": "AWS::EC2::Instance",
                "Properties": {
                    **server,
                    "SecurityGroups": [{"Ref": "Db"}],
                    "UserData": {"Fn::Base64": SERVE},
                },
            },
            "Stranger": {"Type": "AWS::EC2::Instance", "Properties": server},
            "Launch": {
                "Type": "AWS::AutoScaling::LaunchConfiguration",
                "Properties": {**server, "SecurityGroups": [{"Ref": "Web"}]},
            },
            "Group": {
                "Type": "AWS::AutoScaling::AutoScalingGroup",
                "Properties": {**scaling, "MinSize": size, "MaxSize": size},
            },
        },
        "Outputs": {"Own": {"Value": {"Fn::GetAtt": ["Server", "PrivateIp"]}}},
    }


def test_rules_that_name_a_group_follow_its_members(stage: StackStage) -> None:
    """Members of a scaling group get in as they come, also after a restart, and nobody else does; not even this host."""

    def body(size: int) -> str:
        return stage.write("members.template", json.dumps(members_document(size)))

    def places() -> dict[str, str]:
        return {key: place for key, place in stage.places("members").items() if key.startswith("member")}

    stage.pcloud("stack", "create", "members", "-t", body(1), "--wait")
    own = stage.outputs("members")["Own"]
    here = stage.places("members")

    def reaches(place: str) -> bool:
        return opens(stage, place, own, 8080)

    (first,) = places().values()
    until("a member gets in", lambda: reaches(first))
    assert not reaches(here["stranger"])
    assert not answers(own, 8080)

    stage.pcloud("stack", "update", "members", "-t", body(2), "--wait")
    assert len(places()) == 2
    for place in places().values():
        until("every member gets in", lambda place=place: reaches(place))  # type: ignore[misc]
    before = stage.booted(here["server"])
    stage.guest(here["server"], "sh", "-c", "systemctl reboot --no-block; true")
    until("another boot", lambda: stage.rebooted(here["server"], before))
    until("a member gets in again", lambda: reaches(first))
    assert not reaches(here["stranger"])

    stage.pcloud("stack", "delete", "members", "--wait")
    assert stage.left() == []
    assert not (stage.home / "infrastructure/lxc/groups").exists()


def test_addresses_that_are_asked_for(stage: StackStage) -> None:
    """A server, a port and a floating address have them, after a restart too; who asks for one that is taken is refused
    before anything starts; afterwards it is free."""
    # An address of its own keeps the network, so that it is known.
    stage.pcloud("stack", "create", "held", "-t", stage.write("held.template", json.dumps(
        {"Resources": {"Address": {"Type": "AWS::EC2::EIP"}}, "Outputs": {"Is": {"Value": {"Ref": "Address"}}}}
    )), "--wait")  # fmt: skip
    held = stage.outputs("held")["Is"]
    network = json.loads((stage.home / "infrastructure/lxc/network.json").read_text())["subnet"].rpartition(".0.0/")[0]
    own, at_port, at_floating = (f"{network}.3.{number}" for number in (7, 8, 9))

    def asking(name: str, fixed: str) -> str:
        server = {"image": "bookworm-cfntools", "flavor": "m1.tiny"}
        networks = [{"network": "any", "fixed_ip": fixed}, {"port": {"get_resource": "port"}}]
        floating = {"floating_network": "x", "floating_ip_address": at_floating, "port_id": {"get_resource": "port"}}
        port = {"network": "any", "fixed_ips": [{"ip_address": at_port}]}
        resources = {
            "server": {"type": "OS::Nova::Server", "properties": {**server, "networks": networks}},
            "port": {"type": "OS::Neutron::Port", "properties": port},
            "floating": {"type": "OS::Neutron::FloatingIP", "properties": floating},
        }
        return stage.write(name, json.dumps({"heat_template_version": "2018-08-31", "resources": resources}))

    refused = stage.run("stack", "create", "asked", "-t", asking("bad.json", held), "--wait")
    assert refused.returncode
    assert f"{held} is taken by" in refused.stdout + refused.stderr
    assert stage.deployables() == []

    good = asking("good.json", own)
    stage.pcloud("stack", "create", "asked", "-t", good, "--wait")
    place = stage.places("asked")["server"]
    assert stage.status(place.partition("/")[0])["assemblies"][0]["address"] == own
    for address in (own, at_port, at_floating):
        until(f"sshd answers at {address}", lambda address=address: answers(address, 22))  # type: ignore[misc]
    twice = stage.run("stack", "create", "again", "-t", good)
    assert twice.returncode
    assert f"{own} is taken by" in twice.stdout + twice.stderr

    before = stage.booted(place)
    stage.guest(place, "sh", "-c", "systemctl reboot --no-block; true")
    until("another boot", lambda: stage.rebooted(place, before))
    for address in (own, at_port, at_floating):
        until(f"sshd answers at {address}", lambda address=address: answers(address, 22))  # type: ignore[misc]
    stage.pcloud("stack", "delete", "asked", "--wait")
    assert "create   server" in stage.pcloud("stack", "plan", "again", "-t", good)
    stage.pcloud("stack", "delete", "held", "--wait")
    assert stage.left() == []


def made(stage: StackStage) -> set[str]:
    """The links and network namespaces that there shall be for networks and routers of stacks."""
    state = stage.home / "infrastructure/lxc"
    segments = Segments(state)
    bridges = {segments.bridge(path.stem) for path in (state / "networks").glob("*.json")}
    return bridges | {segments.space(path.stem) for path in (state / "routers").glob("*.json")}


def there(wanted: set[str]) -> set[str]:
    """Those of them that there are."""
    folder = Path("/run/netns")
    spaces = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return wanted & (names("links") | spaces)


NEW_NET = "hot/servers_in_new_neutron_net.yaml"
NEW_NET_SAYS = {
    "key_name": "any", "image": "bookworm-cfntools", "flavor": "m1.tiny", "public_net": "public",
    "private_net_name": "private", "private_net_cidr": "192.168.77.0/24", "private_net_gateway": "192.168.77.1",
    "private_net_pool_start": "192.168.77.10", "private_net_pool_end": "192.168.77.20",
}  # fmt: skip


def test_servers_in_a_network_of_their_own(stage: StackStage) -> None:
    """The Heat project's template: a network, a router, two servers and their floating addresses; all of ours are killed
    while it is made. Who may reach whom follows from that, and does so again after a restart."""
    parameters = [word for key, value in NEW_NET_SAYS.items() for word in ("-p", f"{key}={value}")]
    stage.pcloud("stack", "create", "newnet", "-t", str(template(NEW_NET)), *parameters)
    until("the deployable", lambda: any(each["name"].startswith("newnet-") for each in stage.deployables()))
    stage.kill_all()
    stage.pcloud("up", "--detach")

    def state() -> str:
        return str(stage.ask("describe-stacks", "--stack-name", "newnet")["Stacks"][0]["StackStatus"])

    until("the stack's end", lambda: not state().endswith("IN_PROGRESS"), 600)
    assert state() == "CREATE_COMPLETE", stage.pcloud("stack", "events", "newnet")
    stage.pcloud("stack", "create", "other", "-t", stage.write("other.json", json.dumps(
        {"Resources": {"Other": {
            "Type": "AWS::EC2::Instance", "Properties": {"ImageId": "bookworm-cfntools", "InstanceType": "m1.tiny"},
        }}}
    )), "--wait")  # fmt: skip
    told = stage.outputs("newnet")
    assert {told["server1_private_ip"], told["server2_private_ip"]} == {"192.168.77.10", "192.168.77.11"}
    place = {**stage.places("newnet"), **stage.places("other")}
    own = {each["name"].rpartition("-")[0]: each["address"]
           for name in (place["server1"].partition("/")[0], place["other"].partition("/")[0])
           for each in stage.status(name)["assemblies"]}  # fmt: skip

    def holds() -> None:
        for one, two in (("server1", "server2"), ("server2", "server1")):
            private, public = told[f"{two}_private_ip"], told[f"{two}_public_ip"]
            until("in the network", lambda one=one, private=private: opens(stage, place[one], private))  # type: ignore[misc]
            until("by its floating address", lambda public=public: answers(public, 22))  # type: ignore[misc]
        until("from outside", lambda: opens(stage, place["other"], told["server1_public_ip"]))
        until("to outside", lambda: opens(stage, place["server1"], own["other"]))
        assert not opens(stage, place["other"], told["server1_private_ip"])
        assert not opens(stage, place["other"], own["server1"])
        assert not opens(stage, place["server2"], own["server1"])

    holds()
    before = stage.booted(place["server1"])
    stage.guest(place["server1"], "sh", "-c", "systemctl reboot --no-block; true")
    until("another boot", lambda: stage.rebooted(place["server1"], before))
    holds()
    wanted = made(stage)
    assert len(wanted) == len(there(wanted)) == 2
    for name in ("newnet", "other"):
        stage.pcloud("stack", "delete", name, "--wait")
    assert stage.left() == []
    assert there(wanted) == set()
    state = stage.home / "infrastructure/lxc"
    for kind in ("networks", "subnets", "routers", "segments", "leases"):
        assert not (state / kind).exists() or list((state / kind).iterdir()) == [], kind
