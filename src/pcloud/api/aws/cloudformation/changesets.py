"""Operations on change sets: plan a change, look at it, carry it out."""

from __future__ import annotations

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, source_of_request
from pcloud.api.aws.cloudformation.views import change_set_arn, change_view, page
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.records import StackRecord


@OPERATIONS.operation
async def create_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """CreateChangeSet."""
    kind = given.get("ChangeSetType") or "UPDATE"
    if kind == "IMPORT":
        raise QueryError("ValidationError", "resources can not be imported here")
    stack: StackRecord | None = None
    if kind == "UPDATE":
        stack = find(manager, given["StackName"], caller)
    source = await source_of_request(manager, given, stack)
    change_set = await manager.create_change_set(
        given["StackName"],
        given["ChangeSetName"],
        source,
        kind=kind,
        description=given.get("Description", ""),
        on_failure={"DELETE": "DELETE", "DO_NOTHING": "DO_NOTHING"}.get(given.get("OnStackFailure", ""), ""),
    )
    return {
        "Id": change_set_arn(change_set, manager.region),
        "StackId": arn(manager.stacks[change_set.stack], manager.region),
    }


@OPERATIONS.operation
async def describe_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeChangeSet."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    stack = manager.stacks[change_set.stack]
    items, token = page(change_set.changes, given.get("NextToken"))
    template = manager.reader.template(change_set.source)
    hidden = {name for name, schema in template.parameters.items() if schema.hidden}
    return {
        "ChangeSetName": change_set.name,
        "ChangeSetId": change_set_arn(change_set, manager.region),
        "StackId": arn(stack, manager.region),
        "StackName": stack.name,
        "Description": change_set.description or None,
        "Parameters": [
            {"ParameterKey": key, "ParameterValue": "****" if key in hidden else str(value)}
            for key, value in change_set.source.parameters.items()
        ],
        "CreationTime": change_set.created,
        "ExecutionStatus": change_set.execution,
        "Status": change_set.status,
        "StatusReason": change_set.reason or None,
        "NotificationARNs": list(change_set.source.notifications),
        "Capabilities": list(change_set.source.capabilities),
        "Tags": [{"Key": key, "Value": value} for key, value in change_set.source.tags.items()],
        "IncludeNestedStacks": False,  # whatever was asked for: the changes are this stack's own
        "Changes": [change_view(entry) for entry in items],
        "NextToken": token,
    }


@OPERATIONS.operation
async def describe_change_set_hooks(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeChangeSetHooks: there are none."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    stack = manager.stacks[change_set.stack]
    return {
        "ChangeSetId": change_set_arn(change_set, manager.region),
        "ChangeSetName": change_set.name,
        "Hooks": [],
        "Status": "PLANNED",
        "StackId": arn(stack, manager.region),
        "StackName": stack.name,
    }


@OPERATIONS.operation
async def execute_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ExecuteChangeSet."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    await manager.execute_change_set(
        change_set, token=given.get("ClientRequestToken", ""), rollback=not given.get("DisableRollback")
    )
    return {}


@OPERATIONS.operation
async def delete_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DeleteChangeSet."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    await manager.delete_change_set(change_set)
    return {}


@OPERATIONS.operation
async def list_change_sets(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListChangeSets."""
    stack = find(manager, given["StackName"], caller)
    items, token = page(
        [item for item in manager.change_sets.values() if item.stack == stack.id], given.get("NextToken")
    )
    summaries = [
        {
            "StackId": arn(stack, manager.region),
            "StackName": stack.name,
            "ChangeSetId": change_set_arn(item, manager.region),
            "ChangeSetName": item.name,
            "ExecutionStatus": item.execution,
            "Status": item.status,
            "StatusReason": item.reason or None,
            "CreationTime": item.created,
            "Description": item.description or None,
        }
        for item in items
    ]
    return {"Summaries": summaries, "NextToken": token}
