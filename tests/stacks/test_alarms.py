"""Alarms: what they conclude, when they act, and that a crash loses nothing. Time is the test's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pcloud.events.event import Event
from pcloud.model.errors import InvalidDocument, PcloudError
from pcloud.stacks.alarms.metrics import MAX_SERIES, Datum
from pcloud.stacks.alarms.rule import Rule, judge
from pcloud.stacks.alarms.sampling import Sampling
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.store import SqliteStore
from tests.stacks.fake_platform import NotingPlatform
from tests.stacks.templates import alarm


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A stack manager over a store that outlives it."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.platform = path, Clock(), NotingPlatform()
        self.manager: StackManager

    async def start(self) -> None:
        self.manager = StackManager(SqliteStore(self.path / "stacks.db"), self.platform, clock=self.clock)
        await self.manager.start()

    async def create(self, resources: dict[str, Any]) -> StackRecord:
        body = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}
        stack = await self.manager.create("watched", Source(template=json.dumps(body)))
        await self.manager.wait(stack)
        assert stack.status == "CREATE_COMPLETE", stack.reason
        return stack

    def push(self, stack: StackRecord, value: float = 1.0, name: str = "ServiceFailure", **dimensions: str) -> None:
        self.manager.watcher.put(stack.id, Datum.single("system/linux", name, value, self.clock.now, **dimensions))

    async def look(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.manager.watcher.look()
        await self.manager.watcher.idle()

    def alarm(self, stack: StackRecord) -> str:
        return str(self.manager.current(stack)["Alarm"].data["state"])


@pytest.fixture
async def stage(tmp_path: Path):
    stage = Stage(tmp_path)
    await stage.start()
    yield stage
    await stage.manager.close()


GROUP = {
    "Group": {
        "Type": "OS::Heat::AutoScalingGroup",
        "Properties": {"min_size": 1, "max_size": 4, "resource": {"type": "OS::Heat::TestResource"}},
    },
    "Up": {
        "Type": "OS::Heat::ScalingPolicy",
        "Properties": {
            "auto_scaling_group_id": {"Ref": "Group"},
            "adjustment_type": "change_in_capacity",
            "scaling_adjustment": 1,
        },
    },
}


def rule(**changes: Any) -> Rule:
    given = {"namespace": "n", "metric": "m", "period": 60, "periods": 3, "breaches": 2, "threshold": 5.0}
    return Rule(**{**given, "comparison": "GreaterThanThreshold", **changes})


@pytest.mark.parametrize(
    ("points", "before", "changes", "after"),
    [
        ([9, 9, 1], "OK", {}, "ALARM"),
        ([9, 1, 1], "ALARM", {}, "OK"),
        ([9, None, None], "OK", {}, "OK"),
        ([9, None, None], "INSUFFICIENT_DATA", {}, "INSUFFICIENT_DATA"),
        ([1, 1, None], "ALARM", {}, "OK"),
        ([None, None, None], "ALARM", {}, "INSUFFICIENT_DATA"),
        ([None, None, None], "ALARM", {"missing": "ignore"}, "ALARM"),
        ([None, None, None], "ALARM", {"missing": "notBreaching"}, "OK"),
        ([None, None, 1], "OK", {"missing": "breaching"}, "ALARM"),
        ([5, 5, 5], "ALARM", {}, "OK"),
        ([5, 5, 5], "OK", {"comparison": "GreaterThanOrEqualToThreshold"}, "ALARM"),
        ([4, 4, 9], "OK", {"comparison": "LessThanThreshold"}, "ALARM"),
        ([5, 5, 9], "OK", {"comparison": "LessThanOrEqualToThreshold"}, "ALARM"),
    ],
)
def test_judgement(points: list[float | None], before: str, changes: dict[str, Any], after: str) -> None:
    state, reason = judge(rule(**changes), points, before)
    assert state == after
    assert reason


async def test_more_than_two_failures_in_the_period_alarm_and_the_window_slides(stage: Stage) -> None:
    stack = await stage.create({"Alarm": alarm()})
    assert stage.alarm(stack) == "INSUFFICIENT_DATA"
    for _ in range(2):
        stage.push(stack)
        await stage.look(100)
    assert stage.alarm(stack) == "OK"
    stage.push(stack)
    await stage.look(1)
    assert stage.alarm(stack) == "ALARM"
    await stage.look(99)  # the first of the three is 300 s ago
    assert stage.alarm(stack) == "OK"
    await stage.look(250)
    assert stage.alarm(stack) == "INSUFFICIENT_DATA"
    await stage.manager.store.flush()
    words = [event.reason for event in stage.manager.events(stack) if event.name == "Alarm" and "state" in event.reason]
    assert [word.split(":")[0] for word in words] == [
        "alarm state OK",
        "alarm state ALARM",
        "alarm state OK",
        "alarm state INSUFFICIENT_DATA",
    ]


async def test_a_value_that_arrives_wakes_the_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcloud.stacks.alarms.watcher.EVERY_SECONDS", 3600.0)
    stage = Stage(tmp_path)
    await stage.start()
    stack = await stage.create({"Alarm": alarm(Threshold="0")})
    stage.push(stack)
    await stage.manager.wait(stack)
    async with asyncio.timeout(60):  # an hour before the next look
        while stage.alarm(stack) != "ALARM":
            await asyncio.sleep(0.01)
    await stage.manager.close()


async def test_dimensions_namespace_name_and_scope_must_fit(stage: Stage) -> None:
    dimension = {"Name": "AutoScalingGroupName", "Value": "web"}
    stack = await stage.create({"Alarm": alarm(Threshold="0", Dimensions=[dimension])})
    stage.push(stack)
    stage.push(stack, AutoScalingGroupName="other")
    stage.push(stack, name="Heartbeat", AutoScalingGroupName="web")
    stage.push(stack, AutoScalingGroupName="web", AlarmName="another")
    stage.manager.watcher.put(
        "someone-else", Datum.single("system/linux", "ServiceFailure", 1, stage.clock.now, AutoScalingGroupName="web")
    )
    stage.manager.watcher.put(
        stack.id, Datum.single("other", "ServiceFailure", 1, stage.clock.now, AutoScalingGroupName="web")
    )
    await stage.look(1)
    assert stage.alarm(stack) == "INSUFFICIENT_DATA"
    stage.push(stack, AutoScalingGroupName="web", InstanceId="i-1")
    await stage.look(1)
    assert stage.alarm(stack) == "ALARM"


async def test_statistics_over_the_window(stage: Stage) -> None:
    kinds = {"Average": 20, "Sum": 60, "Minimum": 10, "Maximum": 30, "SampleCount": 3}
    equal = {"ComparisonOperator": "GreaterThanOrEqualToThreshold", "MetricName": "Memory"}
    stack = await stage.create(
        {f"A{kind}": alarm(Statistic=kind, Threshold=str(value), **equal) for kind, value in kinds.items()}
        | {f"B{kind}": alarm(Statistic=kind, Threshold=str(value + 1), **equal) for kind, value in kinds.items()}
    )
    for value in (10, 20, 30):
        stage.push(stack, value, name="Memory")
    await stage.look(1)
    states = {name: record.data["state"] for name, record in stage.manager.current(stack).items()}
    assert {states[f"A{kind}"] for kind in kinds} == {"ALARM"}
    assert {states[f"B{kind}"] for kind in kinds} == {"OK"}


async def test_the_alarm_scales_and_asks_again_while_it_lasts(stage: Stage) -> None:
    actions = [{"Fn::GetAtt": ["Up", "alarm_url"]}]
    stack = await stage.create({**GROUP, "Alarm": alarm(Threshold="0", Period="120", AlarmActions=actions)})
    group = stage.manager.current(stack)["Group"]
    sizes = []
    for seconds in (1, 30, 30, 1, 60, 60, 60):
        stage.push(stack)
        await stage.look(seconds)
        await stage.manager.settled()
        sizes.append(stage.manager.resource_value(group, "current_size", []))
    assert sizes == [2, 2, 3, 3, 4, 4, 4]


async def restarting(stage: Stage, **changes: Any) -> StackRecord:
    """A guest that is only noted, its restarter and its alarm."""
    stack = await stage.create(
        {
            "Guest": {"Type": "OS::Heat::TestResource"},
            "Restart": {"Type": "OS::Heat::HARestarter", "Properties": {"InstanceId": {"Ref": "Guest"}}},
            "Alarm": alarm(AlarmActions=[{"Fn::GetAtt": ["Restart", "AlarmUrl"]}], **changes),
        }
    )
    guest = stage.manager.current(stack)["Guest"]
    guest.data.update(deployable="watched", assembly="guest")
    stage.manager.save(guest)
    return stack


async def test_the_restarter_restarts_its_victim_once_for_each_alarm(stage: Stage) -> None:
    stack = await restarting(stage)
    for _ in range(5):
        stage.push(stack)
        await stage.look(1)
    assert [place[:2] for place in stage.platform.recovered] == [("watched", "guest")]
    assert "Alarm: Threshold Crossed" in stage.platform.recovered[0][2]
    await stage.look(400)
    for _ in range(3):
        stage.push(stack)
        await stage.look(1)
    assert len(stage.platform.recovered) == 2
    assert stage.manager.current(stack)["Restart"].data["restarts"] == 2
    await stage.manager.store.flush()
    notes = [event.reason for event in stage.manager.events(stack) if event.name == "Restart"]
    assert any(note.startswith("restarting Guest") for note in notes)


async def test_an_engine_that_is_away_gets_the_restart_when_it_is_back(stage: Stage) -> None:
    stack = await restarting(stage)
    stage.platform.away = True
    for _ in range(3):
        stage.push(stack)
    await stage.look(1)
    assert stage.alarm(stack) == "ALARM"
    assert stage.platform.recovered == []
    stage.platform.away = False
    await stage.look(1)
    await stage.look(1)
    assert len(stage.platform.recovered) == 1


async def test_a_crash_loses_neither_values_nor_states_nor_actions(stage: Stage) -> None:
    stack = await restarting(stage)
    for _ in range(2):
        stage.push(stack)
    await stage.manager.store.flush()
    await stage.manager.close()
    await stage.start()
    stack = stage.manager.get("watched")
    stage.platform.away = True
    stage.push(stack)
    await stage.look(1)
    assert stage.alarm(stack) == "ALARM"
    await stage.manager.close()  # what is still to be done is stored with the state
    stage.platform.away = False
    await stage.start()
    stack = stage.manager.get("watched")
    await stage.look(1)
    assert len(stage.platform.recovered) == 1
    await stage.manager.close()
    await stage.start()
    await stage.look(1)
    assert len(stage.platform.recovered) == 1


async def test_failures_that_the_engine_sees_count(stage: Stage) -> None:
    stack = await restarting(stage)
    for number in range(4):
        event = Event(
            time=stage.clock.now, type="resource.state", deployable="watched", assembly="guest",
            resource="httpd", state="running" if number == 0 else "failed",
        )  # fmt: skip
        stage.manager.watcher.count(event)
    stage.manager.watcher.count(
        Event(time=0, type="resource.state", deployable="stranger", assembly="guest", resource="httpd", state="failed")
    )
    await stage.look(1)
    assert len(stage.platform.recovered) == 1
    assert [series.dimensions["Service"] for series in stage.manager.watcher.metrics.series.values()] == ["httpd"]
    assert {series.scope for series in stage.manager.watcher.metrics.series.values()} == {stack.id}


async def test_values_are_bounded_aged_and_go_with_their_stack(stage: Stage) -> None:
    stack = await stage.create({"Alarm": alarm()})
    for number in range(MAX_SERIES):
        stage.push(stack, InstanceId=str(number))
    with pytest.raises(PcloudError, match="different metrics"):
        stage.push(stack, InstanceId="one more")
    with pytest.raises(PcloudError, match="finite"):
        stage.push(stack, float("nan"))
    stage.manager.watcher.put(
        stack.id, Datum.single("system/linux", "Old", 1, stage.clock.now - 90_000)
    )  # too old: dropped
    await stage.look(90_000)
    assert stage.manager.watcher.metrics.series == {}
    stage.push(stack)
    await stage.manager.delete(stack)
    await stage.manager.wait(stack)
    await stage.manager.store.flush()
    assert stage.manager.watcher.metrics.series == {}
    assert stage.manager.alarms == {}
    assert stage.manager.store.things("metric") == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"AlarmActions": ["arn:aws:sns:us-east-1:1:topic"]},
        {"ExtendedStatistic": "p99"},
        {"Metrics": []},
        {"DatapointsToAlarm": 2},
        {"Period": 3600, "EvaluationPeriods": 25},
        {"Statistic": "Median"},
        {"ComparisonOperator": "Like"},
    ],
)
async def test_refused_before_anything_starts(stage: Stage, changes: dict[str, Any]) -> None:
    body = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Alarm": alarm(**changes)}}
    with pytest.raises(InvalidDocument):
        await stage.manager.create("no", Source(template=json.dumps(body)))


async def test_an_action_that_is_nothing_here_fails_the_alarm(stage: Stage) -> None:
    template = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Alarm": alarm(AlarmActions=["http://x/y"])}}
    stack = await stage.manager.create("no", Source(template=json.dumps(template)))
    await stage.manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert "neither a resource here nor a signal URL" in stack.reason


def meter(**changes: Any) -> dict[str, Any]:
    properties = {
        "metric": "cpu_util",
        "granularity": 300,
        "threshold": 80,
        "resource_type": "instance",
        "comparison_operator": "gt",
        "query": {"list_join": ["", [{"=": {"server_group": {"get_param": "OS::stack_id"}}}]]},
        **changes,
    }
    return {"type": "OS::Aodh::GnocchiAggregationByResourcesAlarm", "properties": properties}


async def metered(stage: Stage, **changes: Any) -> StackRecord:
    policy = {"type": "OS::Heat::ScalingPolicy", "properties": GROUP["Up"]["Properties"]}
    policy["properties"] = {**policy["properties"], "auto_scaling_group_id": {"get_resource": "Group"}}
    group = {"type": "OS::Heat::AutoScalingGroup", "properties": GROUP["Group"]["Properties"]}
    action = {"str_replace": {"template": "trust+url", "params": {"url": {"get_attr": ["Up", "signal_url"]}}}}
    resources = {"Group": group, "Up": policy, "Alarm": meter(alarm_actions=[action], **changes)}
    body = {"heat_template_version": "2016-10-14", "resources": resources}
    stack = await stage.manager.create("metered", Source(template=json.dumps(body)))
    await stage.manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return stack


async def test_heats_alarms_over_what_guests_do(stage: Stage) -> None:
    stage.manager._background[-1].cancel()  # the manager's own sampling: what is measured is the test's alone
    stack = await metered(stage)
    child = stage.manager.child(stage.manager.current(stack)["Group"].physical)
    assert child is not None
    (guest,) = stage.manager.current(child).values()
    guest.data.update(deployable="metered", assembly="member0")
    guest.properties["metadata"] = {"metering.server_group": stack.id}
    stage.manager.save(guest)
    sampling = Sampling(stage.manager)
    for ticks in (100, 1300, 2900):  # 2 processors: 12 of 10 s, then 16 of 10 s
        stage.platform.answer = f"2\n1 (in (it) x) S {'0 ' * 10}{ticks} 0 0 0 {'0 ' * 6}256 0\n"
        await sampling.look()
        await stage.look(10)
    found = stage.manager.watcher.metrics.matching(frozenset({stack.id}), "pcloud/guests", "cpu_util", {})
    assert sorted(bucket.total for series in found for bucket in series.buckets.values()) == [60.0, 80.0]
    assert stage.alarm(stack) == "OK"
    stage.platform.answer = f"2\n1 (x) S {'0 ' * 10}5700 0 0 0 {'0 ' * 6}256 0\n"
    await sampling.look()  # 28 of 20 s and more
    await stage.look(1)
    stage.manager.watcher.put(
        stack.id, Datum.single("pcloud/guests", "cpu_util", 300.0, stage.clock.now, server_group=stack.id)
    )
    await stage.look(1)
    assert stage.alarm(stack) == "ALARM"
    await stage.manager.settled()
    assert len(stage.manager.current(child)) == 2


@pytest.mark.parametrize("changes", [{"metric": "disk.iops"}, {"query": {"like": {"a": "b"}}}, {"query": "nonsense"}])
async def test_what_is_not_measured_is_refused(stage: Stage, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        await metered(stage, **changes)
