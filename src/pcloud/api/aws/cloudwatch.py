"""CloudWatch's operations: values pushed from guests (`cfn-push-stats`, `aws cloudwatch put-metric-data`), and alarms.

Each takes the parsed input and gives the output as plain data. Keys of a stack may only put values, which then
count for that stack's alarms alone.
"""

from __future__ import annotations

import datetime
import time
from typing import Any

from pcloud.api.aws.operations import Caller, Input, Output, Table
from pcloud.api.aws.query import QueryError
from pcloud.model.errors import PcloudError
from pcloud.stacks.alarms.metrics import Datum, statistic, window
from pcloud.stacks.alarms.rule import ALARM, INSUFFICIENT, OK
from pcloud.stacks.alarms.watcher import rule_of
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import ResourceRecord

OPERATIONS = Table()
MAX_DATA = 1000
MAX_DIMENSIONS = 30
MAX_POINTS = 1440


def _dimensions(given: Any) -> dict[str, str]:
    items = given or []
    if len(items) > MAX_DIMENSIONS:
        raise QueryError("InvalidParameterValue", f"more than {MAX_DIMENSIONS} dimensions")
    return {str(item["Name"])[:255]: str(item.get("Value", ""))[:1024] for item in items}


def _seconds(given: Any, default: float) -> float:
    if isinstance(given, datetime.datetime):
        return (given if given.tzinfo else given.replace(tzinfo=datetime.UTC)).timestamp()
    return float(given) if isinstance(given, int | float) else default


def _datum(namespace: str, given: Input, now: float) -> Datum:
    common: dict[str, Any] = {
        "namespace": namespace,
        "name": str(given["MetricName"])[:255],
        "dimensions": _dimensions(given.get("Dimensions")),
        "time": _seconds(given.get("Timestamp"), now),
        "unit": str(given.get("Unit", ""))[:40],
    }
    sets = given.get("StatisticValues")
    if sets:
        return Datum(
            total=sets["Sum"], count=sets["SampleCount"], minimum=sets["Minimum"], maximum=sets["Maximum"], **common
        )
    values = given.get("Values") or ([given["Value"]] if "Value" in given else [])
    if not values:
        raise QueryError("MissingParameter", f"{common['name']} has no value")
    counts = given.get("Counts") or [1.0] * len(values)
    if len(counts) != len(values):
        raise QueryError("InvalidParameterValue", "there must be as many counts as values")
    return Datum(
        total=sum(value * count for value, count in zip(values, counts, strict=True)),
        count=sum(counts),
        minimum=min(values),
        maximum=max(values),
        **common,
    )


