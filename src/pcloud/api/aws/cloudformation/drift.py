"""Operations on drift: what runs against what the template says."""

from __future__ import annotations

import json
from typing import Any

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, resource_of
from pcloud.api.aws.cloudformation.views import page
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.records import ResourceRecord, StackRecord, derived_id


@OPERATIONS.operation
async def detect_stack_drift(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DetectStackDrift: done at once; the id names the answer."""
    stack = find(manager, given["StackName"], caller)
    await manager.detect_drift(stack, given.get("LogicalResourceIds"))
    identity = derived_id(stack.id, "drift", str(stack.drift.get("time")))
    stack.drift["id"] = identity
    manager.store.put(stack)
    return {"StackDriftDetectionId": identity}


@OPERATIONS.operation
async def detect_stack_resource_drift(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DetectStackResourceDrift."""
    stack = find(manager, given["StackName"], caller)
    record = resource_of(manager, stack, given["LogicalResourceId"])
    await manager.detect_drift(stack, [record.name])
    return {"StackResourceDrift": _drift(manager, stack, record)}


@OPERATIONS.operation
async def describe_stack_drift_detection_status(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackDriftDetectionStatus."""
    wanted = given["StackDriftDetectionId"]
    for stack in manager.stacks.values():
        if stack.drift.get("id") == wanted:
            return {
                "StackId": arn(stack, manager.region),
                "StackDriftDetectionId": wanted,
                "StackDriftStatus": stack.drift["status"],
                "DetectionStatus": "DETECTION_COMPLETE",
                "DriftedStackResourceCount": stack.drift.get("drifted", 0),
                "Timestamp": stack.drift["time"],
            }
    raise QueryError("ValidationError", f"No drift detection {wanted}")


@OPERATIONS.operation
async def describe_stack_resource_drifts(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackResourceDrifts."""
    stack = find(manager, given["StackName"], caller)
    wanted = given.get("StackResourceDriftStatusFilters")
    drifts = [_drift(manager, stack, record) for record in manager.current(stack).values() if record.drift]
    chosen = [drift for drift in drifts if not wanted or drift["StackResourceDriftStatus"] in wanted]
    items, token = page(chosen, given.get("NextToken"), given.get("MaxResults"))
    return {"StackResourceDrifts": items, "NextToken": token}


def _drift(manager: StackManager, stack: StackRecord, record: ResourceRecord) -> dict[str, Any]:
    differences = record.drift.get("differences", {})
    return {
        "StackId": arn(stack, manager.region),
        "LogicalResourceId": record.name,
        "PhysicalResourceId": record.physical or None,
        "ResourceType": record.type,
        "ExpectedProperties": json.dumps(record.properties),
        "ActualProperties": json.dumps({**record.properties, **differences}),
        "PropertyDifferences": [
            {
                "PropertyPath": f"/{name}",
                "ExpectedValue": json.dumps(record.properties.get(name)),
                "ActualValue": json.dumps(value),
                "DifferenceType": "NOT_EQUAL" if name in record.properties else "ADD",
            }
            for name, value in differences.items()
        ],
        "StackResourceDriftStatus": record.drift.get("status", "NOT_CHECKED"),
        "Timestamp": record.drift.get("time", 0.0),
    }
