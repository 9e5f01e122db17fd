"""The stack engine on types that only hold values: order, update, replacement, rollback, delete, crashes."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pcloud.model.errors import Conflict, InvalidDocument, NotFound
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source
from pcloud.stacks.store import SqliteStore


def hot(resources: dict[str, Any], outputs: dict[str, Any] | None = None, **more: Any) -> Source:
    body = {"heat_template_version": "2018-08-31", "resources": resources, "outputs": outputs or {}}
    return Source(template=json.dumps(body), **more)


def made(value: Any = "v", **more: Any) -> dict[str, Any]:
    properties = {"value": value, **more.pop("properties", {})}
    return {"type": "OS::Heat::TestResource", "properties": properties, **more}


async def test_create_resolves_in_order_and_outputs(manager: StackManager) -> None:
    source = hot(
        {"b": made({"get_attr": ["a", "output"]}), "a": made("first")},
        {"both": {"value": {"list_join": ["-", [{"get_attr": ["a", "output"]}, {"get_attr": ["b", "output"]}]]}}},
    )
    stack = await manager.create("one", source)
    await manager.wait(stack)
    assert (stack.status, stack.reason) == ("CREATE_COMPLETE", "")
    assert stack.outputs["both"]["value"] == "first-first"
    statuses = [(event.name, event.status) for event in manager.events(stack)]
    assert statuses[0] == ("one", "CREATE_IN_PROGRESS")
    assert statuses[-1] == ("one", "CREATE_COMPLETE")
    assert statuses.index(("a", "CREATE_COMPLETE")) < statuses.index(("b", "CREATE_IN_PROGRESS"))


async def test_update_touches_only_what_changed(manager: StackManager) -> None:
    stack = await manager.create("one", hot({"a": made("1"), "b": made("2"), "c": made("3")}))
    await manager.wait(stack)
    before = len(manager.events(stack))
    await manager.update(stack, hot({"a": made("1"), "b": made("changed"), "d": made("4")}))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE"
    touched = {(event.name, event.status) for event in manager.events(stack)[before:]}
    assert touched == {
        ("one", "UPDATE_IN_PROGRESS"),
        ("b", "UPDATE_IN_PROGRESS"),
        ("b", "UPDATE_COMPLETE"),
        ("d", "CREATE_IN_PROGRESS"),
        ("d", "CREATE_COMPLETE"),
        ("one", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"),
        ("c", "DELETE_IN_PROGRESS"),
        ("c", "DELETE_COMPLETE"),
        ("one", "UPDATE_COMPLETE"),
    }


async def test_failed_create_is_undone(manager: StackManager) -> None:
    stack = await manager.create("bad", hot({"a": made(), "b": made(properties={"fail": True}, depends_on="a")}))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "Test Resource failed b" in stack.reason
    assert manager.records(stack) == []


async def test_failed_update_goes_back_to_the_old_things(manager: StackManager) -> None:
    old = hot({"a": made("1", properties={"update_replace_value": "x"}), "b": made("2")})
    stack = await manager.create("one", old)
    await manager.wait(stack)
    physical = manager.current(stack)["a"].physical
    new = hot(
        {
            "a": made("9", properties={"update_replace_value": "y"}),
            "b": made("2", properties={"fail": True}, depends_on="a"),
        }
    )
    await manager.update(stack, new)
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE", stack.reason
    current = manager.current(stack)
    assert current["a"].physical == physical
    assert current["a"].attributes == {"output": "1"}
    assert current["b"].properties["fail"] is False
    assert len(manager.records(stack)) == 2
    assert stack.source == old


async def test_replacement_makes_the_new_before_it_deletes_the_old(manager: StackManager) -> None:
    stack = await manager.create("one", hot({"a": made("1", properties={"update_replace_value": "x"})}))
    await manager.wait(stack)
    first = manager.current(stack)["a"].physical
    before = len(manager.events(stack))
    await manager.update(stack, hot({"a": made("1", properties={"update_replace_value": "y"})}))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE"
    second = manager.current(stack)["a"].physical
    assert second != first
    lines = [(event.physical, event.status) for event in manager.events(stack)[before:] if event.name == "a"]
    assert lines.index((second, "CREATE_COMPLETE")) < lines.index((first, "DELETE_IN_PROGRESS"))


async def test_delete_in_reverse_order(manager: StackManager) -> None:
    stack = await manager.create("one", hot({"a": made(), "b": made(depends_on="a")}))
    await manager.wait(stack)
    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE"
    names = [event.name for event in manager.events(stack) if event.status == "DELETE_COMPLETE"]
    assert names == ["b", "a", "one"]
    with pytest.raises(NotFound):
        manager.get("one")
    assert manager.get(stack.id) is stack


async def test_time_out_and_cancel(manager: StackManager) -> None:
    stack = await manager.create("one", hot({"a": made()}))
    await manager.wait(stack)
    await manager.update(stack, hot({"a": made("2", properties={"wait_secs": 60})}))
    await asyncio.sleep(0)
    await manager.cancel_update(stack)
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE", stack.reason
    assert manager.current(stack)["a"].attributes == {"output": "v"}
    late = await manager.create("late", hot({"a": made(properties={"action_wait_secs": {"create": 60}})}))
    assert late.operation is not None
    late.operation.deadline = time.time() + 0.05
    # The deadline is read when the forward phase begins, which is at the first turn of the loop.
    await manager.wait(late)
    assert late.status == "ROLLBACK_COMPLETE"
    assert "timed out" in late.reason


async def test_wait_condition_and_signal(manager: StackManager) -> None:
    source = hot(
        {
            "handle": {"type": "OS::Heat::WaitConditionHandle"},
            "wait": {
                "type": "OS::Heat::WaitCondition",
                "properties": {"handle": {"get_resource": "handle"}, "timeout": 3600, "count": 2},
            },
        },
        {"data": {"value": {"get_attr": ["wait", "data"]}}},
    )
    stack = await manager.create("waiting", source)
    while "wait" not in manager.current(stack):
        await asyncio.sleep(0.01)
    handle = manager.current(stack)["handle"]
    for number in ("1", "1", "2"):
        await manager.signal(handle, {"status": "SUCCESS", "id": number, "data": f"d{number}", "reason": ""})
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert json.loads(stack.outputs["data"]["value"]) == {"1": "d1", "2": "d2"}


async def test_refused_before_anything_starts(manager: StackManager) -> None:
    with pytest.raises(InvalidDocument) as caught:
        await manager.create("no", hot({"a": made(), "q": {"type": "OS::Zaqar::Queue"}, "z": {"type": "OS::Nonsense"}}))
    assert len(caught.value.problems) == 2
    with pytest.raises(NotFound):
        manager.get("no")


async def test_protection_and_names(manager: StackManager) -> None:
    stack = await manager.create("one", hot({"a": made()}), protected=True)
    await manager.wait(stack)
    with pytest.raises(Conflict):
        await manager.create("one", hot({"a": made()}))
    with pytest.raises(Conflict):
        await manager.delete(stack)
    assert stack.status == "CREATE_COMPLETE"


async def test_five_hundred_resources_are_durable(manager: StackManager, tmp_path: Path) -> None:
    stack = await manager.create("big", hot({f"r{n}": made(f"v{n}") for n in range(500)}))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE"
    other = SqliteStore(tmp_path / "stacks.db")
    assert [item.status for item in other.stacks()] == ["CREATE_COMPLETE"]
    assert len(other.resources()) == 500
    await other.close()


async def test_creation_policy_counts_what_a_parameter_says(manager: StackManager) -> None:
    template = {
        "Parameters": {"Count": {"Type": "Number", "Default": 2}},
        "Resources": {
            "A": {
                "Type": "OS::Heat::TestResource",
                "CreationPolicy": {"ResourceSignal": {"Count": {"Ref": "Count"}, "Timeout": "PT1H"}},
            }
        },
    }
    stack = await manager.create("policy", Source(template=json.dumps(template)))
    while "A" not in manager.current(stack):
        await asyncio.sleep(0.01)
    record = manager.current(stack)["A"]
    for number in ("1", "2"):
        assert stack.status == "CREATE_IN_PROGRESS"
        await manager.signal(record, {"status": "SUCCESS", "id": number, "data": "", "reason": ""})
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        # 3 of 5 are 50 %, rounded up; a second signal of a member replaces its first; the fourth is never needed
        ([("a", "FAILURE"), ("b", "SUCCESS"), ("b", "SUCCESS"), ("a", "SUCCESS"), ("c", "SUCCESS")], "CREATE_COMPLETE"),
        ([("a", "FAILURE"), ("b", "SUCCESS"), ("c", "FAILURE"), ("d", "FAILURE")], "CREATE_FAILED"),
    ],
)
async def test_creation_policy_wants_a_share_of_a_group(
    manager: StackManager, sent: list[tuple[str, str]], status: str
) -> None:
    policy = {
        "ResourceSignal": {"Count": 5, "Timeout": "PT1H"},
        "AutoScalingCreationPolicy": {"MinSuccessfulInstancesPercent": 50},
    }
    template = {"Resources": {"A": {"Type": "OS::Heat::TestResource", "CreationPolicy": policy}}}
    stack = await manager.create("share", Source(template=json.dumps(template)), on_failure="DO_NOTHING")
    while "A" not in manager.current(stack):
        await asyncio.sleep(0.01)
    record = manager.current(stack)["A"]
    for member, verdict in sent:
        assert stack.status == "CREATE_IN_PROGRESS"
        await manager.signal(record, {"status": verdict, "id": member, "data": "", "reason": ""})
    await manager.wait(stack)
    assert stack.status == status, stack.reason
    assert status == "CREATE_COMPLETE" or "1 SUCCESS signal(s) out of 5" in stack.reason


@pytest.mark.parametrize(
    "policy",
    [
        {"Ref": "AWS::Region"},
        {"ResourceSignal": {"Count": "many"}},
        {"ResourceSignal": 3},
        {"AutoScalingCreationPolicy": {"MinSuccessfulInstancesPercent": 101}},
        {"AutoScalingCreationPolicy": "half"},
    ],
)
async def test_policies_that_are_none_are_refused(manager: StackManager, policy: dict[str, Any]) -> None:
    template = {"Resources": {"A": {"Type": "OS::Heat::TestResource", "CreationPolicy": policy}}}
    with pytest.raises(InvalidDocument):
        await manager.create("no", Source(template=json.dumps(template)))


async def test_deleted_stacks_are_forgotten_after_their_time(tmp_path: Path) -> None:
    now = 1000.0
    manager = StackManager(SqliteStore(tmp_path / "s.db"), NoPlatform(), clock=lambda: now, keep_deleted=50)
    await manager.start()
    for name in ("old", "new", "live"):
        stack = await manager.create(name, hot({"a": made()}))
        await manager.wait(stack)
        if name != "live":
            await manager.delete(stack)
            await manager.wait(stack)
        now += 40
    assert {item.name for item in manager.stacks.values()} == {"old", "new", "live"}
    await manager.close()
    # old went at 1000, new at 1040
    again = StackManager(SqliteStore(tmp_path / "s.db"), NoPlatform(), clock=lambda: 1080.0, keep_deleted=50)
    await again.start()
    assert {item.name for item in again.stacks.values()} == {"new", "live"}
    await again.store.flush()
    assert len(again.store.stacks()) == 2
    await again.close()


async def test_what_begins_while_the_manager_closes_ends_with_it(
    manager: StackManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nested stack is accepted in the very moment in which the operation outside is told to end."""
    slow = made(properties={"action_wait_secs": {"create": 3600}})
    inner = {"heat_template_version": "2018-08-31", "resources": {"a": slow}}
    body = {"heat_template_version": "2018-08-31", "resources": {"nested": {"type": "inner.yaml"}}}
    real, closing = manager.store.flush, []

    async def flush() -> None:
        await real()
        if any(stack.parent for stack in manager.stacks.values()) and not closing:
            (outer,) = manager._tasks.values()
            closing.append(asyncio.ensure_future(manager.close()))
            while not outer.cancelling():
                await asyncio.sleep(0)

    monkeypatch.setattr(manager.store, "flush", flush)
    before = asyncio.all_tasks()
    await manager.create("s", Source(template=json.dumps(body), files={"inner.yaml": json.dumps(inner)}))
    while not closing:
        await asyncio.sleep(0)
    await closing[0]
    assert asyncio.all_tasks() <= before


async def test_names_of_heats_types_in_a_template_of_cloudformation(manager: StackManager) -> None:
    """Heat takes an underscore there; the names of AWS's types are letters and digits."""
    one = {"Type": "OS::Heat::TestResource", "Properties": {"value": "v"}}
    two = {"Type": "OS::Heat::TestResource", "Properties": {"value": {"Fn::Sub": "<${the_first.output}>"}}}
    body = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"the_first": one, "the_second": two}}
    told = {"Said": {"Value": {"Fn::GetAtt": ["the_second", "output"]}}, "Id": {"Value": {"Ref": "the_first"}}}
    stack = await manager.create("one", Source(template=json.dumps({**body, "Outputs": told})))
    await manager.wait(stack)
    assert stack.outputs["Said"]["value"] == "<v>"
    body["Resources"] = {"the_handle": {"Type": "AWS::CloudFormation::WaitConditionHandle"}}
    with pytest.raises(InvalidDocument, match="letters and digits only"):
        await manager.create("two", Source(template=json.dumps(body)))
