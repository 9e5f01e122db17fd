"""A file or an alias that changed behind properties that did not: nested stacks and groups follow, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pcloud.api.aws.cloudformation.views import change_view
from pcloud.stacks.beneath import alike
from pcloud.stacks.engine.changes import entry_of
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.test_engine import made


def heat(resources: dict[str, Any], **outputs: Any) -> str:
    values = {name: {"value": value} for name, value in outputs.items()}
    return json.dumps({"heat_template_version": "2018-08-31", "resources": resources, "outputs": values})


def inner(value: str) -> str:
    return heat({"a": made(value)}, out={"get_attr": ["a", "output"]})


def cloudformation(value: str) -> str:
    resource = {"Type": "OS::Heat::TestResource", "Properties": {"value": value}}
    output = {"Value": {"Fn::GetAtt": ["A", "output"]}}
    return json.dumps({"Resources": {"A": resource}, "Outputs": {"out": output}})


URL = "https://templates.example/inner.template"
GROUP = {"count": 2, "resource_def": {"type": "inner.yaml"}}
SCALED = {"min_size": 2, "max_size": 3, "resource": {"type": "inner.yaml"}}
OUTER = heat({"n": {"type": "inner.yaml"}}, out={"get_attr": ["n", "out"]})
ONE = {"get_attr": ["n", "out"]}
CASES: dict[str, tuple[dict[str, Any], Any, dict[str, str], Any, Any]] = {
    "TemplateURL": (
        {"type": "AWS::CloudFormation::Stack", "properties": {"TemplateURL": URL}},
        {"get_attr": ["n", "Outputs.out"]},
        {"inner.template": cloudformation("{}")},
        "1",
        "2",
    ),
    "a file as a type": ({"type": "inner.yaml"}, ONE, {"inner.yaml": inner("{}")}, "1", "2"),
    "a file beneath a file": ({"type": "o.yaml"}, ONE, {"o.yaml": OUTER, "inner.yaml": inner("{}")}, "1", "2"),
    "a script of a file": (
        {"type": "o.yaml"},
        ONE,
        {"o.yaml": heat({"a": made({"get_file": "s.sh"})}, out={"get_attr": ["a", "output"]}), "s.sh": "{}"},
        "1",
        "2",
    ),
    "ResourceGroup": (
        {"type": "OS::Heat::ResourceGroup", "properties": GROUP},
        ONE,
        {"inner.yaml": inner("{}")},
        ["1", "1"],
        ["2", "2"],
    ),
    "AutoScalingGroup": (
        {"type": "OS::Heat::AutoScalingGroup", "properties": SCALED},
        {"get_attr": ["n", "outputs_list", "out"]},
        {"inner.yaml": inner("{}")},
        ["1", "1"],
        ["2", "2"],
    ),
}


def filled(files: dict[str, str], value: str) -> dict[str, str]:
    return {name: text.replace("{}", value) if "{}" in text else text for name, text in files.items()}


async def created(manager: StackManager, source: Source) -> StackRecord:
    stack = await manager.create("one", source)
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return stack


@pytest.mark.parametrize("case", CASES)
async def test_what_is_made_of_a_changed_file_is_changed(manager: StackManager, case: str) -> None:
    resource, output, files, before, after = CASES[case]
    other = {**files, "aside.yaml": inner("{}")}
    template = heat({"n": resource, "aside": {"type": "aside.yaml"}}, out=output)

    def source(value: str) -> Source:
        return Source(template=template, files={**filled(other, value), "aside.yaml": inner("same")})

    stack = await created(manager, source("1"))
    assert stack.outputs["out"]["value"] == before
    physical = manager.current(stack)["n"].physical
    assert [change.action for change in manager.plan(stack, source("1")).changes] == ["none", "none"]

    planned = {change.name: change for change in manager.plan(stack, source("2")).changes}
    assert {name: change.action for name, change in planned.items()} == {"n": "update", "aside": "none"}
    assert "what it is made from changed" in planned["n"].why
    (detail,) = change_view(entry_of(planned["n"]))["ResourceChange"]["Details"]
    assert detail["ChangeSource"] == "Automatic"
    began = len(manager.events(stack))
    await manager.update(stack, source("2"))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert stack.outputs["out"]["value"] == after
    assert manager.current(stack)["n"].physical == physical
    assert {event.name for event in manager.events(stack)[began:]} == {"one", "n"}


async def test_a_failed_update_goes_back_to_the_old_file(manager: StackManager) -> None:
    resources = {"n": {"type": "inner.yaml"}, "bad": made(depends_on="n")}
    broken = {"n": {"type": "inner.yaml"}, "bad": made(depends_on="n", properties={"fail": True})}
    stack = await created(manager, Source(template=heat(resources, out=ONE), files={"inner.yaml": inner("old")}))
    await manager.update(stack, Source(template=heat(broken, out=ONE), files={"inner.yaml": inner("new")}))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE", stack.reason
    assert stack.outputs["out"]["value"] == "old"
    (child,) = [item for item in manager.stacks.values() if item.parent]
    assert child.outputs["out"]["value"] == "old"


async def test_an_alias_that_means_another_file_changes_the_nested_stack(manager: StackManager) -> None:
    files = {"a.yaml": inner("a"), "b.yaml": inner("b")}
    template = heat({"n": {"type": "My::Thing"}}, out=ONE)
    stack = await created(manager, Source(template=template, files=files, registry={"My::Thing": "a.yaml"}))
    child = manager.current(stack)["n"].physical
    await manager.update(stack, Source(template=template, files=files, registry={"My::Thing": "b.yaml"}))
    await manager.wait(stack)
    assert (stack.status, stack.outputs["out"]["value"]) == ("UPDATE_COMPLETE", "b")
    assert manager.current(stack)["n"].physical == child


@pytest.mark.parametrize(("before", "after"), [("a.yaml", "OS::Heat::Value"), ("OS::Heat::Value", "a.yaml")])
async def test_an_alias_that_means_another_type_makes_a_new_thing(
    manager: StackManager, before: str, after: str
) -> None:
    """The old one goes as what it was made as: no nested stack is left over."""
    declared = {"heat_template_version": "2018-08-31", "parameters": {"value": {"type": "string"}}}
    text = json.dumps({**declared, "resources": {"deep": made()}})
    template = heat({"n": {"type": "My::Thing", "properties": {"value": "x"}}})

    def source(target: str) -> Source:
        return Source(template=template, files={"a.yaml": text}, registry={"My::Thing": target})

    stack = await created(manager, source(before))
    first = manager.current(stack)["n"].physical
    (change,) = manager.plan(stack, source(after)).changes
    assert (change.action, change.why) == ("replace", "its type changed")
    await manager.update(stack, source(after))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert manager.current(stack)["n"].physical != first
    alive = [item for item in manager.stacks.values() if item.parent and item.live]
    assert len(alive) == (1 if after == "a.yaml" else 0)
    await manager.delete(stack)
    await manager.wait(stack)
    assert not [item for item in manager.stacks.values() if item.live]


def test_which_files_count() -> None:
    def source(template: str, **files: str) -> Source:
        return Source(template=template, files={name.replace("_", "."): text for name, text in files.items()})

    old = source('{"type": "a.yaml"}', a_yaml="get_file: b.sh", b_sh="1", c_sh="1")
    assert alike(old, source('{"type": "a.yaml"}', a_yaml="get_file: b.sh", b_sh="1", c_sh="2"))
    assert not alike(old, source('{"type": "a.yaml"}', a_yaml="get_file: b.sh", b_sh="2", c_sh="1"))
    assert not alike(old, source('{"type": "x.yaml"}', a_yaml="get_file: b.sh", b_sh="1", c_sh="1"))
    computed = "get_file: {list_join: ['', [c, .sh]]}"
    assert not alike(source(computed, c_sh="1"), source(computed, c_sh="2"))
    for made_up in ("TemplateURL: !Sub '${X}.sh'", '"TemplateURL": {"Fn::Sub": "${X}.sh"}'):
        assert not alike(source(made_up, c_sh="1"), source(made_up, c_sh="2"))
    assert not alike(source("get_file:\n  list_join: []", c_sh="1"), source("get_file:\n  list_join: []", c_sh="2"))
