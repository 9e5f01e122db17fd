"""A changed file behind the members of a group reaches them some at a time, where a policy says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.crashes import updated_over_a_crash
from tests.stacks.fake_platform import NotingPlatform
from tests.stacks.lifecycle import changed, made, opened

POLICY = {"max_batch_size": 2, "min_in_service": 1}


def inner(value: str, *, fail: bool = False) -> str:
    """A member's template."""
    properties = {"value": value, **({"fail": True} if fail else {})}
    resource = {"type": "OS::Heat::TestResource", "properties": properties}
    body = {
        "heat_template_version": "2018-08-31",
        "parameters": {
            **{name: {"type": "string", "default": ""} for name in ("ImageId", "InstanceType")},
            "Tags": {"type": "json", "default": []},
        },
        "resources": {"a": resource},
        "outputs": {"out": {"value": {"get_attr": ["a", "output"]}}},
    }
    return json.dumps(body)


def hot(resource: dict[str, Any]) -> str:
    return json.dumps({"heat_template_version": "2018-08-31", "resources": {"Group": resource}})


def cfn() -> str:
    config = {"Type": "AWS::AutoScaling::LaunchConfiguration", "Properties": {"ImageId": "i", "InstanceType": "m"}}
    properties = {
        "AvailabilityZones": ["a"],
        "LaunchConfigurationName": {"Ref": "Config"},
        "MinSize": "5",
        "MaxSize": "6",
    }
    rolling = {"AutoScalingRollingUpdate": {"MaxBatchSize": "2", "MinInstancesInService": "1", "PauseTime": "PT0S"}}
    group = {"Type": "AWS::AutoScaling::AutoScalingGroup", "Properties": properties, "UpdatePolicy": rolling}
    return json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Config": config, "Group": group}})


TEMPLATES = {
    "ResourceGroup": hot(
        {
            "type": "OS::Heat::ResourceGroup",
            "properties": {"count": 5, "resource_def": {"type": "My::Member"}},
            "update_policy": {"rolling_update": POLICY},
        }
    ),
    "AutoScalingGroup": hot(
        {
            "type": "OS::Heat::AutoScalingGroup",
            "properties": {"min_size": 5, "max_size": 6, "resource": {"type": "My::Member"}, "rolling_updates": POLICY},
        }
    ),
    "AWS": cfn(),
}
ALIASES = {"My::Member": "inner.yaml", "AWS::EC2::Instance": "inner.yaml"}


def source(kind: str, file: str, registry: dict[str, str] | None = None) -> Source:
    files = {"inner.yaml": file, "other.yaml": inner("other")}
    return Source(template=TEMPLATES[kind], files=files, registry=registry or ALIASES)


def members(manager: StackManager, stack: StackRecord) -> StackRecord:
    child = manager.child(manager.current(stack)["Group"].physical)
    assert child is not None
    return child


def values(manager: StackManager, stack: StackRecord) -> list[str]:
    """What each member's file says."""
    records = manager.current(members(manager, stack)).values()
    children = [manager.child(record.physical) for record in sorted(records, key=lambda record: record.name)]
    return [child.outputs["out"]["value"] for child in children if child is not None]


async def batches(manager: StackManager, stack: StackRecord, began: int) -> list[set[str]]:
    """Which members each operation on the group's nested stack changed."""
    await manager.store.flush()
    child = members(manager, stack)
    found: list[set[str]] = []
    for event in manager.events(child)[began:]:
        if event.name == child.name and event.status == "UPDATE_IN_PROGRESS":
            found.append(set())
        elif event.name != child.name and event.status == "UPDATE_COMPLETE":
            found[-1].add(event.name)
    return found


@pytest.fixture
def platform() -> NotingPlatform:
    return NotingPlatform()


@pytest.mark.parametrize("kind", TEMPLATES)
async def test_members_follow_in_batches(manager: StackManager, kind: str) -> None:
    stack = await made(manager, "s", source(kind, inner("1")))
    began = len(manager.events(members(manager, stack)))
    before = {name: record.physical for name, record in manager.current(members(manager, stack)).items()}
    await changed(manager, stack, source(kind, inner("2")))
    assert values(manager, stack) == ["2"] * 5
    names = sorted(before)
    assert await batches(manager, stack, began) == [set(names[:2]), set(names[2:4]), {names[4]}]
    assert {name: record.physical for name, record in manager.current(members(manager, stack)).items()} == before

    began = len(manager.events(members(manager, stack)))
    await changed(manager, stack, source(kind, inner("2"), dict.fromkeys(ALIASES, "other.yaml")))
    assert values(manager, stack) == ["other"] * 5
    assert [len(batch) for batch in await batches(manager, stack, began)] == [2, 2, 1]


async def test_a_batch_that_fails_turns_all_back_in_batches(manager: StackManager) -> None:
    stack = await made(manager, "s", source("ResourceGroup", inner("1")))
    await manager.update(stack, source("ResourceGroup", inner("2", fail=True)))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE", stack.reason
    assert values(manager, stack) == ["1"] * 5
    notes = [event.reason for event in manager.events(stack) if "rolling" in event.reason]
    assert notes[0] == "rolling update: 0, 1"
    await changed(manager, stack, source("ResourceGroup", inner("3")))
    assert values(manager, stack) == ["3"] * 5


async def test_a_later_batch_that_fails_turns_the_earlier_back(
    manager: StackManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = await made(manager, "s", source("ResourceGroup", inner("1")))
    apply, calls = manager.child_apply, 0

    async def failing(parent: Any, wanted: Source, **more: Any) -> StackRecord:
        nonlocal calls
        calls += parent.record.name == "Group"
        if calls == 2 and parent.record.name == "Group":
            calls += 1  # of the second batch only
            broken = {**wanted.files, "inner.yaml": inner("2", fail=True)}
            wanted = Source(template=wanted.template, files=broken, registry=wanted.registry)
        return await apply(parent, wanted, **more)

    monkeypatch.setattr(manager, "child_apply", failing)
    await manager.update(stack, source("ResourceGroup", inner("2")))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE", stack.reason
    assert values(manager, stack) == ["1"] * 5


@pytest.mark.parametrize("after", range(4, 84, 8))
async def test_it_is_carried_on_from_any_write(tmp_path: Path, after: int) -> None:
    manager = await opened(tmp_path, NoPlatform())
    stack = await made(manager, "s", source("ResourceGroup", inner("1")))
    source_now = source("ResourceGroup", inner("2"))
    again, stack = await updated_over_a_crash(manager, tmp_path, NoPlatform(), stack, source_now, after)
    assert values(again, stack) == ["2"] * 5
    await again.close()
