"""Stacks within stacks: what they are given by the stack around them, and what they give back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.lifecycle import changed, made

SAYS = {
    "heat_template_version": "2018-08-31",
    "parameters": {"word": {"type": "string", "default": "the template's"}},
    "resources": {"a": {"type": "OS::Heat::TestResource", "properties": {"value": {"get_param": "word"}}}},
    "outputs": {"said": {"value": {"get_attr": ["a", "output"]}}},
}
CFN = {
    "AWSTemplateFormatVersion": "2010-09-09",
    "Parameters": {"word": {"Type": "String", "Default": "the template's"}},
    "Resources": {"A": {"Type": "OS::Heat::TestResource", "Properties": {"value": {"Ref": "word"}}}},
    "Outputs": {"said": {"Value": {"Fn::GetAtt": ["A", "output"]}}},
}
KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "a file as a type": ({"type": "says.yaml"}, {"get_attr": ["inner", "said"]}),
    "an alias": ({"type": "My::Says"}, {"get_attr": ["inner", "said"]}),
    "a wildcard of the registry": ({"type": "Their::Any"}, {"get_attr": ["inner", "said"]}),
    "a group's member": (
        {"type": "OS::Heat::ResourceGroup", "properties": {"count": 1, "resource_def": {"type": "says.yaml"}}},
        {"get_attr": ["inner", "resource.0.said"]},
    ),
    "OS::Heat::Stack": (
        {"type": "OS::Heat::Stack", "properties": {"template": {"get_file": "says.yaml"}}},
        {"get_attr": ["inner", "outputs", "said"]},
    ),
    "AWS::CloudFormation::Stack": (
        {"type": "AWS::CloudFormation::Stack", "properties": {"TemplateURL": "says.template"}},
        {"get_attr": ["inner", "Outputs.said"]},
    ),
    "two deep": ({"type": "outer.yaml"}, {"get_attr": ["inner", "said"]}),
}


def outer(resource: dict[str, Any], value: Any, **more: Any) -> Source:
    body = {
        "heat_template_version": "2018-08-31",
        "resources": {"inner": resource},
        "outputs": {"said": {"value": value}},
    }
    middle = {**body, "resources": {"inner": {"type": "says.yaml"}}}
    files = {"says.yaml": json.dumps(SAYS), "says.template": json.dumps(CFN), "outer.yaml": json.dumps(middle)}
    registry = {"My::Says": "says.yaml", "Their::*": "says.yaml"}
    return Source(template=json.dumps(body), files=files, registry=registry, **more)


def said(stack: StackRecord) -> Any:
    return stack.outputs["said"]["value"]


@pytest.mark.parametrize(("resource", "value"), KINDS.values(), ids=KINDS)
async def test_defaults_of_the_environment_hold_in_every_template_within(
    manager: StackManager, resource: dict[str, Any], value: Any
) -> None:
    stack = await made(manager, "s", outer(resource, value, defaults={"word": "the environment's", "other": "x"}))
    assert said(stack) == "the environment's"


@pytest.mark.parametrize(("resource", "value"), KINDS.values(), ids=KINDS)
async def test_other_defaults_alone_reach_the_templates_within(
    manager: StackManager, resource: dict[str, Any], value: Any
) -> None:
    stack = await made(manager, "s", outer(resource, value, defaults={"word": "one"}))
    source = outer(resource, value, defaults={"word": "two"})
    assert [(change.name, change.action) for change in manager.plan(stack, source).changes] == [("inner", "update")]
    await changed(manager, stack, source)
    assert said(stack) == "two"


async def test_a_parameter_without_a_default_has_the_environments(manager: StackManager) -> None:
    needs = json.loads(json.dumps(SAYS))
    del needs["parameters"]["word"]["default"]
    source = outer({"type": "outer.yaml"}, {"get_attr": ["inner", "said"]}, defaults={"word": "the environment's"})
    source = msgspec.structs.replace(source, files={**source.files, "says.yaml": json.dumps(needs)})
    manager.plan(None, source)
    assert said(await made(manager, "s", source)) == "the environment's"


async def test_a_parameter_that_is_given_stands_over_the_environments_default(manager: StackManager) -> None:
    resource = {"type": "says.yaml", "properties": {"word": "given"}}
    stack = await made(manager, "s", outer(resource, {"get_attr": ["inner", "said"]}, defaults={"word": "default"}))
    assert said(stack) == "given"


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("OS::Heat::Stack", {"parameters": {"word": "one"}}),
        ("AWS::CloudFormation::Stack", {"Parameters": {"word": "one"}}),
        ("a file as a type", {"word": "one"}),
    ],
)
async def test_a_nested_stack_lives_and_ends_with_the_one_around_it(
    manager: StackManager, kind: str, given: dict[str, Any]
) -> None:
    resource, value = KINDS[kind]

    def source(word: str) -> Source:
        text = json.dumps(given).replace("one", word)
        return outer({**resource, "properties": {**resource.get("properties", {}), **json.loads(text)}}, value)

    stack = await made(manager, "s", source("one"))
    child = manager.child(manager.current(stack)["inner"].physical)
    assert child is not None
    assert (child.parent, child.parent_resource, said(stack)) == (stack.id, "inner", "one")
    await changed(manager, stack, source("two"))
    assert manager.child(manager.current(stack)["inner"].physical) is child
    assert said(stack) == "two"
    await manager.delete(stack)
    await manager.wait(stack)
    assert (stack.status, child.status) == ("DELETE_COMPLETE", "DELETE_COMPLETE")


async def test_what_fails_within_fails_the_stack_around_it_and_goes(manager: StackManager) -> None:
    failing = {"type": "OS::Heat::TestResource", "properties": {"value": "x", "fail": True}}
    template = {"heat_template_version": "2018-08-31", "resources": {"a": failing}}
    resource = {"type": "OS::Heat::Stack", "properties": {"template": template}}
    stack = await manager.create("s", outer(resource, "none"))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "Test Resource failed a" in stack.reason
    assert not [item.name for item in manager.stacks.values() if item.live and item.parent]
