"""CloudFormation's operations as boto3 calls them: each does what it says, and what it can not do is refused by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import botocore.exceptions
import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.types.base import Context, ResourceFailed
from pcloud.stacks.types.values import TestResource
from tests.stacks.boto import Server
from tests.stacks.serving import serving

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def server(manager: StackManager) -> AsyncIterator[Server]:
    async with serving(cloudformation_app(manager, {"good": "admin"}.get)) as url:
        yield Server(manager, url)


def resource(value: Any = "v", **properties: Any) -> dict[str, Any]:
    return {"Type": "OS::Heat::TestResource", "Properties": {"value": value, **properties}}


def body(outputs: dict[str, Any] | None = None, **resources: Any) -> str:
    return json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources, "Outputs": outputs or {}})


async def settled(server: Server, name: str) -> dict[str, Any]:
    """The stack once nothing is done to it any more."""
    await server.manager.wait(server.manager.get(name))
    (stack,) = (await server.call("describe_stacks", StackName=name))["Stacks"]
    return dict(stack)


async def create(server: Server, name: str, template: str, **more: Any) -> dict[str, Any]:
    await server.call("create_stack", StackName=name, TemplateBody=template, **more)
    return await settled(server, name)


async def update(server: Server, name: str, template: str, **more: Any) -> dict[str, Any]:
    await server.call("update_stack", StackName=name, TemplateBody=template, **more)
    return await settled(server, name)


async def refused(server: Server, sentence: str, operation: str, **given: Any) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match=sentence):
        await server.call(operation, **given)


ONE = body(A=resource())
TRIGGER = {"Arn": "arn:aws:cloudwatch:local:000000000000:alarm:a", "Type": "AWS::CloudWatch::Alarm"}
IMPORTED = {"ResourceType": "AWS::S3::Bucket", "LogicalResourceId": "A", "ResourceIdentifier": {"BucketName": "b"}}


@pytest.mark.parametrize(
    ("member", "value", "instead"),
    [
        ("RollbackConfiguration", {"RollbackTriggers": [TRIGGER]}, "WaitCondition"),
        ("RollbackConfiguration", {"MonitoringTimeInMinutes": 5}, "WaitCondition"),
        ("RoleARN", "arn:aws:iam::000000000000:role/r", "access keys"),
        ("NotificationARNs", ["arn:aws:sns:local:000000000000:t"], "DescribeStackEvents"),
        ("RetainExceptOnCreate", False, "say true"),
        ("DeploymentConfig", {"Mode": "EXPRESS"}, "STANDARD"),
        ("DisableValidation", True, "leave it out"),
    ],
)
async def test_what_is_not_done_is_refused_and_nothing_starts(
    server: Server, member: str, value: Any, instead: str
) -> None:
    await refused(
        server, f"{member} is refused.*{instead}", "create_stack", StackName="s", TemplateBody=ONE, **{member: value}
    )
    assert not server.manager.stacks
    await create(server, "s", ONE)
    two = body(A=resource("w"))
    await refused(server, f"{member} is refused", "update_stack", StackName="s", TemplateBody=two, **{member: value})
    assert (await settled(server, "s"))["StackStatus"] == "CREATE_COMPLETE"


async def test_other_operations_refuse_what_they_do_not_do(server: Server) -> None:
    await create(server, "s", ONE)
    change: dict[str, Any] = {"StackName": "s", "ChangeSetName": "c", "TemplateBody": body(A=resource("w"))}
    for member, value in (
        ("ImportExistingResources", True),
        ("ResourcesToImport", [IMPORTED]),
        ("DeploymentMode", "REVERT_DRIFT"),
        ("RoleARN", "arn:aws:iam::000000000000:role/r"),
    ):
        await refused(server, f"{member} is refused", "create_change_set", **change, **{member: value})
    forced = {"StackName": "s", "DeletionMode": "FORCE_DELETE_STACK"}
    await refused(server, "DeletionMode is refused.*RetainResources", "delete_stack", **forced)
    await refused(server, "ForceRollback is refused", "continue_update_rollback", StackName="s", ForceRollback=True)
    await refused(server, "StackSetName is refused", "get_template_summary", StackSetName="s")


async def test_what_asks_for_nothing_special_is_taken(server: Server) -> None:
    stack = await create(
        server, "s", ONE, RollbackConfiguration={"RollbackTriggers": [], "MonitoringTimeInMinutes": 0},
        NotificationARNs=[], RetainExceptOnCreate=True, DeploymentConfig={"Mode": "STANDARD"}, DisableValidation=False,
    )  # fmt: skip
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    await server.call("delete_stack", StackName="s", DeletionMode="STANDARD")


async def test_resource_types_permit_what_they_name(server: Server) -> None:
    given = {"StackName": "s", "TemplateBody": ONE}
    await refused(server, "A is of type OS::Heat::TestResource", "create_stack", **given, ResourceTypes=["AWS::*"])
    assert (await create(server, "s", ONE, ResourceTypes=["OS::Heat::*"]))["StackStatus"] == "CREATE_COMPLETE"
    more = body(A=resource(), B={"Type": "OS::Heat::Value", "Properties": {"value": "x"}})
    only = ["OS::Heat::TestResource"]
    await refused(server, "B is of type OS::Heat::Value", "update_stack", StackName="s", TemplateBody=more,
                  ResourceTypes=only)  # fmt: skip
    await refused(server, "B is of type OS::Heat::Value", "create_change_set", StackName="s", ChangeSetName="c",
                  TemplateBody=more, ResourceTypes=only)  # fmt: skip


async def test_events_by_operation(server: Server) -> None:
    await create(server, "s", ONE)
    await create(server, "other", ONE)
    await update(server, "s", body(A=resource("w", fail=True)))
    events = (await server.call("describe_events", StackName="s"))["OperationEvents"]
    ids = list(dict.fromkeys((event["OperationId"], event["OperationType"]) for event in events))
    assert [kind for _, kind in ids] == ["UPDATE_STACK", "CREATE_STACK"]
    (failed, _), (made, _) = ids
    assert {event["OperationStatus"] for event in events if event["OperationId"] == failed} == {"FAILED"}
    alone = (await server.call("describe_events", OperationId=made))["OperationEvents"]
    assert [event["EventId"] for event in alone] == [e["EventId"] for e in events if e["OperationId"] == made]
    assert {(event["OperationStatus"], event["StackId"]) for event in alone} == {("SUCCEEDED", events[0]["StackId"])}
    bad = await server.call("describe_events", OperationId=failed, Filters={"FailedEvents": True})
    assert [(event["LogicalResourceId"], event["ResourceStatus"]) for event in bad["OperationEvents"]] == [
        ("A", "UPDATE_FAILED")
    ]
    await refused(server, "does not exist", "describe_events", StackName="other", OperationId=made)
    await refused(server, "does not exist", "describe_events", OperationId="nothing")
    await refused(server, "must be specified", "describe_events")


async def test_events_of_a_change_set(server: Server) -> None:
    await create(server, "s", ONE)
    await server.call("create_change_set", StackName="s", ChangeSetName="same", TemplateBody=ONE)
    (event,) = (await server.call("describe_events", StackName="s", ChangeSetName="same"))["OperationEvents"]
    assert (event["OperationType"], event["OperationStatus"]) == ("CREATE_CHANGESET", "FAILED")
    assert "didn't contain changes" in event["ResourceStatusReason"]


async def test_a_failed_update_that_was_left_is_rolled_back_when_asked(server: Server) -> None:
    await create(server, "s", body(A=resource("1"), B=resource("1")))
    await refused(server, "CREATE_COMPLETE state", "rollback_stack", StackName="s")
    stack = await update(server, "s", body(A=resource("2"), B=resource("2", fail=True)), DisableRollback=True)
    assert stack["StackStatus"] == "UPDATE_FAILED"
    await server.call("rollback_stack", StackName="s")
    assert (await settled(server, "s"))["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert server.manager.current(server.manager.get("s"))["A"].properties["value"] == "1"
    types = {
        event["OperationType"] for event in (await server.call("describe_events", StackName="s"))["OperationEvents"]
    }
    assert types == {"CREATE_STACK", "UPDATE_STACK", "ROLLBACK"}


async def test_a_failed_rollback_goes_on_without_what_is_skipped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B can not go back to what it was."""
    real = TestResource.update

    async def stubborn(self: TestResource, context: Context, old: Any, changed: frozenset[str]) -> None:
        if context.record.name == "B" and context.properties["value"] == "1":
            raise ResourceFailed("B stays")
        await real(self, context, old, changed)

    monkeypatch.setattr(TestResource, "update", stubborn)
    good = body(A=resource("1"), B=resource("1"))
    await create(server, "s", good)
    await refused(server, "CREATE_COMPLETE state", "continue_update_rollback", StackName="s")
    bad = body(A=resource("2"), B=resource("2"), C={**resource(fail=True), "DependsOn": ["A", "B"]})
    stack = await update(server, "s", bad)
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_FAILED"
    assert "B stays" in stack["StackStatusReason"]
    await server.call("continue_update_rollback", StackName="s")
    assert (await settled(server, "s"))["StackStatus"] == "UPDATE_ROLLBACK_FAILED"
    await server.call("continue_update_rollback", StackName="s", ResourcesToSkip=["B"])
    assert (await settled(server, "s"))["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    current = server.manager.current(server.manager.get("s"))
    assert {name: record.properties["value"] for name, record in current.items()} == {"A": "1", "B": "2"}


async def test_a_stack_policy_is_kept_and_read(server: Server) -> None:
    await create(server, "s", ONE)
    assert "StackPolicyBody" not in await server.call("get_stack_policy", StackName="s")
    policy = {"Statement": [{"Effect": "Deny", "Action": "Update:*", "Principal": "*", "Resource": "*"}]}
    await server.call("set_stack_policy", StackName="s", StackPolicyBody=json.dumps(policy))
    assert json.loads((await server.call("get_stack_policy", StackName="s"))["StackPolicyBody"]) == policy
    await refused(server, "must specify", "set_stack_policy", StackName="s")
    stack = await update(server, "s", body(A=resource("w")))
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert "denied by stack policy" in stack["StackStatusReason"]


async def test_a_running_update_is_turned_back(server: Server) -> None:
    await create(server, "s", ONE)
    await refused(server, "current stack status", "cancel_update_stack", StackName="s")
    slow = body(A=resource("w"), B=resource("w", action_wait_secs={"create": 3600}))
    await server.call("update_stack", StackName="s", TemplateBody=slow)
    await server.call("cancel_update_stack", StackName="s")
    stack = await settled(server, "s")
    assert stack["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert "User Cancelled" in stack["StackStatusReason"]
    assert set(server.manager.current(server.manager.get("s"))) == {"A"}


async def test_imports_are_told_and_hold_the_export(server: Server) -> None:
    outputs = {"O": {"Value": {"Fn::GetAtt": ["A", "output"]}, "Export": {"Name": "said"}}}
    await create(server, "from", body(outputs, A=resource("v")))
    await refused(server, "not imported", "list_imports", ExportName="said")
    await create(server, "to", body(B=resource({"Fn::ImportValue": "said"})))
    assert (await server.call("list_imports", ExportName="said"))["Imports"] == ["to"]
    await refused(server, "in use by to", "delete_stack", StackName="from")


async def test_a_signal_lets_a_stack_go_on(server: Server) -> None:
    waiting = {**resource(), "CreationPolicy": {"ResourceSignal": {"Count": 2, "Timeout": "PT1H"}}}
    await server.call("create_stack", StackName="s", TemplateBody=body(A=waiting))
    stack = server.manager.get("s")
    while "A" not in server.manager.current(stack):
        await server.call("describe_stacks", StackName="s")
    signal = {"StackName": "s", "LogicalResourceId": "A", "Status": "SUCCESS"}
    await server.call("signal_resource", **signal, UniqueId="1")
    assert stack.busy
    await server.call("signal_resource", **signal, UniqueId="2")
    assert (await settled(server, "s"))["StackStatus"] == "CREATE_COMPLETE"
    await refused(server, "Resource B does not exist", "signal_resource",
                  StackName="s", LogicalResourceId="B", Status="SUCCESS", UniqueId="3")  # fmt: skip


async def test_what_a_template_holds(server: Server) -> None:
    parameters = {
        "P": {"Type": "Number", "Default": 3, "AllowedValues": [3, 4]},
        "Q": {"Type": "String", "NoEcho": True},
    }
    template = json.dumps(
        {"AWSTemplateFormatVersion": "2010-09-09", "Description": "d", "Parameters": parameters, "Metadata": {"m": 1},
         "Resources": {"A": resource({"Ref": "P"}), "B": {"Type": "OS::Heat::Value", "Properties": {"value": 1}}}}
    )  # fmt: skip
    summary = await server.call("get_template_summary", TemplateBody=template)
    assert summary["ResourceTypes"] == ["OS::Heat::TestResource", "OS::Heat::Value"]
    assert (summary["Description"], json.loads(summary["Metadata"])) == ("d", {"m": 1})
    first, second = summary["Parameters"]
    assert (first["ParameterType"], first["DefaultValue"]) == ("Number", "3")
    assert first["ParameterConstraints"]["AllowedValues"] == ["3", "4"]
    assert (second["ParameterKey"], second["NoEcho"]) == ("Q", True)
    await create(server, "s", template, Parameters=[{"ParameterKey": "Q", "ParameterValue": "x"}])
    of_stack = await server.call("get_template_summary", StackName="s")
    assert of_stack["ResourceTypes"] == summary["ResourceTypes"]


async def test_types_are_listed_and_described(server: Server) -> None:
    names = [item["TypeName"] for item in (await server.call("list_types"))["TypeSummaries"]]
    assert names == sorted(names)
    assert {"AWS::EC2::Instance", "OS::Heat::TestResource"} <= set(names)
    for name in names[:3]:
        told = await server.call("describe_type", Type="RESOURCE", TypeName=name)
        assert json.loads(told["Schema"])["typeName"] == name
        assert (await server.call("describe_type", Arn=told["Arn"]))["TypeName"] == name
    await refused(server, "does not exist", "describe_type", Type="RESOURCE", TypeName="My::Own::Type")


async def test_drift_of_one_resource(server: Server) -> None:
    await create(server, "s", body(A=resource(), B=resource()))
    found = await server.call("detect_stack_resource_drift", StackName="s", LogicalResourceId="A")
    drift = found["StackResourceDrift"]
    assert drift["LogicalResourceId"] == "A"
    assert drift["StackResourceDriftStatus"] in ("IN_SYNC", "NOT_CHECKED"), "there is nothing that could differ"
    assert json.loads(drift["ExpectedProperties"])["value"] == "v"
    every = (await server.call("describe_stack_resource_drifts", StackName="s"))["StackResourceDrifts"]
    assert [item["LogicalResourceId"] for item in every] == ["A"]
