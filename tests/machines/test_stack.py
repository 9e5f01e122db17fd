"""A stack whose guests are machines: what user data, metadata, a security group, a further address and a volume do in a
server, what a killed QEMU brings back, a balancer, a database and an alarm beside it, and what is left in the end.

One stack that grows from test to test, so that few machines are booted: an emulated one takes 15 to 30 s.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure.libvirt_checks import lacking
from pcloud.model.errors import PcloudError
from tests.e2e.stack_stage import StackStage, guarded_server, shows
from tests.e2e.stage import until
from tests.infrastructure.libvirtd import Libvirtd, run_libvirtd

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
PREFIX, NAME = "pcsv-", "pcsv"
PATIENCE = 600.0
UNIT = "[Service]\nExecStart=/usr/bin/python3 -m http.server %i --directory /srv\n"
USER_DATA = """#!/bin/bash
/opt/aws/bin/cfn-init -s ${AWS::StackName} -r Server --region ${AWS::Region}
systemctl start serve@8081
/opt/aws/bin/cfn-signal -e $? -r "made by $(cat /srv/greeting)" -d "$(hostname)" "${Handle}"
"""


SECRET = "it's \\ a 'secret'"
BEYOND: dict[str, Any] = {
    "Balancer": {
        "Type": "AWS::ElasticLoadBalancing::LoadBalancer",
        "Properties": {
            "AvailabilityZones": {"Fn::GetAZs": ""},
            "Instances": [{"Ref": "Server"}],
            "Listeners": [{"LoadBalancerPort": "80", "InstancePort": "8080", "Protocol": "HTTP"}],
            "HealthCheck": {
                "Target": "HTTP:8080/greeting", "HealthyThreshold": "1", "UnhealthyThreshold": "2",
                "Interval": "2", "Timeout": "20",
            },
        },
    },
    "Data": {
        "Type": "AWS::RDS::DBInstance",
        "Properties": {
            "Engine": "MySQL",
            "DBInstanceClass": "db.t1.micro",
            "AllocatedStorage": "5",
            "DBName": "shop",
            "MasterUsername": "keeper",
            "MasterUserPassword": SECRET,
        },
    },
    "Spare": {
        "Type": "PCloud::Resource",
        "Properties": {
            "assembly": {"Ref": "Server"}, "class": "systemd", "type": "spare", "monitor": "20s",
            "timeouts": {"monitor": "5m"},
        },
    },
    "Restart": {"Type": "OS::Heat::HARestarter", "Properties": {"InstanceId": {"Ref": "Server"}}},
    "Alarm": {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "MetricName": "ServiceFailure",
            "Namespace": "system/linux",
            "Dimensions": [{"Name": "Service", "Value": "Spare"}],
            "Statistic": "SampleCount",
            "Period": "300",
            "EvaluationPeriods": "1",
            "Threshold": "0",
            "ComparisonOperator": "GreaterThanThreshold",
            "AlarmActions": [{"Fn::GetAtt": ["Restart", "AlarmUrl"]}],
        },
    },
}  # fmt: skip
"""What comes to the server later: a service of it fails only when the test has it fail, and no such failure is forgiven."""


def document(port: int, beyond: bool = False) -> str:
    """A server that configures itself and tells so, of whose services one may be reached; with or without what is beyond."""
    config = {
        "files": {
            "/srv/greeting": {"content": "hello from a machine", "mode": "000644"},
            "/etc/systemd/system/serve@.service": {"content": UNIT, "mode": "000644"},
            "/etc/systemd/system/front.service": {"content": UNIT.replace("%i", "8080"), "mode": "000644"},
            "/etc/systemd/system/spare.service": {"content": UNIT.replace("%i", "8083"), "mode": "000644"},
        },
        "services": {"systemd": {"front": {"enabled": "true", "ensureRunning": "true"}}},
    }
    ingress = [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "CidrIp": "0.0.0.0/0"}]
    resources: dict[str, Any] = {
        "Handle": {"Type": "AWS::CloudFormation::WaitConditionHandle"},
        "Ready": {
            "Type": "AWS::CloudFormation::WaitCondition",
            "DependsOn": "Server",
            "Properties": {"Handle": {"Ref": "Handle"}, "Timeout": "1200"},
        },
        **guarded_server(config, {"Fn::Sub": USER_DATA}, ingress),
        "Disk": {"Type": "AWS::EC2::Volume", "Properties": {"Size": "1", "AvailabilityZone": "any"}},
        "Attachment": {
            "Type": "AWS::EC2::VolumeAttachment",
            "Properties": {"InstanceId": {"Ref": "Server"}, "VolumeId": {"Ref": "Disk"}, "Device": "/dev/vdb"},
        },
        "Address": {"Type": "AWS::EC2::EIP"},
        "Association": {
            "Type": "AWS::EC2::EIPAssociation",
            "Properties": {"EIP": {"Ref": "Address"}, "InstanceId": {"Ref": "Server"}},
        },
    }
    outputs: dict[str, Any] = {
        "Told": {"Value": {"Fn::GetAtt": ["Ready", "Data"]}},
        "Own": {"Value": {"Fn::GetAtt": ["Server", "PublicIp"]}},
        "Further": {"Value": {"Ref": "Address"}},
        "Disk": {"Value": {"Ref": "Disk"}},
    }
    if beyond:
        resources |= BEYOND
        outputs |= {
            "Url": {"Value": {"Fn::Join": ["", ["http://", {"Fn::GetAtt": ["Balancer", "DNSName"]}, "/greeting"]]}},
            "Database": {"Value": {"Fn::GetAtt": ["Data", "Endpoint.Address"]}},
        }
    return json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources, "Outputs": outputs})


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory) -> Iterator[Libvirtd]:
    with run_libvirtd(tmp_path_factory.mktemp("libvirtd")) as server:
        yield server


@pytest.fixture(scope="module")
def stage(libvirtd: Libvirtd) -> Iterator[StackStage]:
    """A daemon of our own, whose stacks have their guests on libvirt."""
    if lacks := lacking({"uri": libvirtd.uri}).get(Capability.FIREWALL):
        pytest.skip(lacks)
    made = StackStage("mach")
    names = f'prefix = "{PREFIX}"\nnetwork = "{NAME}"\npool = "{NAME}"\nbridge = "{NAME}{os.getpid()}"\n'
    made.begin(f'[infrastructures.libvirt]\nuri = "{libvirtd.uri}"\n{names}', "libvirt")
    try:
        yield made
    finally:
        made.close()


def answers(address: str, port: int) -> bool:
    """Tell whether something takes connections."""
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except OSError:
        return False


def deploy(stage: StackStage, command: str, port: int, *, beyond: bool = False) -> None:
    """Make the stack, or change it, and wait until that is done."""
    body = stage.write("machine.template", document(port, beyond))
    done = stage.run("stack", command, "machine", "-t", body, "--wait", timeout=1200)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{stage.diary()}"


def has_disk(stage: StackStage, place: str, path: str) -> bool:
    """Tell whether a path in a guest is a disk of a volume: links appear when the guest has seen it."""
    told = f'cat "/sys/block/$(basename "$(readlink -f {path})")/device/vendor"; true'
    return "pcloud" in stage.guest(place, "sh", "-c", told)


def boot_of(stage: StackStage, place: str) -> str:
    """Return what differs after each boot; empty while the guest does not run commands."""
    return stage.guest(place, "cat", "/proc/sys/kernel/random/boot_id") if stage.answers(place) else ""


def test_a_server_on_a_machine(stage: StackStage, libvirtd: Libvirtd) -> None:
    body = stage.write("machine.template", document(8080))
    assert "guests are made on libvirt" in stage.pcloud("stack", "plan", "machine", "-t", body)
    deploy(stage, "create", 8080)
    told = stage.outputs("machine")
    place = stage.places("machine")["server"]
    deployable, assembly = place.split("/")
    assert list(json.loads(told["Told"]).values()) == [assembly], "cfn-signal reached us"

    # The group lets one port in, at both addresses; the other is there and stays out
    stage.running(deployable, PATIENCE)
    until("8080 answers", lambda: answers(told["Own"], 8080), PATIENCE)
    until("8080 answers at the further address", lambda: answers(told["Further"], 8080), PATIENCE)
    until("8081 listens", lambda: "8081" in stage.guest(place, "ss", "-ltn"), PATIENCE)
    assert not answers(told["Own"], 8081)
    assert not answers(told["Further"], 8081)

    # The volume is there by its name (which the seed's disk had) and by its id, and is written
    id_ = f"/dev/disk/by-id/virtio-{told['Disk']}"
    until("the volume", lambda: has_disk(stage, place, id_) and has_disk(stage, place, "/dev/vdb"), PATIENCE)
    stage.guest(
        place, "sh", "-c", "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && echo kept >/mnt/data && umount /mnt"
    )

    boot = stage.guest(place, "cat", "/proc/sys/kernel/random/boot_id")
    deploy(stage, "update", 8081)
    until("8081 answers", lambda: answers(told["Own"], 8081), PATIENCE)
    assert not answers(told["Own"], 8080)
    assert stage.guest(place, "cat", "/proc/sys/kernel/random/boot_id") == boot, "without a restart"

    # What the metadata wants to run is watched
    cursor = stage.cursor()
    stage.guest(place, "systemctl", "kill", "-s", "KILL", "front")
    stage.told(cursor, f"{place}/front", "running", PATIENCE)

    # A killed machine comes back with its addresses and its rules (its services follow when cloud-init is done again)
    cursor = stage.cursor()
    os.kill(libvirtd.qemu(f"{PREFIX}{deployable}.{assembly}"), signal.SIGKILL)
    stage.told(cursor, place, "failed", PATIENCE)
    stage.told(cursor, place, "running", PATIENCE)
    assert stage.guest(place, "cat", "/proc/sys/kernel/random/boot_id") != boot
    until("the volume again", lambda: has_disk(stage, place, id_), PATIENCE)
    assert stage.guest(place, "sh", "-c", f"mount {id_} /mnt && cat /mnt/data && umount /mnt").strip() == "kept"
    stage.guest(place, "systemctl", "start", "serve@8081", "serve@8082")
    until("8081 answers", lambda: answers(told["Further"], 8081), PATIENCE)
    until("8082 listens", lambda: "8082" in stage.guest(place, "ss", "-ltn"), PATIENCE)
    assert not answers(told["Further"], 8082)


def restarted(stage: StackStage, place: str, before: str) -> bool:
    """Tell whether a guest runs commands after another boot than the one before."""
    try:
        return boot_of(stage, place) not in ("", before)
    except (AssertionError, PcloudError):
        return False  # it went down between two questions


def test_a_balancer_a_database_and_an_alarm_on_machines(stage: StackStage, libvirtd: Libvirtd) -> None:
    """haproxy leads to the server, MariaDB lets its user in, and the third guest is restarted when an alarm says so; what
    the balancer's machine loses when it dies is there again."""
    deploy(stage, "update", 8080, beyond=True)
    told, places = stage.outputs("machine"), stage.places("machine")
    deployable, balancer = places["balancer"].split("/")
    stage.running(deployable, PATIENCE)
    shows(told["Url"], "hello from a machine", PATIENCE)

    # The database: from outside by its greeting, and by its user's password over the network
    with socket.create_connection((told["Database"], 3306), timeout=60) as connection:
        assert b"MariaDB" in connection.recv(200)
    query = ["mariadb", "-h", told["Database"], "-u", "keeper", f"--password={SECRET}", "-N", "-e", "show databases"]
    assert "shop" in stage.guest(places["data"], *query).split()

    # A service fails: the alarm has its guest restarted. Meanwhile the balancer's machine dies
    before, cursor = {name: boot_of(stage, place) for name, place in places.items()}, stage.cursor()
    stage.guest(places["server"], "systemctl", "kill", "-s", "KILL", "spare")
    os.kill(libvirtd.qemu(f"{PREFIX}{deployable}.{balancer}"), signal.SIGKILL)
    for name in ("server", "balancer"):
        until(f"{name} restarted", lambda name=name: restarted(stage, places[name], before[name]), PATIENCE)
    shows(told["Url"], "hello from a machine", PATIENCE)
    stage.running(deployable, PATIENCE)
    assert boot_of(stage, places["data"]) == before["data"], "the database was left alone"
    escalations = [event["data"] for event in stage.events(cursor) if event["type"].endswith("escalation")]
    assert [each["assembly"] for each in escalations] == [places["server"].split("/")[1]]
    assert "Threshold Crossed" in escalations[0]["reason"]
    assert stage.guest(places["server"], "systemctl", "is-active", "spare") == "active"


def test_nothing_is_left(stage: StackStage, libvirtd: Libvirtd) -> None:
    done = stage.run("stack", "delete", "machine", "--wait", timeout=600)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{stage.diary()}"
    assert stage.json("get") == []
    assert libvirtd.names("list") == []
    assert libvirtd.names("net-list") == []
    assert [each for each in libvirtd.filters() if each.startswith(PREFIX)] == []
    volumes = stage.home / "infrastructure/libvirt/volumes"
    assert [path.name for path in volumes.iterdir() if path.name.startswith(PREFIX)] == []
    assert not volumes.with_name("disks").exists()
