"""DescribeEvents: the events of a stack by the operations that they belong to, and those of making a change set.

An operation is everything from one request to the next: its id is that of its first event, and so lasts as long as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find
from pcloud.api.aws.cloudformation.views import event_view, page
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.records import StackEvent, StackRecord

_TYPES = {"CREATE": "CREATE_STACK", "UPDATE": "UPDATE_STACK", "DELETE": "DELETE_STACK", "ROLLBACK": "ROLLBACK"}


@OPERATIONS.operation
async def describe_events(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeEvents, newest first: of a stack, of one operation, or of a change set."""
    wanted = given.get("OperationId")
    if given.get("ChangeSetName"):
        rows = _of_change_set(manager, given, caller)
    elif given.get("StackName"):
        rows = _rows(manager, find(manager, given["StackName"], caller, aside=True))
    elif wanted:
        rows = await _of_operation(manager, wanted, caller)
    else:
        raise QueryError("ValidationError", "Either StackName, ChangeSetName or OperationId must be specified")
    if wanted:
        rows = [row for row in rows if row["OperationId"] == wanted]
        if not rows:
            raise QueryError("ValidationError", f"Operation {wanted} does not exist")
    if (given.get("Filters") or {}).get("FailedEvents"):
        rows = [row for row in rows if str(row.get("ResourceStatus", row["OperationStatus"])).endswith("FAILED")]
    items, token = page(rows, given.get("NextToken"))
    return {"OperationEvents": items, "NextToken": token}


def _rows(manager: StackManager, stack: StackRecord) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for events in _operations(manager.events(stack)):
        first, last = events[0], events[-1]
        ended = not last.status.endswith("IN_PROGRESS") and last.name == stack.name
        operation = {
            "OperationId": first.id,
            "OperationType": _type_of(first.status, found[-1]["ResourceStatus"] if found else ""),
            "OperationStatus": _outcome(last.status) if ended else "IN_PROGRESS",
            "EventType": "STACK_EVENT",
        }
        found += [{**event_view(manager, stack, event), **operation} for event in events]
    return found[::-1]


def _operations(events: list[StackEvent]) -> Iterator[list[StackEvent]]:
    """Cut a stack's events, oldest first, at those with which a request was accepted."""
    part: list[StackEvent] = []
    for event in events:
        begins = event.type == "AWS::CloudFormation::Stack" and event.reason == "User Initiated"
        if begins and event.status.endswith("IN_PROGRESS") and part:
            yield part
            part = []
        part.append(event)
    if part:
        yield part


def _type_of(status: str, before: str) -> str | None:
    """Return CloudFormation's word for what began with a status; None for what it does not have, such as a suspension."""
    if status.startswith("UPDATE_ROLLBACK"):
        return "CONTINUE_ROLLBACK" if before == "UPDATE_ROLLBACK_FAILED" else "ROLLBACK"
    return "CREATE_CHANGESET" if status.startswith("REVIEW") else _TYPES.get(status.partition("_")[0])


def _outcome(status: str) -> str:
    return "FAILED" if status.endswith("FAILED") or "ROLLBACK" in status else "SUCCEEDED"


async def _of_operation(manager: StackManager, wanted: str, caller: Caller) -> list[dict[str, Any]]:
    """Return the events of the stack that an operation was one of; every stack's events are read until it is found."""
    for stack in list(manager.stacks.values()):
        if any(event.id == wanted for event in manager.events(stack)):
            return _rows(manager, find(manager, stack.id, caller, aside=True))
        await asyncio.sleep(0)  # others shall have their turn
    return []


def _of_change_set(manager: StackManager, given: Input, caller: Caller) -> list[dict[str, Any]]:
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    stack = find(manager, change_set.stack, caller)
    failed = change_set.status == "FAILED"
    return [
        {
            "EventId": change_set.id,
            "StackId": arn(stack, manager.region),
            "OperationId": change_set.id,
            "OperationType": "CREATE_CHANGESET",
            "OperationStatus": "FAILED" if failed else "SUCCEEDED",
            "EventType": "STACK_EVENT",
            "LogicalResourceId": stack.name,
            "PhysicalResourceId": arn(stack, manager.region),
            "ResourceType": "AWS::CloudFormation::Stack",
            "Timestamp": change_set.created,
            "ResourceStatusReason": change_set.reason or None,
        }
    ]
