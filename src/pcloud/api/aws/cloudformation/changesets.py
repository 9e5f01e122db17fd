"""Operations on change sets: plan a change, look at it, carry it out."""

from __future__ import annotations

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, source_of_request
from pcloud.api.aws.cloudformation.views import change_set_arn, change_view, page
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.records import ChangeSet, StackRecord


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
        token=given.get("ClientToken") or "",
        nested=bool(given.get("IncludeNestedStacks")),
    )
    return {
        "Id": change_set_arn(change_set, manager.region),
        "StackId": arn(manager.stacks[change_set.stack], manager.region),
    }


@OPERATIONS.operation
async def describe_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeChangeSet."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    items, token = page(change_set.changes, given.get("NextToken"))
    valued = bool(given.get("IncludePropertyValues"))
    return {
        "ChangeSetName": change_set.name,
        "ChangeSetId": change_set_arn(change_set, manager.region),
        **_stack(manager, change_set),
        "Description": None if change_set.root else change_set.description or None,
        "Parameters": _parameters(manager, change_set),
        "CreationTime": change_set.created,
        "ExecutionStatus": change_set.execution,
        "Status": change_set.status,
        "StatusReason": change_set.reason or None,
        "NotificationARNs": list(change_set.source.notifications),
        "Capabilities": list(change_set.source.capabilities),
        "Tags": [{"Key": key, "Value": value} for key, value in change_set.source.tags.items()],
        "IncludeNestedStacks": change_set.nested,
        "ParentChangeSetId": _arn_of(manager, change_set.parent),
        "RootChangeSetId": _arn_of(manager, change_set.root),
        "OnStackFailure": change_set.on_failure or None,
        "Changes": [
            change_view(entry, nested=_arn_of(manager, entry.get("change_set", "")), values=valued) for entry in items
        ],
        "NextToken": token,
    }


def _stack(manager: StackManager, change_set: ChangeSet) -> dict[str, str]:
    """Return what a change set's stack is called; one of a nested stack that is not there yet has no id."""
    stack = manager.stacks.get(change_set.stack)
    if stack is None:
        return {"StackName": change_set.description}
    return {"StackId": arn(stack, manager.region), "StackName": stack.name}


def _arn_of(manager: StackManager, identity: str) -> str | None:
    return change_set_arn(manager.change_sets[identity], manager.region) if identity else None


def _parameters(manager: StackManager, change_set: ChangeSet) -> list[dict[str, str]]:
    """Return the parameters that were given; those of a nested stack are properties of its resource."""
    if change_set.root:
        return []
    schemas = manager.reader.template(change_set.source).parameters
    hidden = {name for name, schema in schemas.items() if schema.hidden}
    return [
        {"ParameterKey": key, "ParameterValue": "****" if key in hidden else str(value)}
        for key, value in change_set.source.parameters.items()
    ]


@OPERATIONS.operation
async def describe_change_set_hooks(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeChangeSetHooks: there are none."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    name = given.get("LogicalResourceId")
    if name and name not in [entry["name"] for entry in change_set.changes]:
        raise QueryError("ValidationError", f"Resource {name} does not change in ChangeSet [{change_set.name}]")
    hooks, token = page([], given.get("NextToken"))
    return {
        "ChangeSetId": change_set_arn(change_set, manager.region),
        "ChangeSetName": change_set.name,
        "Hooks": hooks,
        "Status": "PLANNED",
        **_stack(manager, change_set),
        "NextToken": token,
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
            "Description": None if item.root else item.description or None,
            "IncludeNestedStacks": item.nested,
            "ParentChangeSetId": _arn_of(manager, item.parent),
            "RootChangeSetId": _arn_of(manager, item.root),
        }
        for item in items
    ]
    return {"Summaries": summaries, "NextToken": token}
