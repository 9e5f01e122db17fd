"""Operations on events and resources of stacks: look at them, signal them."""

from __future__ import annotations

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, resource_of
from pcloud.api.aws.cloudformation.views import event_view, page, resource_view
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager


@OPERATIONS.operation
async def describe_stack_events(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackEvents, newest first."""
    stack = find(manager, given.get("StackName") or "", caller, aside=True)
    items, token = page(manager.events(stack)[::-1], given.get("NextToken"))
    return {"StackEvents": [event_view(manager, stack, event) for event in items], "NextToken": token}


@OPERATIONS.operation
async def describe_stack_resource(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackResource; what cfn-init and cfn-hup ask."""
    stack = find(manager, given["StackName"], caller)
    record = resource_of(manager, stack, given["LogicalResourceId"])
    return {"StackResourceDetail": resource_view(manager, stack, record)}


@OPERATIONS.operation
async def describe_stack_resources(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackResources."""
    if given.get("StackName"):
        stack = find(manager, given["StackName"], caller)
    else:
        record = manager.find(given.get("PhysicalResourceId") or "")
        if record is None:
            raise QueryError("ValidationError", f"Stack for {given.get('PhysicalResourceId')} does not exist")
        stack = find(manager, record.stack, caller)
    name = given.get("LogicalResourceId")
    records = [resource_of(manager, stack, name)] if name else list(manager.current(stack).values())
    return {"StackResources": [resource_view(manager, stack, record) for record in records]}


@OPERATIONS.operation
async def list_stack_resources(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListStackResources."""
    stack = find(manager, given["StackName"], caller)
    items, token = page(list(manager.current(stack).values()), given.get("NextToken"))
    return {"StackResourceSummaries": [resource_view(manager, stack, item) for item in items], "NextToken": token}


@OPERATIONS.operation
async def signal_resource(manager: StackManager, given: Input, caller: Caller) -> Output:
    """SignalResource."""
    stack = find(manager, given["StackName"], caller)
    record = resource_of(manager, stack, given["LogicalResourceId"])
    status = given["Status"]
    await manager.signal(record, {"status": status, "reason": "", "id": given["UniqueId"], "data": "", "details": {}})
    return {}
