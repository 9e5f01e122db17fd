"""OS::Aodh and OS::Ceilometer alarms over what is measured in guests: the same alarms as CloudWatch's, in Heat's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.alarms.rule import ALARM, INSUFFICIENT, OK, Rule
from pcloud.stacks.alarms.sampling import METERS, NAMESPACE
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
from pcloud.stacks.types.alarm import Watching
from pcloud.stacks.types.base import Context, ResourceType

_UPDATE = OnChange.UPDATE
_COMPARISONS = {
    "gt": "GreaterThanThreshold",
    "ge": "GreaterThanOrEqualToThreshold",
    "lt": "LessThanThreshold",
    "le": "LessThanOrEqualToThreshold",
}
_STATISTICS = {
    "mean": "Average",
    "avg": "Average",
    "sum": "Sum",
    "min": "Minimum",
    "max": "Maximum",
    "count": "SampleCount",
}
_COMMON: Schema = {
    "description": text(on_change=_UPDATE),
    "enabled": boolean(default=True, on_change=_UPDATE),
    "repeat_actions": boolean(default=True, on_change=_UPDATE, inert="scaling policies are asked again while it lasts"),
    "severity": text(on_change=_UPDATE, inert="alarms have no severity"),
    "time_constraints": listing(refused="alarms are watched at all hours"),
    "alarm_actions": listing(on_change=_UPDATE),
    "ok_actions": listing(on_change=_UPDATE),
    "insufficient_data_actions": listing(on_change=_UPDATE),
    "alarm_queues": listing(refused="there is no message queue (Zaqar)"),
    "ok_queues": listing(refused="there is no message queue (Zaqar)"),
    "insufficient_data_queues": listing(refused="there is no message queue (Zaqar)"),
    "evaluation_periods": integer(default=1, minimum=1, maximum=1440, on_change=_UPDATE),
    "threshold": number(required=True, on_change=_UPDATE),
    "comparison_operator": text(default="ge", allowed=tuple(_COMPARISONS), on_change=_UPDATE),
}


class MeterAlarm(Watching):
    """Base of alarms over a meter of guests."""

    needs = frozenset({"guests", "access"})
    meter_key: ClassVar[str]
    period_key: ClassVar[str]
    statistic_key: ClassVar[str]

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Only what is measured can be watched."""
        meter = properties.get(self.meter_key)
        if isinstance(meter, str) and meter not in METERS:
            message = f"the meter '{meter[:60]}' is not measured here"
            hint = f"of guests these are: {', '.join(METERS)}; others go into AWS::CloudWatch::Alarm"
            return [PropertyProblem(code="BAD_PROPERTY", message=message, path=(self.meter_key,), hint=hint)]
        return []

    async def create(self, context: Context) -> None:
        """Begin to watch."""
        context.record.physical = context.token
        self.watch(context, self.rule(context))

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Watch by the new rule."""
        self.watch(context, self.rule(context))

    def selection(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return which guests are meant, by what their metadata says."""
        raise NotImplementedError

    def rule(self, context: Context) -> Rule:
        """Return what is watched."""
        given = context.properties
        keys = {"alarm_actions": ALARM, "ok_actions": OK, "insufficient_data_actions": INSUFFICIENT}
        return Rule(
            namespace=NAMESPACE,
            metric=given[self.meter_key],
            dimensions=self.selection(given),
            statistic=_STATISTICS[given[self.statistic_key]],
            period=given[self.period_key],
            periods=given["evaluation_periods"],
            breaches=given["evaluation_periods"],
            threshold=float(given["threshold"]),
            comparison=_COMPARISONS[given["comparison_operator"]],
            enabled=given["enabled"],
            actions=self.actions(context, keys),
        )


class GnocchiAlarm(MeterAlarm):
    """An alarm over a meter of all guests whose metadata fits a query."""

    names = ("OS::Aodh::GnocchiAggregationByResourcesAlarm",)
    meter_key, period_key, statistic_key = "metric", "granularity", "aggregation_method"
    schema: ClassVar[Schema] = {
        **_COMMON,
        "metric": text(required=True, on_change=_UPDATE),
        "aggregation_method": text(default="mean", allowed=tuple(_STATISTICS), on_change=_UPDATE),
        "granularity": integer(default=60, minimum=10, maximum=86_400, on_change=_UPDATE),
        "resource_type": text(required=True, allowed=("instance",), on_change=_UPDATE),
        "query": anything(required=True, on_change=_UPDATE),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """The query must be of the simple kind."""
        found = super().check(properties)
        query = properties.get("query")
        if isinstance(query, str | dict) and _equal(query) is None:
            message = "only queries of equal values are offered"
            hint = '{"=": {"server_group": VALUE}}, or such ones joined by "and"'
            found.append(PropertyProblem(code="REFUSED", message=message, path=("query",), hint=hint))
        return found

    def selection(self, given: Mapping[str, Any]) -> dict[str, str]:
        """`query`."""
        return _equal(given["query"]) or {}


class CeilometerAlarm(MeterAlarm):
    """The older form."""

    names = ("OS::Ceilometer::Alarm", "OS::Aodh::Alarm")
    meter_key, period_key, statistic_key = "meter_name", "period", "statistic"
    schema: ClassVar[Schema] = {
        **_COMMON,
        "meter_name": text(required=True, on_change=_UPDATE),
        "period": integer(default=60, minimum=10, maximum=86_400, on_change=_UPDATE),
        "statistic": text(default="avg", allowed=tuple(_STATISTICS), on_change=_UPDATE),
        "matching_metadata": mapping(default={}, on_change=_UPDATE),
        "query": listing(
            on_change=_UPDATE,
            fields={
                "field": text(required=True),
                "op": text(default="eq", allowed=("eq",)),
                "value": anything(required=True),
            },
        ),
    }

    def selection(self, given: Mapping[str, Any]) -> dict[str, str]:
        """`matching_metadata` and `query`."""
        items = dict(given.get("matching_metadata") or {})
        items |= {item["field"]: item["value"] for item in given.get("query") or []}
        return {key.rpartition("metadata.")[2].removeprefix("metering."): str(value) for key, value in items.items()}


def _equal(query: Any) -> dict[str, str] | None:
    """Read `{"=": {NAME: VALUE}}`, alone or joined by `and`; None when it is something else."""
    if isinstance(query, str):
        try:
            query = json.loads(query)
        except (ValueError, RecursionError):
            return None
    if not isinstance(query, dict) or len(query) != 1:
        return None
    operator, operand = next(iter(query.items()))
    if operator in ("=", "==", "eq") and isinstance(operand, dict):
        return {str(key): str(value) for key, value in operand.items()}
    if operator in ("and", "∧") and isinstance(operand, list):
        result: dict[str, str] = {}
        for item in operand:
            part = _equal(item)
            if part is None:
                return None
            result |= part
        return result
    return None


TYPES: tuple[type[ResourceType], ...] = (GnocchiAlarm, CeilometerAlarm)