@OPERATIONS.operation
async def put_metric_data(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Take values in. Durable on return."""
    data = given.get("MetricData") or []
    if not data or len(data) > MAX_DATA:
        raise QueryError("InvalidParameterValue", f"MetricData holds 1 to {MAX_DATA} values")
    now = manager.now()
    scope = manager.root_of(caller.stack) if caller.stack else ""
    read = [_datum(str(given["Namespace"])[:255], item, now) for item in data]
    try:
        for datum in read:
            manager.watcher.put(scope, datum)
    except PcloudError as problem:
        raise QueryError("InvalidParameterValue", problem.problems[0].message) from None
    await manager.store.flush()
    return {}


def _view(record: ResourceRecord) -> dict[str, Any]:
    rule = rule_of(record)
    since = record.data.get("state_since", record.created)
    return {
        "AlarmName": record.physical,
        "AlarmArn": record.attributes.get("Arn", ""),
        "AlarmDescription": record.properties.get("AlarmDescription"),
        "ActionsEnabled": rule.enabled,
        "OKActions": rule.actions.get(OK, []),
        "AlarmActions": rule.actions.get(ALARM, []),
        "InsufficientDataActions": rule.actions.get(INSUFFICIENT, []),
        "StateValue": record.data.get("state", INSUFFICIENT),
        "StateReason": record.data.get("state_reason", "Unchecked: Initial alarm creation"),
        "StateUpdatedTimestamp": since,
        "StateTransitionedTimestamp": since,
        "MetricName": rule.metric,
        "Namespace": rule.namespace,
        "Statistic": rule.statistic,
        "Dimensions": [{"Name": name, "Value": value} for name, value in rule.dimensions.items()],
        "Period": rule.period,
        "EvaluationPeriods": rule.periods,
        "DatapointsToAlarm": rule.breaches,
        "Threshold": rule.threshold,
        "ComparisonOperator": rule.comparison,
        "TreatMissingData": rule.missing,
    }


def _alarms(manager: StackManager, names: Any = None) -> list[ResourceRecord]:
    found = [record for record in manager.alarms.values() if record.physical and not record.condemned]
    if names is not None:
        found = [record for record in found if record.physical in names]
    return sorted(found, key=lambda record: record.physical)


def _alarm(manager: StackManager, name: str) -> ResourceRecord:
    found = _alarms(manager, [name])
    if not found:
        raise QueryError("ResourceNotFound", f"there is no alarm {name}", 404)
    return found[0]


@OPERATIONS.operation
async def describe_alarms(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Show alarms by name, prefix or state."""
    prefix, state = given.get("AlarmNamePrefix", ""), given.get("StateValue")
    shown = [_view(record) for record in _alarms(manager, given.get("AlarmNames") or None)]
    return {
        "MetricAlarms": [
            item
            for item in shown
            if item["AlarmName"].startswith(prefix) and (state is None or item["StateValue"] == state)
        ],
        "CompositeAlarms": [],
    }


@OPERATIONS.operation
async def describe_alarms_for_metric(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Show the alarms that watch a metric."""
    wanted = (given["Namespace"], given["MetricName"])
    shown = [_view(record) for record in _alarms(manager)]
    return {"MetricAlarms": [item for item in shown if (item["Namespace"], item["MetricName"]) == wanted]}


@OPERATIONS.operation
async def set_alarm_state(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Set an alarm's state by hand; it holds for one period."""
    record = _alarm(manager, given["AlarmName"])
    await manager.watcher.set_state(record, given["StateValue"], str(given.get("StateReason", ""))[:1023])
    return {}


async def _enable(manager: StackManager, given: Input, enabled: bool) -> Output:
    for name in given["AlarmNames"]:
        record = _alarm(manager, name)
        record.data["alarm"]["enabled"] = enabled
        manager.save(record)
    await manager.store.flush()
    return {}


@OPERATIONS.operation
async def enable_alarm_actions(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Let alarms act again."""
    return await _enable(manager, given, True)


@OPERATIONS.operation
async def disable_alarm_actions(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Keep alarms from acting, until an update of their stack says otherwise."""
    return await _enable(manager, given, False)


@OPERATIONS.operation
async def list_metrics(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Show which metrics have values."""
    wanted = _dimensions(given.get("Dimensions"))
    return {
        "Metrics": [
            {
                "Namespace": series.namespace,
                "MetricName": series.name,
                "Dimensions": [{"Name": name, "Value": value} for name, value in series.dimensions.items()],
            }
            for series in manager.watcher.metrics.series.values()
            if given.get("Namespace") in (None, series.namespace)
            and given.get("MetricName") in (None, series.name)
            and all(series.dimensions.get(name) == value for name, value in wanted.items())
        ]
    }


@OPERATIONS.operation
async def get_metric_statistics(manager: StackManager, given: Input, caller: Caller) -> Output:
    """Show a metric's statistics by period, over all series that have the dimensions."""
    if given.get("ExtendedStatistics"):
        raise QueryError("InvalidParameterValue", "percentiles are not kept")
    period = given["Period"]
    begin, end = _seconds(given["StartTime"], 0.0), _seconds(given["EndTime"], time.time())
    if period <= 0 or begin >= end or (end - begin) / period > MAX_POINTS:
        raise QueryError("InvalidParameterCombination", f"Period, StartTime and EndTime give 1 to {MAX_POINTS} points")
    series = [
        item
        for item in manager.watcher.metrics.series.values()
        if item.namespace == given["Namespace"]
        and item.name == given["MetricName"]
        and all(item.dimensions.get(k) == v for k, v in _dimensions(given.get("Dimensions")).items())
    ]
    points = []
    at = begin
    while at < end:
        bucket = window(series, at - 1, min(at + period, end) - 1)
        if bucket is not None:
            shown = {name: statistic(bucket, name) for name in given.get("Statistics") or []}
            points.append({"Timestamp": at, "Unit": series[0].unit or "None", **shown})
        at += period
    return {"Label": given["MetricName"], "Datapoints": points}
