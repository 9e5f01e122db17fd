"""Suspending, resuming and checking stacks: in order, over crashes, and with nothing else happening meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pcloud.model.deployable import Deployable, ResourceState
from pcloud.model.errors import Conflict
from pcloud.model.status import DeployableStatus
from pcloud.stacks.alarms.metrics import Datum
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.types.scaling import Adjustment
from tests.stacks.fake_platform import Ending
from tests.stacks.lifecycle import opened
from tests.stacks.memory_platform import MemoryPlatform
from tests.stacks.templates import instance

DAY = 86400


class StandingPlatform(Ending, MemoryPlatform):
    """Deployables that can be stopped; may end its daemon at a call."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped: set[str] = set()
        self.log: list[tuple[str, str]] = []
        self.silent: set[str] = set()

    async def apply(self, deployable: Deployable) -> None:
        await super().apply(deployable)
        self.log.append(("apply", deployable.name))

    async def stop(self, name: str) -> None:
        await self.spend()
        if name in self.stored:
            self.stopped.add(name)
            self.log.append(("stop", name))
        await self.spend()

    async def start(self, name: str) -> None:
        await self.spend()
        self.stopped.discard(name)
        self.log.append(("start", name))
        await self.spend()

    async def status(self, name: str) -> DeployableStatus | None:
        found = await super().status(name)
        if found is None or name not in self.stopped | self.silent:
            return found
        guests = tuple(
            msgspec.structs.replace(one, state=ResourceState.STOPPED, answers=False) for one in found.assemblies
        )
        return msgspec.structs.replace(found, state=ResourceState.STOPPED, assemblies=guests)


def source() -> Source:
    """Two servers, a nested stack with one, and a group of one; the second server needs the nested stack."""
    inner = {"heat_template_version": "2018-08-31", "resources": {"s": lower(instance())}}
    group = {"count": 1, "resource_def": lower(instance())}
    body = {
        "heat_template_version": "2018-08-31",
        "resources": {
            "first": lower(instance()),
            "nested": {"type": "inner.yaml", "depends_on": "first"},
            "second": {**lower(instance()), "depends_on": "nested"},
            "group": {"type": "OS::Heat::ResourceGroup", "properties": group},
        },
    }
    return Source(template=json.dumps(body), files={"inner.yaml": json.dumps(inner)})


def lower(resource: dict[str, Any]) -> dict[str, Any]:
    return {"type": resource["Type"], "properties": resource["Properties"]}


async def made(folder: Path, platform: StandingPlatform) -> tuple[Any, StackRecord]:
    manager = await opened(folder, platform)
    stack = await manager.create("s", source(), owner="heat")
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return manager, stack


async def test_guests_stop_in_reverse_order_and_start_in_order(tmp_path: Path) -> None:
    platform = StandingPlatform()
    manager, stack = await made(tmp_path, platform)
    assert len(platform.stored) == 3
    await manager.suspend(stack)
    assert stack.status == "SUSPEND_IN_PROGRESS"
    with pytest.raises(Conflict):
        await manager.resume(stack)
    await manager.wait(stack)
    assert (stack.status, stack.reason, stack.operation) == ("SUSPEND_COMPLETE", "", None)
    assert platform.stopped == set(platform.stored)
    assert {record.status for record in manager.current(stack).values()} == {"SUSPEND_COMPLETE"}

    def order(status: str) -> list[str]:
        return [event.name for event in manager.events(stack) if event.status == status and event.name != "group"]

    assert order("SUSPEND_COMPLETE") == ["second", "nested", "first", "s"]
    for refused in (manager.update(stack, source()), manager.check(stack)):
        with pytest.raises(Conflict, match=r"SUSPEND_COMPLETE|suspended"):
            await refused
    with pytest.raises(Conflict, match="its resources take no signals"):
        await manager.signal(manager.current(stack)["first"], {"status": "SUCCESS"})
    await manager.suspend(stack)  # it is: nothing happens
    assert stack.status == "SUSPEND_COMPLETE"

    platform.log.clear()
    await manager.resume(stack)
    await manager.wait(stack)
    assert stack.status == "RESUME_COMPLETE", stack.reason
    assert platform.stopped == set()
    assert {what for what, _ in platform.log} == {"start"}
    assert order("RESUME_COMPLETE") == ["first", "nested", "second", "s"]
    with pytest.raises(Conflict, match="in CREATE_COMPLETE state: it is not suspended"):
        stack.status = "CREATE_COMPLETE"
        await manager.resume(stack)
    stack.status = "RESUME_COMPLETE"
    await manager.update(stack, source())
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    await manager.suspend(stack)
    await manager.wait(stack)
    await manager.delete(stack)
    await manager.wait(stack)
    assert (stack.status, platform.stored) == ("DELETE_COMPLETE", {})
    await manager.close()


