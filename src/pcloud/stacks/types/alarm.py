"""AWS::CloudWatch::Alarm: watches a metric and does something about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.stacks.alarms.metrics import KEEP_SECONDS
from pcloud.stacks.alarms.rule import ALARM, COMPARISONS, INSUFFICIENT, MISSING, OK, STATISTICS, Rule
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, number, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known

_UPDATE = OnChange.UPDATE
_NO_PERCENTILES = "percentiles are not kept; use SampleCount, Average, Sum, Minimum or Maximum"
_NO_MATHEMATICS = "expressions over metrics are not offered; name one metric"
ACTIONS = {"AlarmActions": ALARM, "OKActions": OK, "InsufficientDataActions": INSUFFICIENT}


class Watching(ResourceType):
    """Base of alarms; their states are judged by `alarms.watcher`."""

    def actions(self, context: Context, keys: Mapping[str, str]) -> dict[str, list[str]]:
        """Return state → actions from the properties that hold them; ResourceFailed when one is nothing here."""
        result: dict[str, list[str]] = {}
        for key, state in keys.items():
            wanted = [str(action) for action in context.properties.get(key) or [] if known(action)]
            for action in wanted:
                if context.services.target_of(action) is None:
                    raise ResourceFailed(
                        f"{key}: {action.partition('?')[0]} is neither a resource here nor a signal URL of one"
                    )
            result[state] = wanted
        return result

    def watch(self, context: Context, rule: Rule) -> None:
        """Watch by a rule from now on; the state stays until it is judged again."""
        context.record.data["alarm"] = msgspec.to_builtins(rule)
        context.record.data.setdefault("state", INSUFFICIENT)
        context.services.save(context.record)

    async def delete(self, context: Context) -> None:
        """Watch no longer: the record goes."""
        context.record.data.pop("alarm", None)


class Alarm(Watching):
    """An alarm in CloudWatch's words."""

    names = ("AWS::CloudWatch::Alarm",)
    attributes = frozenset({"Arn"})
    description = "Watches a metric; its actions signal scaling policies and restarters."
    schema: ClassVar[Schema] = {
        "AlarmName": text(),
        "AlarmDescription": text(on_change=_UPDATE),
        "ActionsEnabled": boolean(default=True, on_change=_UPDATE),
        "AlarmActions": listing(on_change=_UPDATE),
        "OKActions": listing(on_change=_UPDATE),
        "InsufficientDataActions": listing(on_change=_UPDATE),
        "ComparisonOperator": text(required=True, allowed=tuple(COMPARISONS), on_change=_UPDATE),
        "DatapointsToAlarm": integer(minimum=1, on_change=_UPDATE),
        "Dimensions": listing(
            on_change=_UPDATE, fields={"Name": text(required=True), "Value": anything(required=True)}
        ),
        "EvaluationPeriods": integer(required=True, minimum=1, maximum=1440, on_change=_UPDATE),
        "EvaluateLowSampleCountPercentile": text(refused=_NO_PERCENTILES),
        "ExtendedStatistic": text(refused=_NO_PERCENTILES),
        "MetricName": text(required=True, on_change=_UPDATE),
        "Metrics": listing(refused=_NO_MATHEMATICS),
        "Namespace": text(required=True, on_change=_UPDATE),
        "Period": integer(required=True, minimum=1, maximum=int(KEEP_SECONDS), on_change=_UPDATE),
        "Statistic": text(required=True, allowed=STATISTICS, on_change=_UPDATE),
        "Tags": listing(on_change=_UPDATE, inert="alarms are not searched by tags"),
        "Threshold": number(required=True, on_change=_UPDATE),
        "ThresholdMetricId": text(refused=_NO_MATHEMATICS),
        "TreatMissingData": text(default="missing", allowed=MISSING, on_change=_UPDATE),
        "Unit": text(on_change=_UPDATE, inert="values of a metric are taken whatever their unit"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """What it looks back must be kept; actions must be of this host."""
        found = []
        period, periods = properties.get("Period"), properties.get("EvaluationPeriods")
        if isinstance(period, int) and isinstance(periods, int) and period * periods > KEEP_SECONDS:
            message = f"Period times EvaluationPeriods is more than the {KEEP_SECONDS:g} s that values are kept"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=("EvaluationPeriods",)))
        wanted = properties.get("DatapointsToAlarm")
        if isinstance(wanted, int) and isinstance(periods, int) and wanted > periods:
            message = "DatapointsToAlarm is more than EvaluationPeriods"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=("DatapointsToAlarm",)))
        for key in ACTIONS:
            found += [
                PropertyProblem(
                    code="REFUSED",
                    message=f"{action} is refused: there is no such service of AWS behind it",
                    path=(key, index),
                    hint="refer to a scaling policy or an OS::Heat::HARestarter",
                )
                for index, action in enumerate(properties.get(key) or [])
                if isinstance(action, str) and action.startswith("arn:aws:")
            ]
        return found

    async def create(self, context: Context) -> None:
        """Begin to watch."""
        context.record.physical = context.properties.get("AlarmName") or context.physical_name()
        context.record.attributes = {"Arn": f"arn:aws:cloudwatch:local:000000000000:alarm:{context.record.physical}"}
        self._set(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Watch by the new rule."""
        self._set(context)

    def _set(self, context: Context) -> None:
        given = context.properties
        rule = Rule(
            namespace=given["Namespace"],
            metric=given["MetricName"],
            dimensions={item["Name"]: str(item["Value"]) for item in given.get("Dimensions") or []},
            statistic=given["Statistic"],
            period=given["Period"],
            periods=given["EvaluationPeriods"],
            breaches=given.get("DatapointsToAlarm") or given["EvaluationPeriods"],
            threshold=float(given["Threshold"]),
            comparison=given["ComparisonOperator"],
            missing=given["TreatMissingData"],
            enabled=given["ActionsEnabled"],
            actions=self.actions(context, ACTIONS),
        )
        self.watch(context, rule)


TYPES: tuple[type[ResourceType], ...] = (Alarm,)
