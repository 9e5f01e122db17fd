"""Every member of every operation's input is done, or refused by name: nothing is taken and not read."""

from __future__ import annotations

import ast
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from pcloud.api.aws import cloudformation
from pcloud.api.aws.app import cloudformation_app
from pcloud.api.aws.cloudformation.unoffered import refused_members
from pcloud.api.aws.query import service
from pcloud.stacks.engine.manager import StackManager
from tests.stacks.boto import Server
from tests.stacks.serving import serving

pytestmark = pytest.mark.timeout(300)


def functions() -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    """Every function of the operations' package by its name."""
    found = {}
    for file in Path(cloudformation.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[node.name] = node
    return found


KNOWN = functions()


def read_by(name: str) -> frozenset[str]:
    """The members that a function reads of what it is `given`, and those that functions read to which it hands that on."""
    found: set[str] = set()
    for node in ast.walk(KNOWN[name]):
        if isinstance(node, ast.Subscript) and _is_given(node.value):
            found |= set(_texts([node.slice]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_given(node.func.value):
            found |= set(_texts(node.args[:1]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and any(map(_is_given, node.args)):
            found |= read_by(node.func.id)
            if node.func.id == "policy_of_request":  # which of them is an argument, by the name of its text
                (key,) = tuple(_texts(node.args)) or ("StackPolicyBody",)
                found |= {key, key.removesuffix("Body") + "URL"}
    return frozenset(found)


def _is_given(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "given"


def _texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("operation", sorted(cloudformation.OPERATIONS))
def test_every_member_is_done_or_refused(operation: str) -> None:
    shape = service().operation_model(operation).input_shape
    members = frozenset(shape.members) if shape is not None else frozenset()
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operation)[1:]
    assert members - read_by(name) - refused_members() == frozenset()


def test_what_is_refused_is_a_member_of_something() -> None:
    shapes = [service().operation_model(name).input_shape for name in cloudformation.OPERATIONS]
    assert refused_members() <= {member for shape in shapes if shape is not None for member in shape.members}


@pytest.fixture
async def server(manager: StackManager) -> AsyncIterator[Server]:
    async with serving(cloudformation_app(manager, {"good": "admin"}.get)) as url:
        yield Server(manager, url)


def value(given: Any) -> dict[str, Any]:
    return {"Type": "OS::Heat::TestResource", "Properties": {"value": given}}


def template(parameters: dict[str, Any] | None = None, **resources: Any) -> str:
    body = {"AWSTemplateFormatVersion": "2010-09-09", "Parameters": parameters or {}, "Resources": resources}
    return json.dumps(body)


async def created(server: Server, body: str, **more: Any) -> None:
    await server.call("create_stack", StackName="s", TemplateBody=body, **more)
    await server.manager.wait(server.manager.get("s"))


async def refused(server: Server, sentence: str, operation: str, **given: Any) -> None:
    with pytest.raises(botocore.exceptions.ClientError, match=sentence):
        await server.call(operation, **given)


async def test_types_are_filtered(server: Server) -> None:
    async def names(**given: Any) -> set[str]:
        found, token = set(), None
        while True:
            answer = await server.call("list_types", **given, **({"NextToken": token} if token else {}))
            found |= {row["TypeName"] for row in answer["TypeSummaries"]}
            token = answer.get("NextToken")
            if token is None:
                return found

    every = await names()
    assert await names(Type="RESOURCE", Visibility="PUBLIC", DeprecatedStatus="LIVE") == every
    for given in (
        {"Type": "HOOK"}, {"Visibility": "PRIVATE"}, {"DeprecatedStatus": "DEPRECATED"},
        {"ProvisioningType": "NON_PROVISIONABLE"}, {"Filters": {"Category": "ACTIVATED"}},
        {"Filters": {"PublisherId": "0" * 40}},
    ):  # fmt: skip
        assert await names(**given) == set(), given
    assert await names(Filters={"TypeNamePrefix": "OS::Cinder::"}) == {n for n in every if n.startswith("OS::Cinder::")}
    amazon, ours = await names(Filters={"Category": "AWS_TYPES"}), await names(Filters={"Category": "REGISTERED"})
    assert amazon == {name for name in every if name.startswith("AWS::")}
    assert amazon | ours == every
    mutable = await names(ProvisioningType="FULLY_MUTABLE")
    assert mutable | await names(ProvisioningType="IMMUTABLE") == every
    assert "AWS::EC2::Instance" in mutable
    assert len((await server.call("list_types", MaxResults=2))["TypeSummaries"]) == 2
    assert await names(MaxResults=40) == every


async def test_a_type_has_one_version_and_no_publisher(server: Server) -> None:
    given = {"TypeName": "AWS::EC2::Volume"}
    told = await server.call("describe_type", **given, Type="RESOURCE", VersionId="00000001")
    assert told["Arn"].endswith("AWS-EC2-Volume")
    for more in (
        {"VersionId": "00000002"},
        {"PublisherId": "0" * 40},
        {"Type": "HOOK"},
        {"PublicVersionNumber": "1.0.0"},
    ):
        await refused(server, "does not exist", "describe_type", **given, **more)


async def test_stages_of_a_template(server: Server) -> None:
    await created(server, template(A=value("v")))
    told = await server.call("get_template", StackName="s", TemplateStage="Processed")
    assert told["StagesAvailable"] == ["Original", "Processed"]
    loop = {"Fn::ForEach::Loop": ["X", ["a", "b"], {"R${X}": value({"Ref": "X"})}]}
    body = json.dumps({"Transform": "AWS::LanguageExtensions", "Resources": loop})
    await server.call("create_change_set", StackName="t", ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=body)
    which = {"StackName": "t", "ChangeSetName": "c"}
    assert (await server.call("get_template", **which))["StagesAvailable"] == ["Original"]
    await refused(server, "TemplateStage Processed is refused", "get_template", **which, TemplateStage="Processed")


async def test_types_that_a_summary_does_not_know(server: Server) -> None:
    body = template(A=value("v"), B={"Type": "AWS::Nonsense::Thing"})
    await refused(
        server, "Unrecognized resource types: .AWS::Nonsense::Thing", "get_template_summary", TemplateBody=body
    )
    tolerant = {"TreatUnrecognizedResourceTypesAsWarnings": True}
    told = await server.call("get_template_summary", TemplateBody=body, TemplateSummaryConfig=tolerant)
    assert told["Warnings"] == {"UnrecognizedResourceTypes": ["AWS::Nonsense::Thing"]}
    assert len(told["ResourceTypes"]) == 2


async def test_values_of_a_change_set_without_secrets(server: Server) -> None:
    secret = {"Secret": {"Type": "String", "NoEcho": True}}
    old = template(
        secret, A=value("one"), S=value({"Ref": "Secret"}), T=value({"Fn::GetAtt": ["S", "output"]}), G=value("old")
    )
    new = template(
        secret, A=value("two"), S=value({"Fn::Base64": {"Ref": "Secret"}}), N=value({"Fn::GetAtt": ["A", "output"]}),
        T=value({"Fn::Join": ["-", [{"Fn::GetAtt": ["S", "output"]}, "x"]]}),
        Handle={"Type": "AWS::CloudFormation::WaitConditionHandle"}, U=value({"Fn::Base64": {"Ref": "Handle"}}),
    )  # fmt: skip
    given = [{"ParameterKey": "Secret", "ParameterValue": "geheim"}]
    await created(server, old, Parameters=given)
    which = {"StackName": "s", "ChangeSetName": "c"}
    await server.call("create_change_set", **which, TemplateBody=new, Parameters=given)
    plain = await server.call("describe_change_set", **which)
    assert "BeforeContext" not in json.dumps(plain, default=str)
    told = await server.call("describe_change_set", **which, IncludePropertyValues=True)
    changes = {item["ResourceChange"]["LogicalResourceId"]: item["ResourceChange"] for item in told["Changes"]}
    (detail,) = changes["A"]["Details"]
    target = detail["Target"]
    assert (target["Path"], target["BeforeValue"], target["AfterValue"]) == ("/Properties/value", "one", "two")
    assert target["AttributeChangeType"] == "Modify"
    assert json.loads(changes["A"]["AfterContext"])["Properties"]["value"] == "two"
    assert json.loads(changes["G"]["BeforeContext"])["Properties"]["value"] == "old"
    assert "AfterContext" not in changes["G"]
    assert json.loads(changes["N"]["AfterContext"])["Properties"]["value"] == "{{changeSet:KNOWN_AFTER_APPLY}}"
    assert "BeforeContext" not in changes["N"]
    assert json.loads(changes["S"]["BeforeContext"])["Properties"]["value"] == "****"
    assert json.loads(changes["U"]["AfterContext"])["Properties"]["value"] == "****"
    await server.manager.store.flush()
    kept = json.dumps([item.changes for item in server.manager.store.change_sets()])
    for text in (json.dumps(told, default=str), kept):
        assert "geheim" not in text
        assert "Z2VoZWlt" not in text, "in base64"


async def test_values_that_no_store_takes_as_they_are(server: Server) -> None:
    numbers = {"list_value": [{"a\ud800": 10**30}, "\ud800"]}
    body = template(A={"Type": "OS::Heat::Value", "Properties": {"type": "json", "value": numbers}})
    which = {"StackName": "s", "ChangeSetName": "c"}
    await server.call("create_change_set", **which, ChangeSetType="CREATE", TemplateBody=body)
    told = await server.call("describe_change_set", **which, IncludePropertyValues=True)
    after = json.loads(told["Changes"][0]["ResourceChange"]["AfterContext"])["Properties"]["value"]
    assert after == {"list_value": [{"a?": str(10**30)}, "?"]}


async def test_change_sets_of_nested_stacks(server: Server) -> None:
    def family(word: str) -> str:
        inner = {"heat_template_version": "2018-08-31", "resources": {"deep": hot(word)}}
        nested = {"type": "OS::Heat::Stack", "properties": {"template": json.dumps(inner)}}
        more = {"more": nested} if word == "two" else {}
        return json.dumps({"heat_template_version": "2018-08-31", "resources": {"nested": nested, **more}})

    def hot(word: str) -> dict[str, Any]:
        return {"type": "OS::Heat::TestResource", "properties": {"value": word}}

    await created(server, family("one"))
    which = {"StackName": "s", "ChangeSetName": "c"}
    await server.call("create_change_set", **which, TemplateBody=family("two"), IncludeNestedStacks=True)
    root = await server.call("describe_change_set", **which)
    assert root["IncludeNestedStacks"]
    below = {
        item["ResourceChange"]["LogicalResourceId"]: item["ResourceChange"]["ChangeSetId"] for item in root["Changes"]
    }
    assert below.keys() == {"nested", "more"}
    told = {name: await server.call("describe_change_set", ChangeSetName=arn) for name, arn in below.items()}
    assert [one["ResourceChange"]["Action"] for one in told["nested"]["Changes"]] == ["Modify"]
    assert [one["ResourceChange"]["Action"] for one in told["more"]["Changes"]] == ["Add"]
    assert told["nested"]["StackName"].startswith("s-nested")
    await refused(server, "what its resource names", "get_template", ChangeSetName=below["nested"])
    assert "StackId" not in told["more"]
    assert {one["RootChangeSetId"] for one in told.values()} == {root["ChangeSetId"]}
    await refused(server, "operate on .c.", "execute_change_set", ChangeSetName=below["nested"])
    await refused(server, "operate on .c.", "delete_change_set", ChangeSetName=below["nested"])
    await refused(server, "does not change", "describe_change_set_hooks", **which, LogicalResourceId="none")
    assert (await server.call("describe_change_set_hooks", **which, LogicalResourceId="nested"))["Hooks"] == []
    listed = (await server.call("list_change_sets", StackName="s"))["Summaries"]
    assert [one["ChangeSetName"] for one in listed] == ["c"]
    await server.call("delete_change_set", **which)
    assert server.manager.change_sets == {}


async def test_tokens(server: Server) -> None:
    """The same request again gives the same change set; events have the token of the request that led to them."""
    slow = {"Type": "OS::Heat::TestResource", "Properties": {"value": "w", "action_wait_secs": {"update": 600}}}
    await created(server, template(A=value("v")))
    which = {"StackName": "s", "ChangeSetName": "c", "TemplateBody": template(A=value("w"))}
    first = await server.call("create_change_set", **which, ClientToken="again")
    assert (await server.call("create_change_set", **which, ClientToken="again"))["Id"] == first["Id"]
    await refused(server, "already exists", "create_change_set", **which, ClientToken="another")
    await server.call("update_stack", StackName="s", TemplateBody=template(A=slow), ClientRequestToken="one")
    await server.call("cancel_update_stack", StackName="s", ClientRequestToken="two")
    await server.manager.wait(server.manager.get("s"))
    events = (await server.call("describe_stack_events", StackName="s"))["StackEvents"]
    tokens = {
        event["ResourceStatus"]: event.get("ClientRequestToken")
        for event in events
        if event["LogicalResourceId"] == "s"
    }
    assert (tokens["UPDATE_IN_PROGRESS"], tokens["UPDATE_ROLLBACK_COMPLETE"]) == ("one", "two")