@pytest.mark.parametrize("action", ["suspend", "resume"])
async def test_a_crash_at_any_moment_is_carried_on(tmp_path: Path, action: str) -> None:
    points = 0
    for point in range(100):
        folder = tmp_path / str(point)
        folder.mkdir()
        platform = StandingPlatform()
        manager, stack = await made(folder, platform)
        if action == "resume":
            await manager.suspend(stack)
            await manager.wait(stack)
        platform.left = point
        await getattr(manager, action)(stack)
        while any(not task.done() for task in manager._tasks.values()) and not platform.ended:
            await asyncio.sleep(0)
        await manager.close()
        finished = not platform.ended
        platform.ended, platform.left = False, -1
        again = await opened(folder, platform)
        stack = again.get("s")
        await again.wait(stack)
        assert stack.status == f"{action.upper()}_COMPLETE", (point, stack.reason)
        assert platform.stopped == (set(platform.stored) if action == "suspend" else set())
        assert {one.status for one in again.stacks.values()} == {f"{action.upper()}_COMPLETE"}
        await again.close()
        points += 1
        if finished:
            break
    assert points > 6


async def test_a_check_says_what_is_not_there(tmp_path: Path) -> None:
    platform = StandingPlatform()
    manager, stack = await made(tmp_path, platform)
    await manager.check(stack)
    await manager.wait(stack)
    assert stack.status == "CHECK_COMPLETE", stack.reason
    own = next(name for name, one in platform.stored.items() if len(one.assemblies) == 2)
    inner = next(name for name in platform.stored if name.startswith("s-nested"))
    platform.silent.add(inner)
    kept = platform.stored[own]
    platform.stored[own] = msgspec.structs.replace(kept, assemblies=kept.assemblies[:1])
    await manager.check(stack)
    await manager.wait(stack)
    assert stack.status == "CHECK_FAILED"
    assert "the guest is stopped" in stack.reason
    assert "it is not there any more" in stack.reason
    found = {name: record.status for name, record in manager.current(stack).items()}
    gone = {"first", "second"} - {one.name.rpartition("-")[0] for one in platform.stored[own].assemblies}
    assert {name for name, status in found.items() if status == "CHECK_FAILED"} == {"nested", *gone}
    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE"
    await manager.close()


async def test_a_change_of_an_old_server_has_its_own_time(tmp_path: Path) -> None:
    """What a server waited for when it was made is not counted again a day later."""
    platform = StandingPlatform()
    manager, stack = await made(tmp_path, platform)
    assert all("began" not in record.data for record in manager.current(stack).values())
    now = manager._clock
    manager._clock = lambda: now() + DAY
    await manager.suspend(stack)
    await manager.wait(stack)
    await manager.resume(stack)
    await manager.wait(stack)
    assert stack.status == "RESUME_COMPLETE", stack.reason
    await manager.close()


async def test_alarms_wait_while_their_stack_is_suspended_and_act_again(tmp_path: Path) -> None:
    platform = StandingPlatform()
    manager = await opened(tmp_path, platform)
    group = {
        "type": "OS::Heat::AutoScalingGroup",
        "properties": {"min_size": 1, "max_size": 3, "resource": {"type": "OS::Heat::RandomString"}},
    }
    policy = {"auto_scaling_group_id": {"get_resource": "group"}, "scaling_adjustment": 1}
    alarm = {
        "Namespace": "n", "MetricName": "m", "Statistic": "Sum", "Period": "300", "EvaluationPeriods": "1",
        "Threshold": "1", "ComparisonOperator": "GreaterThanThreshold",
        "AlarmActions": [{"get_attr": ["up", "alarm_url"]}],
    }  # fmt: skip
    body = {
        "heat_template_version": "2018-08-31",
        "resources": {
            "group": group,
            "up": {
                "type": "OS::Heat::ScalingPolicy",
                "properties": {**policy, "adjustment_type": "change_in_capacity"},
            },
            "alarm": {"type": "AWS::CloudWatch::Alarm", "properties": alarm},
        },
    }
    stack = await manager.create("s", Source(template=json.dumps(body)), owner="heat")
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    await manager.suspend(stack)
    await manager.wait(stack)
    manager.watcher.put(stack.id, Datum.single("n", "m", 5.0, manager.now()))
    manager.watcher.look()
    await manager.watcher.idle()
    record = manager.current(stack)["group"]
    assert manager.size_of(record) == 1
    with pytest.raises(Conflict, match="its groups keep their size"):
        await manager.scale(record, Adjustment(group="", kind="ExactCapacity", amount=2, asked=True))
    await manager.resume(stack)
    await manager.wait(stack)
    manager.watcher.look()
    await manager.watcher.idle()
    await manager.settled()
    assert manager.size_of(record) == 2
    await manager.close()
