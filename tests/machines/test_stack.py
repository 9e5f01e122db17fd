"""A stack whose server is a machine: what its user data, its metadata, its security group and its further address do there,
what a killed QEMU brings back, and what is left in the end. One machine, which boots twice.
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
from tests.e2e.stack_stage import StackStage, guarded_server
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


def document(port: int) -> str:
    """A server that configures itself and tells so, of whose two services one may be reached."""
    config = {
        "files": {
            "/srv/greeting": {"content": "hello from a machine", "mode": "000644"},
            "/etc/systemd/system/serve@.service": {"content": UNIT, "mode": "000644"},
            "/etc/systemd/system/front.service": {"content": UNIT.replace("%i", "8080"), "mode": "000644"},
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
        "Address": {"Type": "AWS::EC2::EIP"},
        "Association": {
            "Type": "AWS::EC2::EIPAssociation",
            "Properties": {"EIP": {"Ref": "Address"}, "InstanceId": {"Ref": "Server"}},
        },
    }
    outputs = {
        "Told": {"Value": {"Fn::GetAtt": ["Ready", "Data"]}},
        "Own": {"Value": {"Fn::GetAtt": ["Server", "PublicIp"]}},
        "Further": {"Value": {"Ref": "Address"}},
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


def test_a_stack_on_machines(stage: StackStage, libvirtd: Libvirtd) -> None:
    def body(port: int) -> str:
        return stage.write("machine.template", document(port))

    assert "guests are made on libvirt" in stage.pcloud("stack", "plan", "machine", "-t", body(8080))
    done = stage.run("stack", "create", "machine", "-t", body(8080), "--wait", timeout=1200)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{stage.diary()}"
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
    boot = stage.guest(place, "cat", "/proc/sys/kernel/random/boot_id")
    stage.pcloud("stack", "update", "machine", "-t", body(8081), "--wait")
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
    stage.guest(place, "systemctl", "start", "serve@8081", "serve@8082")
    until("8081 answers", lambda: answers(told["Further"], 8081), PATIENCE)
    until("8082 listens", lambda: "8082" in stage.guest(place, "ss", "-ltn"), PATIENCE)
    assert not answers(told["Further"], 8082)

    # Nothing of it is left
    done = stage.run("stack", "delete", "machine", "--wait", timeout=600)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{stage.diary()}"
    assert stage.json("get") == []
    assert libvirtd.names("list") == []
    assert libvirtd.names("net-list") == []
    assert [each for each in libvirtd.filters() if each.startswith(PREFIX)] == []
    volumes = stage.home / "infrastructure/libvirt/volumes"
    assert [path.name for path in volumes.iterdir() if path.name.startswith(PREFIX)] == []
