"""cloud-init and heat-cfntools in a real guest against our endpoint: cfn-init, cfn-signal, cfn-hup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack_stage import StackStage
from tests.e2e.stage import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

USER_DATA = """#!/bin/bash
umask 077
mkdir -p /etc/cfn/hooks.d
cat > /etc/cfn/cfn-credentials <<CREDENTIALS
AWSAccessKeyId=${Key}
AWSSecretKey=${Key.SecretAccessKey}
CREDENTIALS
cat > /etc/cfn/cfn-hup.conf <<CONFIG
[main]
stack=${AWS::StackName}
credential-file=/etc/cfn/cfn-credentials
region=${AWS::Region}
CONFIG
cat > /etc/cfn/hooks.d/again.conf <<HOOK
[again]
triggers=post.add, post.update
path=Resources.Server.Metadata.AWS::CloudFormation::Init
runas=root
action=/opt/aws/bin/cfn-init -s ${AWS::StackName} -r Server --access-key ${Key} --secret-key ${Key.SecretAccessKey} \
--region ${AWS::Region}
HOOK
/opt/aws/bin/cfn-init -s ${AWS::StackName} -r Server --access-key ${Key} --secret-key ${Key.SecretAccessKey} \
--region ${AWS::Region}
/opt/aws/bin/cfn-signal -e $? -r "made by $(cat /srv/greeting)" -d "$(hostname)" "${Handle}"
"""


def document(greeting: str) -> dict[str, Any]:
    """A server that configures itself, and a stack that waits for it."""
    config = {
        "files": {"/srv/greeting": {"content": greeting, "mode": "000644", "owner": "root", "group": "root"}},
        "commands": {"note": {"command": "date +%s.%N >> /srv/times"}},
        "services": {"systemd": {"crond": {"enabled": "true", "ensureRunning": "true"}}},
    }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "User": {"Type": "AWS::IAM::User"},
            "Key": {"Type": "AWS::IAM::AccessKey", "Properties": {"UserName": {"Ref": "User"}}},
            "Handle": {"Type": "AWS::CloudFormation::WaitConditionHandle"},
            "Ready": {
                "Type": "AWS::CloudFormation::WaitCondition",
                "DependsOn": "Server",
                "Properties": {"Handle": {"Ref": "Handle"}, "Timeout": "300"},
            },
            "Server": {
                "Type": "AWS::EC2::Instance",
                "Metadata": {"AWS::CloudFormation::Init": {"config": config}},
                "Properties": {
                    "ImageId": "F17-x86_64-cfntools",
                    "InstanceType": "m1.tiny",
                    "UserData": {"Fn::Base64": {"Fn::Sub": USER_DATA}},
                },
            },
        },
        "Outputs": {"Told": {"Value": {"Fn::GetAtt": ["Ready", "Data"]}}},
    }


@pytest.fixture(scope="module")
def stage() -> Iterator[StackStage]:
    """A daemon of our own."""
    with StackStage.opened("c") as stage:
        yield stage


def test_tools_in_the_guest(stage: StackStage) -> None:
    """cfn-init reads its metadata from us, cfn-signal ends the wait, cfn-hup applies changed metadata; a key is scoped."""
    body = f"file://{stage.write('tools.template', json.dumps(document('hello')))}"
    stage.aws("create-stack", "--stack-name", "tools", "--template-body", body, "--capabilities", "CAPABILITY_IAM")
    stage.aws("wait", "stack-create-complete", "--stack-name", "tools")
    place = stage.places("tools")["server"]
    told = json.loads(stage.outputs("tools")["Told"])
    assert list(told.values()) == [place.partition("/")[2]]
    assert stage.guest(place, "cat", "/srv/greeting") == "hello"
    log = stage.guest(place, "cat", "/var/log/cfn-init.log")
    assert "Unable to retrieve remote metadata" not in log
    stage.running(place.partition("/")[0], 120)
    assert stage.guest(place, "systemctl", "is-active", "cron") == "active"

    # Changed metadata: nothing is restarted, and the guest takes it when it looks
    before = stage.booted(place)
    body = f"file://{stage.write('tools.template', json.dumps(document('good day')))}"
    stage.aws("update-stack", "--stack-name", "tools", "--template-body", body, "--capabilities", "CAPABILITY_IAM")
    stage.aws("wait", "stack-update-complete", "--stack-name", "tools")
    assert stage.guest(place, "cat", "/srv/greeting") == "hello"
    stage.guest(place, "cfn-hup", "-f")
    until("the new greeting", lambda: stage.guest(place, "cat", "/srv/greeting") == "good day", 30)
    assert stage.booted(place) == before
    times = stage.guest(place, "cat", "/srv/times").splitlines()
    stage.guest(place, "cfn-hup", "-f")
    assert stage.guest(place, "cat", "/srv/times").splitlines() == times, "unchanged metadata runs no hook"

    # The guest's key reads this stack's metadata and no more
    credentials = dict(
        line.split("=", 1) for line in stage.guest(place, "cat", "/etc/cfn/cfn-credentials").splitlines()
    )
    operator = dict(stage.clients)
    stage.clients |= {
        "AWS_ACCESS_KEY_ID": credentials["AWSAccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["AWSSecretKey"],
    }
    stage.aws("describe-stack-resource", "--stack-name", "tools", "--logical-resource-id", "Server")
    stage.aws("delete-stack", "--stack-name", "tools", code=255)
    stage.clients = operator
    stage.aws("delete-stack", "--stack-name", "tools")
    stage.aws("wait", "stack-delete-complete", "--stack-name", "tools")
    assert stage.left() == []
