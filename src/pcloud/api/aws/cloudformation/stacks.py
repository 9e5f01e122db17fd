"""Operations on stacks: make, change, delete, look at, turn back."""

from __future__ import annotations

import json

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, policy_of_request, source_of_request
from pcloud.api.aws.cloudformation.views import page, stack_view, summary_view
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.model.errors import NotFound, PcloudError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.policy import ALLOW_ALL
from pcloud.stacks.engine.scopes import arn


@OPERATIONS.operation
async def create_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """CreateStack."""
    on_failure = given.get("OnFailure") or ("DO_NOTHING" if given.get("DisableRollback") else "ROLLBACK")
    token = given.get("ClientRequestToken", "")
    source, policy = await source_of_request(manager, given), await policy_of_request(manager, given)
    known = next(
        (
            s
            for s in manager.stacks.values()
            if token and s.name == given["StackName"] and s.operation and s.operation.token == token
        ),
        None,
    )
    if known is None:
        known = await manager.create(
            given["StackName"],
            source,
            timeout=given.get("TimeoutInMinutes") or 0,
            on_failure=on_failure,
            protected=bool(given.get("EnableTerminationProtection")),
            policy=policy,
            token=token,
        )
    return {"StackId": arn(known, manager.region)}


@OPERATIONS.operation
async def update_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """UpdateStack."""
    stack = find(manager, given["StackName"], caller)
    policy = await policy_of_request(manager, given)
    during = await policy_of_request(manager, given, "StackPolicyDuringUpdateBody")
    source = await source_of_request(manager, given, stack)
    judged = manager.plan(stack, source)
    same_outputs = not manager.outputs_differ(stack, source)
    if stack.source is not None and not judged.effective and same_outputs and stack.source.tags == source.tags:
        raise QueryError("ValidationError", "No updates are to be performed.")
    if policy is not None and during is None:
        during = stack.policy or ALLOW_ALL  # a new policy holds for the updates after this one
    before = stack.policy
    stack.policy = policy or before  # stored with the operation
    try:
        await manager.update(
            stack,
            source,
            token=given.get("ClientRequestToken", ""),
            policy=during,
            on_failure="DO_NOTHING" if given.get("DisableRollback") else "ROLLBACK",
        )
    except PcloudError:
        stack.policy = before
        raise
    return {"StackId": arn(stack, manager.region)}


@OPERATIONS.operation
async def delete_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DeleteStack; a stack that is not there is no error."""
    try:
        stack = manager.get(given["StackName"], aside=True)
    except NotFound:
        return {}
    retain = tuple(given.get("RetainResources") or ())
    if retain and stack.status != "DELETE_FAILED":
        raise QueryError(
            "ValidationError", "Invalid operation on stack: RetainResources is for stacks in DELETE_FAILED state"
        )
    if stack.parent:
        raise QueryError("ValidationError", "a nested stack is deleted with its parent")
    await manager.delete(stack, retain=retain, token=given.get("ClientRequestToken", ""))
    return {}


@OPERATIONS.operation
async def describe_stacks(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStacks."""
    if given.get("StackName"):
        return {"Stacks": [stack_view(manager, find(manager, given["StackName"], caller, aside=True))]}
    stacks = [stack for stack in manager.stacks.values() if stack.live]
    stacks.sort(key=lambda stack: stack.created, reverse=True)
    items, token = page(stacks, given.get("NextToken"))
    return {"Stacks": [stack_view(manager, stack) for stack in items], "NextToken": token}


@OPERATIONS.operation
async def list_stacks(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListStacks."""
    wanted = given.get("StackStatusFilter")
    stacks = [stack for stack in manager.stacks.values() if not wanted or stack.status in wanted]
    stacks.sort(key=lambda stack: stack.created, reverse=True)
    items, token = page(stacks, given.get("NextToken"))
    return {"StackSummaries": [summary_view(manager, stack) for stack in items], "NextToken": token}


@OPERATIONS.operation
async def cancel_update_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """CancelUpdateStack."""
    stack = find(manager, given["StackName"], caller)
    if stack.status != "UPDATE_IN_PROGRESS":
        raise QueryError("ValidationError", "CancelUpdateStack cannot be called from current stack status")
    await manager.cancel_update(stack, token=given.get("ClientRequestToken", ""))
    return {}


@OPERATIONS.operation
async def continue_update_rollback(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ContinueUpdateRollback."""
    skip = tuple(given.get("ResourcesToSkip") or ())
    stack = find(manager, given["StackName"], caller)
    await manager.continue_rollback(stack, skip=skip, token=given.get("ClientRequestToken", ""))
    return {}


@OPERATIONS.operation
async def rollback_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """RollbackStack."""
    stack = find(manager, given["StackName"], caller)
    await manager.rollback(stack, token=given.get("ClientRequestToken", ""))
    return {"StackId": arn(stack, manager.region)}


@OPERATIONS.operation
async def get_stack_policy(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetStackPolicy."""
    policy = find(manager, given["StackName"], caller).policy
    return {"StackPolicyBody": json.dumps(policy) if policy else None}


@OPERATIONS.operation
async def set_stack_policy(manager: StackManager, given: Input, caller: Caller) -> Output:
    """SetStackPolicy."""
    stack = find(manager, given["StackName"], caller)
    policy = await policy_of_request(manager, given)
    if policy is None:
        raise PcloudError.of("BAD_POLICY", "You must specify StackPolicyBody")
    stack.policy = policy
    manager.store.put(stack)
    await manager.store.flush()
    return {}


@OPERATIONS.operation
async def update_termination_protection(manager: StackManager, given: Input, caller: Caller) -> Output:
    """UpdateTerminationProtection."""
    stack = find(manager, given["StackName"], caller)
    stack.protected = bool(given["EnableTerminationProtection"])
    manager.store.put(stack)
    await manager.store.flush()
    return {"StackId": arn(stack, manager.region)}
