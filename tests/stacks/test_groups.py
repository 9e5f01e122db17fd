"""Groups: rolling updates, cool-downs, sizes that survive a crash, and that scaling and updates do not cross."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.types.base import Context, ResourceFailed
from pcloud.stacks.types.rolling import Roll, aws_roll, stage
from tests.stacks.crashes import updated_over_a_crash
from tests.stacks.fake_platform import NotingPlatform
from tests.stacks.lifecycle import made, opened
from tests.stacks.query_client import Client, texts
from tests.stacks.scaling_groups import members
from tests.stacks.serving import serving


@pytest.fixture
def platform(instances: None) -> NotingPlatform:
    return NotingPlatform()


def group(image: str = "one", policy: dict[str, Any] | None = None, **changes: Any) -> Source:
    properties = {
        "AvailabilityZones": {"Fn::GetAZs": ""},
        "LaunchConfigurationName": {"Ref": "Config"},
        "MinSize": "1",
        "MaxSize": "6",
        "DesiredCapacity": "3",
        "Cooldown": "0",
        **changes,
    }
    body = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "Config": {
                "Type": "AWS::AutoScaling::LaunchConfiguration",
                "Properties": {"ImageId": image, "InstanceType": "m1.small"},
            },
            "Group": {
                "Type": "AWS::AutoScaling::AutoScalingGroup",
                "Properties": properties,
                **({"UpdatePolicy": policy} if policy else {}),
            },
            "Up": policy_of("ChangeInCapacity", 1),
            "Down": policy_of("ChangeInCapacity", -1),
            "Double": policy_of("PercentChangeInCapacity", 100, Cooldown="600"),
        },
        "Outputs": {
            "addresses": {"Value": {"Fn::GetAtt": ["Group", "InstanceList"]}},
            "group": {"Value": {"Ref": "Group"}},
        },
    }
    return Source(template=json.dumps(body))


def policy_of(kind: str, amount: int, **more: Any) -> dict[str, Any]:
    properties = {"AutoScalingGroupName": {"Ref": "Group"}, "AdjustmentType": kind, "ScalingAdjustment": amount, **more}
    return {"Type": "AWS::AutoScaling::ScalingPolicy", "Properties": properties}


def images(manager: StackManager, stack: StackRecord) -> dict[str, str]:
    return {name: record.properties["ImageId"] for name, record in sorted(members(manager, stack).items())}


async def signal(manager: StackManager, stack: StackRecord, policy: str) -> int:
    await manager.signal(manager.current(stack)[policy], {"status": "SUCCESS"})
    await manager.settled()
    return len(members(manager, stack))


async def test_a_group_of_instances_scales_by_its_policies_within_its_limits(manager: StackManager) -> None:
    stack = await made(manager, "web", group())
    assert stack.outputs["addresses"]["value"] == "192.0.2.1,192.0.2.2,192.0.2.3"
    assert stack.outputs["group"]["value"].startswith("web-Group-")
    tags = members(manager, stack)["member0"].properties["Tags"]
    assert {"Key": "AutoScalingGroupName", "Value": stack.outputs["group"]["value"]} in tags
    first = {name: record.physical for name, record in members(manager, stack).items()}
    assert [await signal(manager, stack, name) for name in ("Up", "Down", "Down", "Down", "Down")] == [4, 3, 2, 1, 1]
    assert members(manager, stack)["member0"].physical == first["member0"]
    assert await signal(manager, stack, "Double") == 2
    assert await signal(manager, stack, "Up") == 2, "the policy's cool-down holds for the whole group"


async def test_members_stay_as_they_are_without_an_update_policy(manager: StackManager) -> None:
    stack = await made(manager, "web", group())
    await manager.update(stack, group("two", DesiredCapacity="4"))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert images(manager, stack) == {"member0": "one", "member1": "one", "member2": "one", "member3": "two"}
    assert await signal(manager, stack, "Up") == 5
    assert images(manager, stack)["member0"] == "one"


ROLLING = {"AutoScalingRollingUpdate": {"MaxBatchSize": "2", "MinInstancesInService": "2", "PauseTime": "PT0S"}}


async def test_a_rolling_update_changes_few_enough_at_once(manager: StackManager) -> None:
    stack = await made(manager, "web", group(policy=ROLLING, DesiredCapacity="5"))
    child = manager.child(manager.current(stack)["Group"].physical)
    assert child is not None
    await manager.update(stack, group("two", policy=ROLLING, DesiredCapacity="5"))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert set(images(manager, stack).values()) == {"two"}
    await manager.store.flush()
    notes = [e.reason for e in manager.events(stack) if e.name == "Group" and "rolling" in e.reason]
    assert notes == [f"rolling update: {names}" for names in ("member0, member1", "member2, member3", "member4")]


async def test_a_scaled_size_outlives_an_update_that_does_not_name_another(manager: StackManager) -> None:
    stack = await made(manager, "web", group(policy=ROLLING))
    assert await signal(manager, stack, "Up") == 4
    await manager.update(stack, group("two", policy=ROLLING))
    await manager.wait(stack)
    assert list(images(manager, stack).values()) == ["two"] * 4
    await manager.update(stack, group("two", policy=ROLLING, DesiredCapacity="2"))
    await manager.wait(stack)
    assert len(members(manager, stack)) == 2


async def test_a_failed_batch_turns_all_back(manager: StackManager) -> None:
    stack = await made(manager, "web", group(policy=ROLLING))
    before = {name: record.physical for name, record in members(manager, stack).items()}
    await manager.update(stack, group("broken", policy=ROLLING))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE", stack.reason
    assert set(images(manager, stack).values()) == {"one"}
    assert {name: record.physical for name, record in members(manager, stack).items()} == before


WAITING = {"AutoScalingRollingUpdate": {"MaxBatchSize": 1, "WaitOnResourceSignals": True, "PauseTime": "PT1H"}}


async def test_each_batch_waits_for_its_signals(manager: StackManager) -> None:
    import asyncio

    stack = await made(manager, "web", group(policy=WAITING, DesiredCapacity="2"))
    await manager.update(stack, group("two", policy=WAITING, DesiredCapacity="2"))
    record = manager.current(stack)["Group"]
    async with asyncio.timeout(60):
        for number in range(2):
            while list(images(manager, stack).values()).count("two") <= number:
                await asyncio.sleep(0.01)
            assert list(images(manager, stack).values()).count("two") == number + 1
            assert stack.busy
            await manager.signal(record, {"status": "SUCCESS", "id": f"i-{number}"})
        await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    await manager.update(stack, group("three", policy=WAITING, DesiredCapacity="2"))
    async with asyncio.timeout(60):
        while "three" not in images(manager, stack).values():
            await asyncio.sleep(0.01)
        await manager.signal(record, {"status": "FAILURE", "id": "i-9"})
        while "ROLLBACK" not in stack.status:
            await asyncio.sleep(0.01)
    assert "0 SUCCESS signal(s) out of 1" in (stack.operation.reason if stack.operation else stack.reason)


async def test_a_crash_in_the_midst_of_scaling_is_carried_on(manager: StackManager, tmp_path: Path) -> None:
    stack = await made(manager, "web", group())
    await manager.signal(manager.current(stack)["Up"], {"status": "SUCCESS"})  # the size is stored, the members are not
    await manager.close()
    again = await opened(tmp_path, NotingPlatform())
    await again.settled()
    stack = again.get("web")
    assert len(members(again, stack)) == 4
    assert "scaling" not in again.current(stack)["Group"].data
    await again.close()


async def test_a_size_that_is_asked_for_while_another_fails_is_followed(manager: StackManager) -> None:
    stack = await made(manager, "web", group())
    record = manager.current(stack)["Group"]
    kind = manager.type_of(record)
    resize, failures = kind.resize, iter([True])

    async def failing(context: Context) -> None:
        if next(failures, False):
            await manager.signal(manager.current(stack)["Up"], {"status": "SUCCESS"})
            raise ResourceFailed("no room")
        await resize(context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(kind), "resize", lambda _self, context: failing(context))
        assert await signal(manager, stack, "Up") == 5
    assert "scaling" not in record.data


@pytest.mark.parametrize("after", range(3, 60, 4))
async def test_a_rolling_update_is_carried_on_from_any_write(manager: StackManager, tmp_path: Path, after: int) -> None:
    stack = await made(manager, "web", group(policy=ROLLING, DesiredCapacity="3"))
    source = group("two", policy=ROLLING, DesiredCapacity="3")
    again, stack = await updated_over_a_crash(manager, tmp_path, NotingPlatform(), stack, source, after)
    assert list(images(again, stack)) == ["member0", "member1", "member2"]
    assert set(images(again, stack).values()) == {"two"}
    await again.close()


def test_stages_keep_enough_in_service_and_end() -> None:
    for capacity in range(1, 6):
        for batch in range(1, 4):
            for minimum in range(7):
                for maximum in range(capacity, capacity + 3):
                    old = {f"member{n}": {"v": 1} for n in range(capacity)}
                    wanted = {f"member{n}": {"v": 2} for n in range(capacity)}
                    roll = Roll(batch=batch, minimum=minimum)
                    if min(minimum, capacity) == capacity == maximum:
                        with pytest.raises(ResourceFailed):
                            stage(old, wanted, roll, maximum)
                        continue
                    current = old
                    for _ in range(20):
                        following, names = stage(current, wanted, roll, maximum)
                        if not names:
                            break
                        out = [name for name in names if name in current]
                        assert len(current) - len(out) >= min(minimum, capacity)
                        assert len(out) <= batch
                        assert len(following) <= maximum
                        current = following
                    assert following == wanted


def test_policies_of_both_languages() -> None:
    assert aws_roll(None) is None
    assert aws_roll({"AutoScalingScheduledAction": {}}) is None
    roll = aws_roll({"AutoScalingRollingUpdate": {"PauseTime": "PT1M30S", "SuspendProcesses": ["AlarmNotification"]}})
    assert roll == Roll(batch=1, pause=90, drops=True)
    assert aws_roll({"AutoScalingReplacingUpdate": {"WillReplace": "true"}}) == Roll(batch=10_000)


@pytest.mark.parametrize(
    "changes", [{"MinSize": 7}, {"DesiredCapacity": 9}, {"LaunchTemplate": {}}, {"LaunchConfigurationName": None}]
)
async def test_refused_before_anything_starts(manager: StackManager, changes: dict[str, Any]) -> None:
    if "LaunchConfigurationName" in changes:
        changes = {"LaunchConfigurationName": {"Ref": "AWS::NoValue"}}
    with pytest.raises(InvalidDocument):
        await manager.create("no", group(**changes))


async def test_heat_groups_roll_and_create_in_batches(manager: StackManager) -> None:
    def source(value: str) -> Source:
        body = {
            "heat_template_version": "2018-08-31",
            "resources": {
                "Group": {
                    "type": "OS::Heat::AutoScalingGroup",
                    "properties": {
                        "min_size": 3,
                        "max_size": 4,
                        "rolling_updates": {"max_batch_size": 1, "min_in_service": 3},
                        "resource": {"type": "OS::Heat::TestResource", "properties": {"value": value}},
                    },
                },
                "Batches": {
                    "type": "OS::Heat::ResourceGroup",
                    "update_policy": {"batch_create": {"max_batch_size": 2}, "rolling_update": {"max_batch_size": 2}},
                    "properties": {
                        "count": 5,
                        "resource_def": {"type": "OS::Heat::TestResource", "properties": {"value": value}},
                    },
                },
            },
        }
        return Source(template=json.dumps(body))

    stack = await made(manager, "web", source("a"))
    batches = manager.child(manager.current(stack)["Batches"].physical)
    assert batches is not None
    assert batches.generation == 3
    await manager.update(stack, source("b"))
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    values = [record.attributes["output"] for record in members(manager, stack).values()]
    assert values == ["b", "b", "b"]
    await manager.store.flush()
    notes = [e.reason.split(": ")[1] for e in manager.events(stack) if "rolling" in e.reason and e.name == "Group"]
    assert notes == ["spare0", "member0", "member1", "member2"]
    notes = [e.reason.split(": ")[1] for e in manager.events(stack) if "rolling" in e.reason and e.name == "Batches"]
    assert notes == ["0, 1", "2, 3", "4"]


async def test_auto_scalings_own_operations(manager: StackManager) -> None:
    async with serving(cloudformation_app(manager, lambda token: None)) as url:
        ask = Client(url, *manager.make_key("native", "", "test"))
        stack = await made(manager, "web", group())
        name = stack.outputs["group"]["value"]
        about = {"AutoScalingGroupName": name}

        async def size() -> int:
            await manager.settled()
            shown = await ask("DescribeAutoScalingGroups", {"AutoScalingGroupNames.member.1": name})
            assert shown.status_code == 200, shown.text
            return len(texts(shown, "InstanceId"))

        assert await size() == 3
        assert (await ask("SetDesiredCapacity", {**about, "DesiredCapacity": 4})).status_code == 200
        assert await size() == 4
        assert (await ask("SetDesiredCapacity", {**about, "DesiredCapacity": 7})).status_code == 400
        assert (
            await ask("SuspendProcesses", {**about, "ScalingProcesses.member.1": "AlarmNotification"})
        ).status_code == 200
        policy = {"PolicyName": manager.current(stack)["Up"].physical}
        assert (await ask("ExecutePolicy", policy)).status_code == 200
        assert await size() == 4
        assert (await ask("ResumeProcesses", about)).status_code == 200
        assert (await ask("SuspendProcesses", {**about, "ScalingProcesses.member.1": "Launch"})).status_code == 200
        assert (await ask("ExecutePolicy", policy)).status_code == 200
        assert await size() == 4
        assert (await ask("ResumeProcesses", about)).status_code == 200
        assert await size() == 5
        assert (await ask("SuspendProcesses", {**about, "ScalingProcesses.member.1": "AZRebalance"})).status_code == 400
        assert (await ask("ExecutePolicy", {"PolicyName": "none"})).status_code == 400
