"""Step scaling and target tracking, in virtual time: what a metric leads to, and what warming members are taken for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.stacks.alarms.metrics import Datum
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.store import SqliteStore
from pcloud.stacks.types.base import ResourceFailed
from pcloud.stacks.types.scaling_policies import step_of, tracked
from tests.stacks.fake_platform import NotingPlatform
from tests.stacks.lifecycle import made
from tests.stacks.scaling_groups import members

STEPS = [
    {"MetricIntervalUpperBound": -10, "ScalingAdjustment": -2},
    {"MetricIntervalLowerBound": -10, "MetricIntervalUpperBound": 0, "ScalingAdjustment": -1},
    {"MetricIntervalLowerBound": 0, "MetricIntervalUpperBound": 20, "ScalingAdjustment": 1},
    {"MetricIntervalLowerBound": 20, "ScalingAdjustment": 3},
]


@pytest.mark.parametrize(
    ("breach", "amount"), [(0, 1), (19.9, 1), (20, 3), (1e9, 3), (-0.1, -1), (-9.9, -1), (-10, -2), (-1e9, -2)]
)
def test_which_step(breach: float, amount: int) -> None:
    assert step_of(STEPS, breach) == amount


def test_no_step_is_for_what_none_is_for() -> None:
    assert step_of(STEPS[2:3], 20) is None
    assert step_of(STEPS[2:3], -1) is None


@pytest.mark.parametrize(
    ("points", "factor"),
    [
        ([90.0, 80.0, 70.0, *[10.0] * 12], 1.8),
        ([90.0, 80.0, 50.0, *[90.0] * 12], None),
        ([90.0, None, 70.0, *[90.0] * 12], None),
        ([20.0] * 14 + [25.0], 0.5),
        ([20.0] * 14 + [45.0], None),
        ([20.0] * 14 + [None], None),
        ([None] * 15, None),
        ([50.0] * 15, None),
    ],
)
def test_towards_the_target(points: list[float | None], factor: float | None) -> None:
    assert tracked(points, 50.0, scale_in=True) == factor
    if factor is not None and factor < 1:
        assert tracked(points, 50.0, scale_in=False) is None


class Stage:
    """A manager whose time the test turns."""

    def __init__(self, path: Path) -> None:
        self.now = 1_000_000.0
        self.manager = StackManager(SqliteStore(path / "stacks.db"), NotingPlatform(), clock=lambda: self.now)
        self.stack: StackRecord

    async def begin(self, policy: dict[str, Any], size: int = 2) -> None:
        self.stack = await made(self.manager, "web", template(policy, size))

    async def goes(self, seconds: float, **metrics: float) -> int:
        """Let time pass, a minute at a time, with a metric that has this value; return the number of members."""
        for _ in range(int(seconds // 60)):
            self.now += 60
            for name, value in metrics.items():
                self.manager.watcher.put(self.stack.id, Datum.single("shop", name, value, self.now - 1))
            self.manager.watcher.look()
            await self.manager.watcher.idle()
            await self.manager.settled()
        return len(members(self.manager, self.stack))


@pytest.fixture
async def stage(tmp_path: Path, instances: None) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.manager.start()
    yield stage
    await stage.manager.close()


def template(policy: dict[str, Any], size: int = 2) -> Source:
    group = {
        "AvailabilityZones": [], "LaunchConfigurationName": {"Ref": "Config"},
        "MinSize": 1, "MaxSize": 20, "DesiredCapacity": size, "Cooldown": 3600,
    }  # fmt: skip
    alarm = {
        "Namespace": "shop", "MetricName": "load", "Statistic": "Average", "Period": 60, "EvaluationPeriods": 1,
        "Threshold": 60, "ComparisonOperator": "GreaterThanThreshold", "AlarmActions": [{"Ref": "Policy"}],
    }  # fmt: skip
    config = {"ImageId": "one", "InstanceType": "m1.small"}
    body = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "Config": {"Type": "AWS::AutoScaling::LaunchConfiguration", "Properties": config},
            "Group": {"Type": "AWS::AutoScaling::AutoScalingGroup", "Properties": group},
            "Policy": {
                "Type": "AWS::AutoScaling::ScalingPolicy",
                "Properties": {"AutoScalingGroupName": {"Ref": "Group"}, **policy},
            },
            "Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm},
        },
    }
    return Source(template=json.dumps(body))


def stepping(**more: Any) -> dict[str, Any]:
    return {
        "PolicyType": "StepScaling",
        "AdjustmentType": "ChangeInCapacity",
        "StepAdjustments": STEPS[2:],
        "EstimatedInstanceWarmup": 300,
        **more,
    }


def tracking(**more: Any) -> dict[str, Any]:
    metric = {"Namespace": "shop", "MetricName": "load", "Statistic": "Average"}
    target = {"TargetValue": 50, "CustomizedMetricSpecification": metric, **more}
    return {"PolicyType": "TargetTrackingScaling", "TargetTrackingConfiguration": target}


async def test_steps_follow_how_far_the_metric_is_off(stage: Stage) -> None:
    await stage.begin(stepping())
    assert await stage.goes(60, load=55) == 2
    assert await stage.goes(60, load=70) == 3, "the group's cool-down is none of a step policy's"
    assert await stage.goes(120, load=70) == 3, "the new one warms up: the same step is done already"
    assert await stage.goes(60, load=95) == 5, "a higher step adds what it is more than that"
    assert await stage.goes(60, load=95) == 5
    assert await stage.goes(600, load=55) == 5
    assert await stage.goes(60, load=95) == 8


async def test_percent_of_a_step_is_at_least_its_magnitude(stage: Stage) -> None:
    steps = [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 10}]
    await stage.begin(
        stepping(AdjustmentType="PercentChangeInCapacity", StepAdjustments=steps, MinAdjustmentMagnitude=4)
    )
    assert await stage.goes(60, load=70) == 6


async def test_a_step_policy_must_be_told_a_value(stage: Stage) -> None:
    await stage.begin(stepping())
    with pytest.raises(ResourceFailed, match="must be told a metric's value"):
        await stage.manager.signal(stage.manager.current(stage.stack)["Policy"], {"status": "SUCCESS"})
    details = {"value": 100.0, "threshold": 60.0}
    await stage.manager.signal(stage.manager.current(stage.stack)["Policy"], {"status": "SUCCESS", "details": details})
    await stage.manager.settled()
    assert len(members(stage.manager, stage.stack)) == 5


async def test_a_target_is_tracked_both_ways(stage: Stage) -> None:
    await stage.begin(tracking(), size=4)
    assert await stage.goes(120, load=100) == 4, "two minutes are not enough"
    assert await stage.goes(60, load=100) == 8
    assert await stage.goes(120, load=100) == 8, "the new ones warm up"
    assert await stage.goes(900, load=48) == 8, "at its target, or little below, nothing is done"
    assert await stage.goes(840, load=25) == 8, "fourteen minutes are not enough"
    assert await stage.goes(120, load=25) == 4
    assert await stage.goes(780, load=25) == 4, "what was measured with eight says nothing about four"
    assert await stage.goes(120, load=25) == 2
    events = [
        event for event in stage.manager.events(stage.stack) if event.name == "Policy" and "Signal" in event.reason
    ]
    assert len(events) < 12, "a group that is at its target is not told so every minute"


async def test_a_target_that_does_not_scale_in(stage: Stage) -> None:
    await stage.begin(tracking(DisableScaleIn=True), size=4)
    assert await stage.goes(1200, load=5) == 4


async def test_a_restart_keeps_what_is_tracked(stage: Stage, tmp_path: Path) -> None:
    await stage.begin(tracking(), size=4)
    await stage.goes(120, load=100)
    await stage.manager.close()
    now = stage.now
    stage.manager = StackManager(SqliteStore(tmp_path / "stacks.db"), NotingPlatform(), clock=lambda: stage.now)
    await stage.manager.start()
    stage.stack = stage.manager.get("web")
    assert stage.now == now
    assert await stage.goes(60, load=100) == 8


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (stepping(StepAdjustments=[]), "at least one step"),
        (stepping(StepAdjustments=[STEPS[0], STEPS[2]]), "a gap between steps"),
        (
            stepping(StepAdjustments=[STEPS[3], {"MetricIntervalLowerBound": 30, "ScalingAdjustment": 1}]),
            "steps overlap",
        ),
        (stepping(Cooldown=5), "Cooldown does not belong to StepScaling"),
        (stepping(AdjustmentType=None), "AdjustmentType is needed for StepScaling"),
        ({"AdjustmentType": "ChangeInCapacity"}, "ScalingAdjustment is needed for SimpleScaling"),
        (tracking(TargetValue=0), "TargetValue must be above 0"),
        (tracking(CustomizedMetricSpecification=None), "either PredefinedMetricSpecification or"),
        (
            tracking(
                CustomizedMetricSpecification=None,
                PredefinedMetricSpecification={"PredefinedMetricType": "ALBRequestCountPerTarget"},
            ),
            "the metric ALBRequestCountPerTarget is not measured here",
        ),
        ({"PolicyType": "PredictiveScaling", "PredictiveScalingConfiguration": {}}, "nothing is foretold here"),
    ],
)
async def test_refused_before_anything_starts(stage: Stage, policy: dict[str, Any], says: str) -> None:
    kept = {key: value for key, value in policy.items() if value is not None}
    if "TargetTrackingConfiguration" in kept:
        target = kept["TargetTrackingConfiguration"].items()
        kept["TargetTrackingConfiguration"] = {key: value for key, value in target if value is not None}
    with pytest.raises(InvalidDocument, match=says):
        await stage.manager.create("no", template(kept))
