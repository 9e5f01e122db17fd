"""The CloudFormation endpoint as its real clients see it: boto3, its waiters, and hostile requests."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator

import botocore.config
import botocore.exceptions
import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.api.aws.cloudformation import OPERATIONS
from pcloud.api.aws.query import service
from pcloud.stacks.engine.manager import StackManager
from tests.stacks.boto import Server
from tests.stacks.serving import serving

TEMPLATE = """
AWSTemplateFormatVersion: 2010-09-09
Description: two values
Parameters:
  Word: {Type: String, Default: hello, AllowedPattern: "[a-z]+"}
  Secret: {Type: String, Default: hidden, NoEcho: true}
Resources:
  First:
    Type: OS::Heat::TestResource
    Properties: {value: !Sub "${Word} & <more>"}
    Metadata: {Some: [1, two]}
  Second:
    Type: OS::Heat::TestResource
    DependsOn: First
    Properties: {value: !GetAtt First.output}
Outputs:
  Said:
    Value: !GetAtt Second.output
    Export: {Name: said}
"""


@pytest.fixture
async def server(manager: StackManager) -> AsyncIterator[Server]:
    async with serving(cloudformation_app(manager, {"good": "admin"}.get)) as url:
        yield Server(manager, url)


async def test_life_of_a_stack_with_boto3(server: Server) -> None:
    answer = await server.call(
        "create_stack", StackName="one", TemplateBody=TEMPLATE, Tags=[{"Key": "a", "Value": "b"}]
    )
    assert answer["StackId"].startswith("arn:aws:cloudformation:local:000000000000:stack/one/")
    await server.wait("stack_create_complete", "one")
    (stack,) = (await server.call("describe_stacks", StackName="one"))["Stacks"]
    assert stack["Outputs"] == [{"OutputKey": "Said", "OutputValue": "hello & <more>", "ExportName": "said"}]
    assert {item["ParameterKey"]: item["ParameterValue"] for item in stack["Parameters"]} == {
        "Word": "hello",
        "Secret": "****",
    }
    assert stack["Tags"] == [{"Key": "a", "Value": "b"}]
    events = (await server.call("describe_stack_events", StackName="one"))["StackEvents"]
    assert events[0]["ResourceStatus"] == "CREATE_COMPLETE"
    assert events[0]["LogicalResourceId"] == "one"
    detail = await server.call("describe_stack_resource", StackName="one", LogicalResourceId="First")
    assert json.loads(detail["StackResourceDetail"]["Metadata"]) == {"Some": [1, "two"]}
    assert len((await server.call("list_stack_resources", StackName="one"))["StackResourceSummaries"]) == 2
    assert (await server.call("list_exports"))["Exports"][0]["Value"] == "hello & <more>"
    await server.call(
        "update_stack",
        StackName="one",
        UsePreviousTemplate=True,
        Parameters=[{"ParameterKey": "Word", "ParameterValue": "bye"}],
    )
    await server.wait("stack_update_complete", "one")
    (stack,) = (await server.call("describe_stacks", StackName="one"))["Stacks"]
    assert stack["Outputs"][0]["OutputValue"] == "bye & <more>"
    with pytest.raises(botocore.exceptions.ClientError, match="No updates are to be performed"):
        await server.call(
            "update_stack",
            StackName="one",
            UsePreviousTemplate=True,
            Parameters=[{"ParameterKey": "Word", "UsePreviousValue": True}],
        )
    drift = await server.call("detect_stack_drift", StackName="one")
    status = await server.call(
        "describe_stack_drift_detection_status", StackDriftDetectionId=drift["StackDriftDetectionId"]
    )
    assert status["StackDriftStatus"] == "IN_SYNC"
    await server.call("delete_stack", StackName="one")
    await server.wait("stack_delete_complete", stack["StackId"])
    with pytest.raises(botocore.exceptions.ClientError, match="does not exist"):
        await server.call("describe_stacks", StackName="one")
    assert (await server.call("list_stacks"))["StackSummaries"][0]["StackStatus"] == "DELETE_COMPLETE"


async def test_change_sets(server: Server) -> None:
    await server.call(
        "create_change_set", StackName="cs", ChangeSetName="first", ChangeSetType="CREATE", TemplateBody=TEMPLATE
    )
    waiter = server.client().get_waiter("change_set_create_complete")
    await asyncio.to_thread(
        waiter.wait, StackName="cs", ChangeSetName="first", WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    described = await server.call("describe_change_set", StackName="cs", ChangeSetName="first")
    assert [change["ResourceChange"]["Action"] for change in described["Changes"]] == ["Add", "Add"]
    await server.call("execute_change_set", StackName="cs", ChangeSetName="first")
    await server.wait("stack_create_complete", "cs")
    await server.call("create_change_set", StackName="cs", ChangeSetName="none", TemplateBody=TEMPLATE)
    described = await server.call("describe_change_set", StackName="cs", ChangeSetName="none")
    assert described["Status"] == "FAILED"
    assert "didn't contain changes" in described["StatusReason"]
    await server.call(
        "create_change_set",
        StackName="cs",
        ChangeSetName="second",
        UsePreviousTemplate=True,
        Parameters=[{"ParameterKey": "Word", "ParameterValue": "other"}],
    )
    described = await server.call("describe_change_set", StackName="cs", ChangeSetName="second")
    modified = [change["ResourceChange"] for change in described["Changes"]]
    assert [change["LogicalResourceId"] for change in modified] == ["First", "Second"]
    assert modified[1]["Details"][0]["Evaluation"] == "Dynamic"
    await server.call("execute_change_set", StackName="cs", ChangeSetName="second")
    await server.wait("stack_update_complete", "cs")
    described = await server.call("describe_change_set", StackName="cs", ChangeSetName="second")
    assert described["ExecutionStatus"] == "EXECUTE_COMPLETE"


async def test_errors_name_the_path(server: Server) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        await server.call(
            "validate_template",
            TemplateBody='{"Resources": {"A": {"Type": "OS::Heat::Value", "Properties": {"value": {"Ref": "B"}}}}}',
        )
    assert caught.value.response["Error"]["Code"] == "ValidationError"
    assert "Resources/A/Properties/value" in str(caught.value)
    assert "there is no resource 'B'" in str(caught.value)


async def test_wrong_keys_and_expired_dates(server: Server) -> None:
    for client in (server.client(secret="wrong" * 8), server.client(key="PCNOBODY")):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            await asyncio.to_thread(client.list_stacks)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def raw(url: str, form: dict[str, str] | bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
    body = form if isinstance(form, bytes) else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, body, headers or {"X-Auth-Token": "good"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode()


async def test_every_operation_answers_in_the_protocol(server: Server) -> None:
    assert set(OPERATIONS) == {
        "CancelUpdateStack",
        "ContinueUpdateRollback",
        "CreateChangeSet",
        "CreateStack",
        "DeleteChangeSet",
        "DeleteStack",
        "DescribeAccountLimits",
        "DescribeChangeSet",
        "DescribeChangeSetHooks",
        "DescribeEvents",
        "DescribeStackDriftDetectionStatus",
        "DescribeStackEvents",
        "DescribeStackResource",
        "DescribeStackResourceDrifts",
        "DescribeStackResources",
        "DescribeStacks",
        "DescribeType",
        "DetectStackDrift",
        "DetectStackResourceDrift",
        "EstimateTemplateCost",
        "ExecuteChangeSet",
        "GetStackPolicy",
        "GetTemplate",
        "GetTemplateSummary",
        "ListChangeSets",
        "ListExports",
        "ListImports",
        "ListStackResources",
        "ListStacks",
        "ListTypes",
        "RollbackStack",
        "SetStackPolicy",
        "SignalResource",
        "UpdateStack",
        "UpdateTerminationProtection",
        "ValidateTemplate",
    }
    for name in service().operation_names:
        status, text = await asyncio.to_thread(raw, server.url + "/v1/", {"Action": name, "Version": "2010-05-15"})
        assert status < 500, (name, text)
        assert "<RequestId>" in text
        if name not in OPERATIONS:
            assert "InvalidAction" in text


async def test_json_as_the_guest_tools_want_it(server: Server) -> None:
    await server.call("create_stack", StackName="one", TemplateBody=TEMPLATE)
    await server.wait("stack_create_complete", "one")
    form = {"Action": "DescribeStackResource", "ContentType": "JSON", "StackName": "one", "LogicalResourceId": "First"}
    status, text = await asyncio.to_thread(raw, server.url + "/v1/?" + urllib.parse.urlencode(form), b"")
    assert status == 200
    detail = json.loads(text)["DescribeStackResourceResponse"]["DescribeStackResourceResult"]["StackResourceDetail"]
    assert json.loads(detail["Metadata"]) == {"Some": [1, "two"]}
    status, text = await asyncio.to_thread(
        raw, server.url + "/v1/?" + urllib.parse.urlencode({**form, "StackName": "no"}), b""
    )
    assert status == 400
    assert json.loads(text)["ErrorResponse"]["Error"]["Code"] == "ValidationError"


HOSTILE: list[dict[str, str] | bytes] = [
    {},
    {"Action": ""},
    {"Action": "CreateStack"},
    {"Action": "CreateStack", "StackName": "x" * 5000, "TemplateBody": "{"},
    {"Action": "CreateStack", "StackName": "a", "TemplateBody": "a: &a [*a]"},
    {"Action": "CreateStack", "StackName": "a", "TemplateBody": "[" * 100000},
    {"Action": "CreateStack", "StackName": "a", "TemplateBody": '{"a":' * 50000},
    {"Action": "CreateStack", "StackName": "a", "TemplateBody": "Resources: !!python/object:os.system {}"},
    {"Action": "CreateStack", "StackName": "a", "TemplateBody": "Resources: {A: {Type: [1]}}"},
    {
        "Action": "CreateStack",
        "StackName": "a",
        "TemplateBody": "Resources: {A: {Type: OS::Heat::Value, Properties: {value: {Ref: {Ref: A}}}}}",
    },
    {
        "Action": "CreateStack",
        "StackName": "a",
        "Parameters.member.x.ParameterKey": "k",
        "TemplateBody": "Resources: {}",
    },
    {"Action": "CreateStack", "StackName": "a", "Parameters": "k", "TemplateBody": "Resources: {}"},
    {"Action": "CreateStack", "StackName": "a\x00b", "TemplateBody": "Resources: {}"},
    {"Action": "CreateStack", "StackName": "a", "TimeoutInMinutes": "9" * 400, "TemplateBody": "Resources: {}"},
    {"Action": "CreateStack", "StackName.member.1": "a", "TemplateBody": "Resources: {}"},
    {"Action": "DescribeStacks", "NextToken": "-1"},
    {"Action": "SetStackPolicy", "StackName": "a", "StackPolicyBody": "[[[["},
    {
        "Action": "ValidateTemplate",
        "TemplateBody": '{"Transform": "AWS::LanguageExtensions", "Resources": {"Fn::ForEach::L": ["X", ["a"],'
        ' {"R${X}": {"Type": "OS::Heat::Value", "Properties": {"value": [{"Ref": {"Ref": "X"}}]}}}]}}',
    },
    {
        "Action": "ValidateTemplate",
        "TemplateBody": '{"Resources": {"A": {"Type": "OS::Heat::Value", "Properties": {"value": "x"},'
        ' "CreationPolicy": {"ResourceSignal": {"Count": {"Ref": "A"}}}}}}',
    },
    b"\xff\xfe=\x00&Action=%%%",
]


@pytest.mark.parametrize("form", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_requests_get_a_coded_answer(server: Server, form: dict[str, str] | bytes) -> None:
    status, text = await asyncio.to_thread(raw, server.url + "/", form)
    assert 200 <= status < 500, text
    assert "RequestId" in text
