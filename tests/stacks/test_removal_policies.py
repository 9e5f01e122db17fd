"""DeletionPolicy, UpdateReplacePolicy and HOT's deletion_policy written as functions: known before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.lifecycle import opened
from tests.stacks.test_engine import made

EXTENDED = {"Transform": "AWS::LanguageExtensions"}
KEEP = {"Parameters": {"Keep": {"Type": "String", "Default": "Retain"}}}


def cfn(policy: Any, key: str = "DeletionPolicy", **more: Any) -> dict[str, Any]:
    properties = more.pop("properties", {})
    resource = {"Type": "OS::Heat::TestResource", "Properties": properties, key: policy}
    return {**EXTENDED, **KEEP, "Resources": {"A": resource}, **more}


def source(body: dict[str, Any], **parameters: Any) -> Source:
    return Source(template=json.dumps(body), parameters=parameters)


def ends(manager: StackManager, stack: StackRecord) -> list[str]:
    """What became of A when it was taken away."""
    return [event.status for event in manager.events(stack) if event.name == "A" and event.status.startswith("DELETE")]


@pytest.mark.parametrize(
    "policy",
    [
        {"Ref": "Keep"},
        {"Fn::If": ["Kept", "Retain", "Delete"]},
        {"Fn::FindInMap": ["Stages", "production", "end"]},
    ],
)
async def test_a_policy_that_a_function_gives_is_followed_over_a_restart(tmp_path: Path, policy: Any) -> None:
    conditions = {"Kept": {"Fn::Equals": [{"Ref": "Keep"}, "Retain"]}}
    body = cfn(policy, Conditions=conditions, Mappings={"Stages": {"production": {"end": "Retain"}}})
    manager = await opened(tmp_path, NoPlatform())
    stack = await manager.create("kept", source(body))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    await manager.close()
    again = await opened(tmp_path, NoPlatform())
    stack = again.get("kept")
    assert again.current(stack)["A"].deletion_policy == "Retain"
    await again.delete(stack)
    await again.wait(stack)
    assert (stack.status, ends(again, stack)) == ("DELETE_COMPLETE", ["DELETE_SKIPPED"])
    await again.close()


async def test_an_update_changes_what_the_function_gives(tmp_path: Path) -> None:
    manager = await opened(tmp_path, NoPlatform())
    body = cfn({"Ref": "Keep"})
    stack = await manager.create("one", source(body))
    await manager.wait(stack)
    await manager.update(stack, source(body, Keep="Delete"))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert manager.current(stack)["A"].deletion_policy == "Delete"
    await manager.delete(stack)
    await manager.wait(stack)
    assert ends(manager, stack) == ["DELETE_IN_PROGRESS", "DELETE_COMPLETE"]
    await manager.close()


async def test_what_is_replaced_is_kept_when_a_function_says_so(tmp_path: Path) -> None:
    manager = await opened(tmp_path, NoPlatform())

    def body(value: str) -> Source:
        return source(cfn({"Ref": "Keep"}, "UpdateReplacePolicy", properties={"update_replace_value": value}))

    stack = await manager.create("one", body("x"))
    await manager.wait(stack)
    await manager.update(stack, body("y"))
    await manager.wait(stack)
    assert (stack.status, ends(manager, stack)) == ("UPDATE_COMPLETE", ["DELETE_SKIPPED"])
    await manager.close()


async def test_heat_takes_functions_too(tmp_path: Path) -> None:
    manager = await opened(tmp_path, NoPlatform())
    body = {
        "heat_template_version": "2018-08-31",
        "parameters": {"keep": {"type": "string"}},
        "resources": {"A": made(deletion_policy={"get_param": "keep"})},
    }
    stack = await manager.create("one", source(body, keep="retain"))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    await manager.delete(stack)
    await manager.wait(stack)
    assert ends(manager, stack) == ["DELETE_SKIPPED"]
    with pytest.raises(InvalidDocument, match="'for ever' is not one of delete, retain, snapshot"):
        await manager.create("two", source(body, keep="for ever"))
    await manager.close()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**cfn({"Ref": "Keep"}), "Transform": []}, "takes a function only with the transform"),
    ({**cfn({"Ref": "Keep"}, "UpdateReplacePolicy"), "Transform": []}, "takes a function only with the transform"),
    (cfn({"Ref": "Nobody"}), "there is no resource 'Nobody'"),
    (cfn({"Ref": "A"}), "can not refer to a resource"),
    (cfn({"Fn::GetAtt": ["A", "output"]}), "can not refer to a resource"),
    (cfn({"Fn::Join": ["", ["Re", "peat"]]}), "'Repeat' is not one of Delete, Retain"),
    (cfn({"Fn::Join": ["", ["Snap", "shot"]]}), "no snapshot can be made"),
    (cfn("RetainExceptOnCreate", "UpdateReplacePolicy"), "is not one of Delete, Retain, Snapshot"),
    (cfn(["Retain"]), "is not one of"),
]


@pytest.mark.parametrize(("body", "sentence"), REFUSED)
async def test_what_is_no_policy_is_refused_before_anything_starts(
    tmp_path: Path, body: dict[str, Any], sentence: str
) -> None:
    manager = await opened(tmp_path, NoPlatform())
    with pytest.raises(InvalidDocument) as caught:
        await manager.create("no", source(body))
    assert any(sentence in problem.message for problem in caught.value.problems), caught.value.problems
    assert manager.stacks == {}
    await manager.close()
