"""AWS::AutoScaling::ScalingPolicy: by one amount, by steps of how far a metric is off, or towards a metric's target.

A step policy is told by its alarm how far the metric is off. A target tracking policy is an alarm of its own record: the
watcher tells it again and again whether the metric is above its target. While new members warm up (for as long as
`EstimatedInstanceWarmup` says) they do not count as what the metric was measured with, and nothing is taken away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from pcloud.stacks.alarms.rule import ALARM, OK, STATISTICS, Rule
from pcloud.stacks.schema import (
    OnChange,
    PropertyProblem,
    Schema,
    anything,
    boolean,
    integer,
    listing,
    mapping,
    number,
    text,
)
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.scaling import Adjustment, Policy

_UPDATE = OnChange.UPDATE
_PERIOD = 60
_ABOVE, _BELOW = 3, 15
"""Minutes that a metric must be above its target, and below nine tenths of it, until the group follows, as on AWS."""
_SLACK = 0.9
_WARMUP = 300.0
_OF_TYPE = {
    "SimpleScaling": ("ScalingAdjustment",),
    "StepScaling": ("StepAdjustments",),
    "TargetTrackingScaling": ("TargetTrackingConfiguration",),
}
_PREDEFINED = {"ASGAverageCPUUtilization": ("AWS/EC2", "CPUUtilization")}
_STEP: Schema = {
    "MetricIntervalLowerBound": number(),
    "MetricIntervalUpperBound": number(),
    "ScalingAdjustment": integer(required=True),
}
_TARGET: Schema = {
    "TargetValue": number(required=True),
    "DisableScaleIn": boolean(default=False),
    "PredefinedMetricSpecification": mapping(
        fields={
            "PredefinedMetricType": text(required=True),
            "ResourceLabel": text(refused="there are no target groups"),
        }
    ),
    "CustomizedMetricSpecification": mapping(
        fields={
            "MetricName": text(required=True),
            "Namespace": text(required=True),
            "Dimensions": listing(fields={"Name": text(required=True), "Value": anything(required=True)}),
            "Metrics": listing(refused="metrics are not computed from others"),
            "Period": integer(inert="the windows of target tracking have a minute"),
            "Statistic": text(required=True, allowed=STATISTICS),
            "Unit": text(inert="values of a metric are taken whatever their unit"),
        }
    ),
}


class AwsScalingPolicy(Policy):
    """A policy in AWS's words."""

    names = ("AWS::AutoScaling::ScalingPolicy",)
    attributes = frozenset({"AlarmUrl", "Arn", "PolicyName"})
    schema: ClassVar[Schema] = {
        "AutoScalingGroupName": text(required=True),
        "AdjustmentType": text(
            on_change=_UPDATE, allowed=("ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity")
        ),
        "ScalingAdjustment": integer(on_change=_UPDATE),
        "Cooldown": integer(minimum=0, on_change=_UPDATE),
        "MinAdjustmentStep": integer(minimum=0, on_change=_UPDATE),
        "MinAdjustmentMagnitude": integer(minimum=0, on_change=_UPDATE),
        "PolicyType": text(default="SimpleScaling", allowed=tuple(_OF_TYPE), on_change=_UPDATE),
        "EstimatedInstanceWarmup": integer(minimum=0, on_change=_UPDATE),
        "MetricAggregationType": text(on_change=_UPDATE, inert="the statistic of the policy's alarm counts"),
        "StepAdjustments": listing(fields=_STEP, on_change=_UPDATE),
        "TargetTrackingConfiguration": mapping(fields=_TARGET, on_change=_UPDATE),
        "PredictiveScalingConfiguration": anything(refused="nothing is foretold here; use another PolicyType"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """What belongs to the type of policy must be there, and nothing that belongs to another."""
        kind = properties.get("PolicyType")
        if not isinstance(kind, str) or kind not in _OF_TYPE:
            return []
        needed = [*_OF_TYPE[kind], *(["AdjustmentType"] if kind != "TargetTrackingScaling" else [])]
        found = [_bad(key, f"{key} is needed for {kind}") for key in needed if properties.get(key) is None]
        others = [key for other, keys in _OF_TYPE.items() if other != kind for key in keys]
        others += ["Cooldown"] if kind != "SimpleScaling" else ["EstimatedInstanceWarmup"]
        if kind == "TargetTrackingScaling":
            others += ["AdjustmentType", "MinAdjustmentMagnitude", "MinAdjustmentStep"]
        found += [_bad(key, f"{key} does not belong to {kind}") for key in others if properties.get(key) is not None]
        steps, target = properties.get("StepAdjustments"), properties.get("TargetTrackingConfiguration")
        if kind == "StepScaling" and isinstance(steps, list) and (problem := _wrong_steps(steps)):
            found.append(_bad("StepAdjustments", problem))
        if kind == "TargetTrackingScaling" and isinstance(target, Mapping):
            found += _wrong_target(target)
        return found

    async def create(self, context: Context) -> None:
        """Make the URL; watch the metric whose target is tracked."""
        record = context.record
        record.physical = context.physical_name()
        arn = f"arn:pcloud:autoscaling:local:000000000000:scalingPolicy:{context.token}"
        url = context.services.signed_url(record, "signal")
        record.attributes = {"AlarmUrl": url, "Arn": arn, "PolicyName": record.physical}
        self._watch(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Watch what is tracked now."""
        self._watch(context)

    def _watch(self, context: Context) -> None:
        given, record = context.properties, context.record
        target = given.get("TargetTrackingConfiguration")
        if not target:
            record.data.pop("alarm", None)
            return
        predefined, custom = target.get("PredefinedMetricSpecification"), target.get("CustomizedMetricSpecification")
        if predefined:
            namespace, metric = _PREDEFINED[predefined["PredefinedMetricType"]]
            dimensions, measure = {"AutoScalingGroupName": str(given["AutoScalingGroupName"])}, "Average"
        else:
            namespace, metric, measure = custom["Namespace"], custom["MetricName"], custom["Statistic"]
            dimensions = {item["Name"]: str(item["Value"]) for item in custom.get("Dimensions") or []}
        again = [record.attributes["AlarmUrl"]]
        rule = Rule(
            namespace=namespace,
            metric=metric,
            dimensions=dimensions,
            statistic=measure,
            period=_PERIOD,
            periods=_ABOVE,
            breaches=_ABOVE,
            threshold=float(target["TargetValue"]),
            comparison="GreaterThanThreshold",
            actions={ALARM: again, OK: again},
        )
        record.data["alarm"] = msgspec.to_builtins(rule)

    def adjustment(self, context: Context, details: Mapping[str, Any] | None = None) -> Adjustment | None:
        """Return what the properties ask for; None when nothing is to be done. ResourceFailed when it can not be told."""
        given = context.properties
        magnitude = int(given.get("MinAdjustmentMagnitude") or given.get("MinAdjustmentStep") or 0)
        name, cooldown = str(given["AutoScalingGroupName"]), given.get("Cooldown")
        if given["PolicyType"] == "TargetTrackingScaling":
            return self._track(context, name)
        if given["PolicyType"] == "SimpleScaling":
            return Adjustment(
                group=name,
                kind=given["AdjustmentType"],
                amount=float(given["ScalingAdjustment"]),
                step=magnitude,
                group_cooldown=float(cooldown) if cooldown is not None else None,
            )
        value, threshold = (details or {}).get("value"), (details or {}).get("threshold")
        if value is None or threshold is None:
            raise ResourceFailed("a step policy must be told a metric's value: let an alarm signal it")
        amount = step_of(given["StepAdjustments"], float(value) - float(threshold))
        if amount is None:
            context.services.note(
                context.record, f"no change: no step is for {value:g} at a threshold of {threshold:g}"
            )
            return None
        return Adjustment(
            group=name,
            kind=given["AdjustmentType"],
            amount=float(amount),
            step=magnitude,
            group_cooldown=0.0,
            waits=False,
            warmup=self._warmup(context, name),
        )

    def heard(self, context: Context, details: Mapping[str, Any]) -> bool:
        """A tracked metric is told about in either state."""
        if context.properties["PolicyType"] == "TargetTrackingScaling":
            return True
        return super().heard(context, details)

    def due(self, context: Context) -> bool:
        """A group that is at its target, or will not shrink yet, need not be told so every minute."""
        if context.properties["PolicyType"] != "TargetTrackingScaling":
            return True
        factor, group = self._factor(context), context.services.find(str(context.properties["AutoScalingGroupName"]))
        calm = group.data.get("calm", 0.0) if group is not None else 0.0
        return factor is not None and (factor > 1 or context.services.now() >= calm)

    def _factor(self, context: Context) -> float | None:
        target = context.properties["TargetTrackingConfiguration"]
        rule = msgspec.convert(context.record.data["alarm"], Rule)
        points = context.services.measured(context.record, msgspec.structs.replace(rule, periods=_BELOW))
        return tracked(points, rule.threshold, scale_in=not target["DisableScaleIn"])

    def _track(self, context: Context, name: str) -> Adjustment | None:
        wanted = self._factor(context)
        if wanted is None:
            return None
        return Adjustment(
            group=name,
            kind="Proportional",
            amount=wanted,
            group_cooldown=0.0,
            waits=False,
            warmup=self._warmup(context, name),
            calm=float(_BELOW * _PERIOD),
        )

    def _warmup(self, context: Context, name: str) -> float:
        group = context.services.find(name)
        own = context.properties.get("EstimatedInstanceWarmup")
        common = group.properties.get("DefaultInstanceWarmup") if group is not None else None
        return float(own if own is not None else common if common is not None else _WARMUP)


def step_of(steps: Sequence[Mapping[str, Any]], breach: float) -> int | None:
    """Return the adjustment for a metric that is off its threshold by so much; None when no step is for that. The bound that
    is nearer to the threshold belongs to a step, the other one does not. Pure."""
    for step in steps:
        low, high = _bounds(step)
        inside = low <= breach < high if breach >= 0 else low < breach <= high
        if inside:
            return int(step["ScalingAdjustment"])
    return None


def tracked(points: Sequence[float | None], target: float, *, scale_in: bool) -> float | None:
    """Return the factor by which a group shall grow or shrink so that a metric comes to its target; None for as it is.
    `points` are the values of the newest minutes, newest first, None where nothing was measured. Pure."""
    newest = [point for point in points[:_ABOVE] if point is not None]
    if len(newest) == _ABOVE and min(newest) > target:
        return newest[0] / target
    values = [point for point in points if point is not None]
    if scale_in and len(values) == len(points) == _BELOW and max(values) < _SLACK * target:
        return max(values) / target
    return None


def _bounds(step: Mapping[str, Any]) -> tuple[float, float]:
    low, high = step.get("MetricIntervalLowerBound"), step.get("MetricIntervalUpperBound")
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))


def _wrong_steps(steps: Sequence[Any]) -> str:
    if not steps:
        return "at least one step is needed"
    try:
        bounds = sorted(_bounds(step) for step in steps)
    except (AttributeError, TypeError, ValueError):  # not known yet
        return ""
    if any(low >= high for low, high in bounds):
        return "a step's upper bound must be above its lower bound"
    if any(former[1] > latter[0] for former, latter in itertools.pairwise(bounds)):
        return "steps overlap"
    if any(former[1] < latter[0] for former, latter in itertools.pairwise(bounds)):
        return "there is a gap between steps"
    return ""


def _wrong_target(target: Mapping[str, Any]) -> list[PropertyProblem]:
    key, found = "TargetTrackingConfiguration", []
    predefined, custom = target.get("PredefinedMetricSpecification"), target.get("CustomizedMetricSpecification")
    if (predefined is None) == (custom is None):
        found.append(_bad(key, "either PredefinedMetricSpecification or CustomizedMetricSpecification is needed"))
    value = target.get("TargetValue")
    if isinstance(value, int | float) and value <= 0:
        found.append(_bad(key, "TargetValue must be above 0"))
    name = predefined.get("PredefinedMetricType") if isinstance(predefined, Mapping) else None
    if isinstance(name, str) and name not in _PREDEFINED:
        message = f"the metric {name} is not measured here; {', '.join(_PREDEFINED)} is, and metrics that guests push"
        found.append(PropertyProblem(code="REFUSED", message=message, path=(key, "PredefinedMetricSpecification")))
    return found


def _bad(key: str, message: str) -> PropertyProblem:
    return PropertyProblem(code="BAD_PROPERTY", message=message, path=(key,))


TYPES: tuple[type[ResourceType], ...] = (AwsScalingPolicy,)
