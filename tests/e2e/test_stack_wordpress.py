"""WordPress from the Heat project's CloudFormation templates, by the real clients: up, broken, healed, changed, deleted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.stack_stage import StackStage, shows, template
from tests.e2e.stage import names, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
INSTALLER = "&rsaquo; Installation"
"""The first page of a WordPress that has reached its database; without one it says so in other words."""

WITH_BOTO3 = """
import sys, boto3
name, body = sys.argv[1], open(sys.argv[2]).read()
client = boto3.client("cloudformation")
if body:
    client.create_stack(
        StackName=name, TemplateBody=body, Parameters=[{"ParameterKey": "KeyName", "ParameterValue": "anybody"}]
    )
    client.get_waiter("stack_exists").wait(StackName=name)
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 900})
else:
    client.delete_stack(StackName=name)
    client.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 300})
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[StackStage]:
    """A daemon of our own."""
    with StackStage.opened("w") as stage:
        yield stage


def nothing_left(stage: StackStage) -> None:
    """No guest, deployable, mount, address or bridge of ours."""
    assert stage.left() == []
    assert stage.deployables() == []
    assert stage.bridge not in names("links")
    leases = stage.home / "infrastructure/lxc/leases"
    assert not leases.exists() or list(leases.iterdir()) == []


def test_one_guest_by_deploy(stage: StackStage) -> None:
    """`aws cloudformation deploy` brings the page up; what is killed comes back; delete leaves nothing."""
    path = template("cfn/F17/WordPress_Single_Instance.template")
    stage.aws("deploy", "--stack-name", "single", "--template-file", str(path),
              "--parameter-overrides", "KeyName=anybody")  # fmt: skip
    url = stage.outputs("single")["WebsiteURL"]
    shows(url, INSTALLER, 300)
    place = stage.places("single")["wikidatabase"]
    log = stage.guest(place, "cat", "/var/log/cfn-init.log")
    assert "Starting service" in log or "Enabling service" in log, f"cfn-init did not run in the guest: {log}"
    deployable = place.partition("/")[0]
    stage.running(deployable, 120)

    # A killed service
    before = stage.main_pid(place, "apache2")
    stage.guest(place, "sh", "-c", "killall -9 apache2 2>/dev/null || pkill -9 -x apache2")
    until("apache2 runs again", lambda: stage.main_pid(place, "apache2") not in ("0", before), 60)
    shows(url, INSTALLER, 60)

    # A killed guest
    stage.guest(place, "sh", "-c", "echo kept > /var/tmp/kept; sync")
    boot = stage.booted(place)
    os.kill(stage.guest_init(place.replace("/", ".")), signal.SIGKILL)
    until("another boot", lambda: stage.rebooted(place, boot), 120)
    shows(url, INSTALLER, 120)
    stage.running(deployable, 120)
    assert stage.guest(place, "cat", "/var/tmp/kept") == "kept"

    resource = stage.ask("describe-stack-resource", "--stack-name", "single", "--logical-resource-id", "WikiDatabase")
    assert resource["StackResourceDetail"]["ResourceStatus"] == "CREATE_COMPLETE"
    stage.aws("delete-stack", "--stack-name", "single")
    stage.aws("wait", "stack-delete-complete", "--stack-name", "single")
    nothing_left(stage)


def test_two_guests_by_change_sets(stage: StackStage) -> None:
    """A change set makes two guests in order; another one changes one of them, and touches nothing else."""
    path = template("cfn/F17/WordPress_2_Instances.template")
    key = "ParameterKey=KeyName,ParameterValue=anybody"
    stage.aws("create-change-set", "--stack-name", "two", "--change-set-name", "first", "--change-set-type", "CREATE",
              "--template-body", path.as_uri(), "--parameters", key)  # fmt: skip
    stage.aws("wait", "change-set-create-complete", "--stack-name", "two", "--change-set-name", "first")
    planned = stage.ask("describe-change-set", "--stack-name", "two", "--change-set-name", "first")["Changes"]
    assert {each["ResourceChange"]["LogicalResourceId"] for each in planned} == {"DatabaseServer", "WebServer"}
    assert stage.left() == [], "a plan makes nothing"
    stage.aws("execute-change-set", "--stack-name", "two", "--change-set-name", "first")
    stage.aws("wait", "stack-create-complete", "--stack-name", "two")
    url = stage.outputs("two")["WebsiteURL"]
    shows(url, INSTALLER, 300)
    places = stage.places("two")
    database, web = places["databaseserver"], places["webserver"]
    stage.running(database.partition("/")[0], 120)

    # An update changes only what the change says: the size of one of the two
    document = json.loads(path.read_text())
    document["Resources"]["WebServer"]["Properties"]["InstanceType"] = "m1.medium"
    changed = stage.write("changed.template", json.dumps(document))
    before = {name: stage.booted(place) for name, place in places.items()}
    mariadb = stage.main_pid(database, "mariadb")
    stage.aws("create-change-set", "--stack-name", "two", "--change-set-name", "second",
              "--template-body", f"file://{changed}", "--parameters", key)  # fmt: skip
    stage.aws("wait", "change-set-create-complete", "--stack-name", "two", "--change-set-name", "second")
    planned = stage.ask("describe-change-set", "--stack-name", "two", "--change-set-name", "second")["Changes"]
    assert [each["ResourceChange"]["LogicalResourceId"] for each in planned] == ["WebServer"]
    stage.aws("execute-change-set", "--stack-name", "two", "--change-set-name", "second")
    stage.aws("wait", "stack-update-complete", "--stack-name", "two")
    assert stage.places("two") == places
    assert stage.booted(database) == before["databaseserver"]
    assert stage.main_pid(database, "mariadb") == mariadb
    assert stage.booted(web) != before["webserver"]
    config = stage.home / "infrastructure/lxc/guests" / web.replace("/", ".") / "config"
    assert "2147483648" in config.read_text()
    shows(url, INSTALLER, 120)

    stage.aws("delete-stack", "--stack-name", "two")
    stage.aws("wait", "stack-delete-complete", "--stack-name", "two")
    nothing_left(stage)


def test_boto3s_waiters(stage: StackStage) -> None:
    """boto3 makes a stack and waits for it, and for its end."""
    path = template("cfn/F17/WordPress_Single_Instance.template")
    stage.boto3(WITH_BOTO3, "waited", str(path))
    shows(stage.outputs("waited")["WebsiteURL"], INSTALLER, 300)
    stage.boto3(WITH_BOTO3, "waited", os.devnull)
    nothing_left(stage)
