"""The operations of the CloudFormation endpoint: each takes the parsed input and gives the output as plain data."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from pcloud.api.cloudformation_views import (
    change_set_arn,
    change_view,
    event_view,
    page,
    parameters_view,
    resource_view,
    source_of,
    stack_view,
    summary_view,
)
from pcloud.api.query import QueryError
from pcloud.model.errors import NotFound, PcloudError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.policy import read_policy
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.reading import read_template
from pcloud.stacks.records import ResourceRecord, Source, StackRecord, derived_id
from pcloud.stacks.types.registry import types

Output = Mapping[str, Any]
Input = Mapping[str, Any]


STACK_KEY_OPERATIONS = ("DescribeStackResource", "DescribeStackResources", "SignalResource", "PutMetricData")
"""What the tools in a guest may do with a key of their stack."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    user: str
    role: str
    stack: str = ""
    """When set: may read and signal this stack's resources only."""

    def allow(self, name: str) -> None:
        """QueryError when this caller may not do that at all."""
        reads = name.startswith(("Describe", "List", "Get", "Validate", "Estimate"))
        if self.stack and name not in STACK_KEY_OPERATIONS:
            raise QueryError("AccessDenied", f"User {self.user} is not authorized to perform {name}", 403)
        if self.role == "viewer" and not reads:
            raise QueryError("AccessDenied", f"A viewer is not authorized to perform {name}", 403)


Operation = Callable[[StackManager, Input, Caller], Awaitable[Output]]
OPERATIONS: dict[str, Operation] = {}


def _operation(function: Operation) -> Operation:
    OPERATIONS["".join(part.capitalize() for part in function.__name__.split("_"))] = function
    return function


def find(manager: StackManager, name: str, caller: Caller) -> StackRecord:
    """Return the stack that a caller may see."""
    stack = manager.get(name)
    if caller.stack and caller.stack not in (stack.id, stack.parent, stack.root):
        raise QueryError("AccessDenied", f"User {caller.user} is not authorized to see this stack", 403)
    return stack


def _source(manager: StackManager, given: Input, stack: StackRecord | None = None) -> Source:
    """Return the source that a request describes; parts not given are taken from the stack."""
    previous = stack.source if stack is not None else None
    body = given.get("TemplateBody")
    if body is None and given.get("TemplateURL"):
        raise QueryError(
            "ValidationError", "TemplateURL: templates are not fetched from the network; send TemplateBody"
        )
    if body is None:
        if not given.get("UsePreviousTemplate") or previous is None:
            raise QueryError("ValidationError", "Either Template URL or Template Body must be specified.")
        body = previous.template
    parameters: dict[str, Any] = {}
    for item in given.get("Parameters") or []:
        key = item.get("ParameterKey", "")
        if item.get("UsePreviousValue"):
            if previous is not None and key in previous.parameters:
                parameters[key] = previous.parameters[key]
        else:
            parameters[key] = item.get("ParameterValue", "")
    tags = given.get("Tags")
    return Source(
        template=body,
        parameters=parameters,
        files=previous.files if previous else {},
        registry=previous.registry if previous else {},
        tags={tag["Key"]: tag["Value"] for tag in tags} if tags is not None else (previous.tags if previous else {}),
        capabilities=tuple(given.get("Capabilities") or ()),
        notifications=tuple(given.get("NotificationARNs") or ()),
    )


def _policy(given: Input, key: str = "StackPolicyBody") -> dict[str, Any] | None:
    if given.get("StackPolicyURL"):
        raise QueryError("ValidationError", "StackPolicyURL: nothing is fetched from the network; send StackPolicyBody")
    return read_policy(given[key]) if given.get(key) else None


@_operation
async def create_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """CreateStack."""
    on_failure = given.get("OnFailure") or ("DO_NOTHING" if given.get("DisableRollback") else "ROLLBACK")
    token = given.get("ClientRequestToken", "")
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
            _source(manager, given),
            timeout=given.get("TimeoutInMinutes") or 0,
            on_failure=on_failure,
            protected=bool(given.get("EnableTerminationProtection")),
            policy=_policy(given),
            token=token,
        )
    return {"StackId": arn(known, manager.region)}


@_operation
async def update_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """UpdateStack."""
    stack = find(manager, given["StackName"], caller)
    source = _source(manager, given, stack)
    judged = manager.plan(stack, source)
    same_outputs = not manager.outputs_differ(stack, source)
    if stack.source is not None and not judged.effective and same_outputs and stack.source.tags == source.tags:
        raise QueryError("ValidationError", "No updates are to be performed.")
    policy = _policy(given)
    if policy is not None:
        stack.policy = policy
    await manager.update(
        stack,
        source,
        token=given.get("ClientRequestToken", ""),
        policy=_policy(given, "StackPolicyDuringUpdateBody"),
        on_failure="DO_NOTHING" if given.get("DisableRollback") else "ROLLBACK",
    )
    return {"StackId": arn(stack, manager.region)}


@_operation
async def delete_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DeleteStack; a stack that is not there is no error."""
    try:
        stack = manager.get(given["StackName"])
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


@_operation
async def describe_stacks(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStacks."""
    if given.get("StackName"):
        return {"Stacks": [stack_view(manager, find(manager, given["StackName"], caller))]}
    stacks = [stack for stack in manager.stacks.values() if stack.live]
    stacks.sort(key=lambda stack: stack.created, reverse=True)
    items, token = page(stacks, given.get("NextToken"))
    return {"Stacks": [stack_view(manager, stack) for stack in items], "NextToken": token}


@_operation
async def list_stacks(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListStacks."""
    wanted = given.get("StackStatusFilter")
    stacks = [stack for stack in manager.stacks.values() if not wanted or stack.status in wanted]
    stacks.sort(key=lambda stack: stack.created, reverse=True)
    items, token = page(stacks, given.get("NextToken"))
    return {"StackSummaries": [summary_view(manager, stack) for stack in items], "NextToken": token}


@_operation
async def cancel_update_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """CancelUpdateStack."""
    stack = find(manager, given["StackName"], caller)
    if stack.status != "UPDATE_IN_PROGRESS":
        raise QueryError("ValidationError", "CancelUpdateStack cannot be called from current stack status")
    await manager.cancel_update(stack)
    return {}


@_operation
async def continue_update_rollback(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ContinueUpdateRollback."""
    skip = tuple(given.get("ResourcesToSkip") or ())
    await manager.continue_rollback(find(manager, given["StackName"], caller), skip=skip)
    return {}


@_operation
async def rollback_stack(manager: StackManager, given: Input, caller: Caller) -> Output:
    """RollbackStack."""
    stack = find(manager, given["StackName"], caller)
    await manager.rollback(stack)
    return {"StackId": arn(stack, manager.region)}


@_operation
async def describe_stack_events(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackEvents, newest first."""
    stack = find(manager, given.get("StackName") or "", caller)
    items, token = page(manager.events(stack)[::-1], given.get("NextToken"))
    return {"StackEvents": [event_view(manager, stack, event) for event in items], "NextToken": token}


@_operation
async def describe_events(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeEvents, newest first."""
    stack = find(manager, given.get("StackName") or "", caller)
    items, token = page(manager.events(stack)[::-1], given.get("NextToken"))
    views = [{**event_view(manager, stack, event), "EventType": "STACK_EVENT"} for event in items]
    if (given.get("Filters") or {}).get("FailedEvents"):
        views = [view for view in views if view["ResourceStatus"].endswith("FAILED")]
    return {"OperationEvents": views, "NextToken": token}


def _resource(manager: StackManager, stack: StackRecord, name: str) -> ResourceRecord:
    record = manager.current(stack).get(name)
    if record is None:
        raise QueryError("ValidationError", f"Resource {name} does not exist for stack {stack.name}")
    return record


@_operation
async def describe_stack_resource(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackResource; what cfn-init and cfn-hup ask."""
    stack = find(manager, given["StackName"], caller)
    record = _resource(manager, stack, given["LogicalResourceId"])
    return {"StackResourceDetail": resource_view(manager, stack, record)}


@_operation
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
    records = [_resource(manager, stack, name)] if name else list(manager.current(stack).values())
    return {"StackResources": [resource_view(manager, stack, record) for record in records]}


@_operation
async def list_stack_resources(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListStackResources."""
    stack = find(manager, given["StackName"], caller)
    items, token = page(list(manager.current(stack).values()), given.get("NextToken"))
    return {"StackResourceSummaries": [resource_view(manager, stack, item) for item in items], "NextToken": token}


@_operation
async def get_template(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetTemplate."""
    if given.get("ChangeSetName"):
        body = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "").source.template
    else:
        source = source_of(find(manager, given.get("StackName") or "", caller))
        body = source.template if source is not None else ""
    return {"TemplateBody": body, "StagesAvailable": ["Original", "Processed"]}


@_operation
async def get_template_summary(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetTemplateSummary."""
    name = given.get("StackName")
    source = source_of(find(manager, name, caller)) if name else _source(manager, given)
    if source is None:
        raise QueryError("ValidationError", "the stack has no template")
    template = read_template(source.template)
    kinds = sorted({definition.type for definition in template.resources.values()})
    return {
        "Parameters": parameters_view(template),
        "Description": template.description or None,
        "ResourceTypes": kinds,
        "Version": template.version,
        "Metadata": json.dumps(template.metadata) if template.metadata else None,
        "DeclaredTransforms": list(template.transforms),
        "Capabilities": [],
    }


@_operation
async def validate_template(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ValidateTemplate: everything that can be known without parameters."""
    source = _source(manager, given)
    template = read_template(source.template)
    subject = StackRecord(id="00000000-0000-0000-0000-000000000000", name="validate", status="REVIEW_IN_PROGRESS")
    manager.validate(subject, source, complete=False)
    return {
        "Parameters": parameters_view(template),
        "Description": template.description or None,
        "Capabilities": [],
        "DeclaredTransforms": list(template.transforms),
    }


@_operation
async def estimate_template_cost(manager: StackManager, given: Input, caller: Caller) -> Output:
    """EstimateTemplateCost: own guests cost nothing; there is no calculator."""
    _source(manager, given)
    return {"Url": "about:blank#own-infrastructure-costs-nothing"}


# --- change sets


@_operation
async def create_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """CreateChangeSet."""
    kind = given.get("ChangeSetType") or "UPDATE"
    if kind == "IMPORT":
        raise QueryError("ValidationError", "resources can not be imported here")
    stack: StackRecord | None = None
    if kind == "UPDATE":
        stack = find(manager, given["StackName"], caller)
    source = _source(manager, given, stack)
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


@_operation
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
        "Changes": [change_view(entry) for entry in items],
        "NextToken": token,
    }


@_operation
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


@_operation
async def execute_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ExecuteChangeSet."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    await manager.execute_change_set(
        change_set, token=given.get("ClientRequestToken", ""), rollback=not given.get("DisableRollback")
    )
    return {}


@_operation
async def delete_change_set(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DeleteChangeSet."""
    change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
    await manager.delete_change_set(change_set)
    return {}


@_operation
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


# --- drift


@_operation
async def detect_stack_drift(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DetectStackDrift: done at once; the id names the answer."""
    stack = find(manager, given["StackName"], caller)
    await manager.detect_drift(stack, given.get("LogicalResourceIds"))
    identity = derived_id(stack.id, "drift", str(stack.drift.get("time")))
    stack.drift["id"] = identity
    manager.store.put(stack)
    return {"StackDriftDetectionId": identity}


@_operation
async def detect_stack_resource_drift(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DetectStackResourceDrift."""
    stack = find(manager, given["StackName"], caller)
    record = _resource(manager, stack, given["LogicalResourceId"])
    await manager.detect_drift(stack, [record.name])
    return {"StackResourceDrift": _drift(manager, stack, record)}


@_operation
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


@_operation
async def describe_stack_resource_drifts(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeStackResourceDrifts."""
    stack = find(manager, given["StackName"], caller)
    wanted = given.get("StackResourceDriftStatusFilters")
    drifts = [_drift(manager, stack, record) for record in manager.current(stack).values() if record.drift]
    chosen = [drift for drift in drifts if not wanted or drift["StackResourceDriftStatus"] in wanted]
    items, token = page(chosen, given.get("NextToken"))
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
                "DifferenceType": "NOT_EQUAL",
            }
            for name, value in differences.items()
        ],
        "StackResourceDriftStatus": record.drift.get("status", "NOT_CHECKED"),
        "Timestamp": record.drift.get("time", 0.0),
    }


# --- the rest


@_operation
async def signal_resource(manager: StackManager, given: Input, caller: Caller) -> Output:
    """SignalResource."""
    stack = find(manager, given["StackName"], caller)
    record = _resource(manager, stack, given["LogicalResourceId"])
    status = given["Status"]
    await manager.signal(record, {"status": status, "reason": "", "id": given["UniqueId"], "data": "", "details": {}})
    return {}


@_operation
async def list_exports(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListExports."""
    rows = [
        {"ExportingStackId": arn(manager.stacks[owner], manager.region), "Name": name, "Value": value}
        for name, (owner, value) in sorted(manager.exporters().items())
    ]
    items, token = page(rows, given.get("NextToken"))
    return {"Exports": items, "NextToken": token}


@_operation
async def list_imports(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListImports."""
    name = given["ExportName"]
    users = manager.imports_of(name)
    if not users:
        raise QueryError("ValidationError", f"Export '{name}' is not imported by any stack.")
    items, token = page(users, given.get("NextToken"))
    return {"Imports": items, "NextToken": token}


@_operation
async def get_stack_policy(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetStackPolicy."""
    policy = find(manager, given["StackName"], caller).policy
    return {"StackPolicyBody": json.dumps(policy) if policy else None}


@_operation
async def set_stack_policy(manager: StackManager, given: Input, caller: Caller) -> Output:
    """SetStackPolicy."""
    stack = find(manager, given["StackName"], caller)
    policy = _policy(given)
    if policy is None:
        raise PcloudError.of("BAD_POLICY", "You must specify StackPolicyBody")
    stack.policy = policy
    manager.store.put(stack)
    await manager.store.flush()
    return {}


@_operation
async def update_termination_protection(manager: StackManager, given: Input, caller: Caller) -> Output:
    """UpdateTerminationProtection."""
    stack = find(manager, given["StackName"], caller)
    stack.protected = bool(given["EnableTerminationProtection"])
    manager.store.put(stack)
    await manager.store.flush()
    return {"StackId": arn(stack, manager.region)}


@_operation
async def describe_account_limits(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeAccountLimits."""
    from pcloud.stacks.reading import MAX_OUTPUTS, MAX_PARAMETERS, MAX_RESOURCES

    limits = {
        "StackLimit": 1_000_000,
        "StackOutputsLimit": MAX_OUTPUTS,
        "ResourceLimit": MAX_RESOURCES,
        "ParameterLimit": MAX_PARAMETERS,
    }
    return {"AccountLimits": [{"Name": name, "Value": value} for name, value in limits.items()]}


@_operation
async def list_types(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListTypes: the resource types that do their job here."""
    rows = [
        {
            "Type": "RESOURCE",
            "TypeName": name,
            "TypeArn": f"arn:aws:cloudformation:{manager.region}::type/resource/{name.replace('::', '-')}",
        }
        for name in sorted(types())
        if "::" in name
    ]
    items, token = page(rows, given.get("NextToken"))
    return {"TypeSummaries": items, "NextToken": token}


@_operation
async def describe_type(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeType."""
    name = given.get("TypeName") or (given.get("Arn") or "").rsplit("/", 1)[-1].replace("-", "::")
    kind = types().get(name)
    if kind is None:
        raise QueryError("TypeNotFoundException", f"The type '{name}' does not exist.", 404)
    schema = {
        "typeName": name,
        "description": (kind.description or kind.__doc__ or "").strip(),
        "properties": {
            key: {"type": rule.type, "description": rule.description or rule.inert or rule.refused}
            for key, rule in kind.schema.items()
        },
        "required": [key for key, rule in kind.schema.items() if rule.required],
        "readOnlyProperties": [f"/properties/{key}" for key in sorted(kind.attributes or ())],
    }
    return {
        "Arn": f"arn:aws:cloudformation:{manager.region}::type/resource/{name.replace('::', '-')}",
        "Type": "RESOURCE",
        "TypeName": name,
        "Description": schema["description"],
        "Schema": json.dumps(schema),
        "ProvisioningType": "FULLY_MUTABLE",
        "Visibility": "PUBLIC",
    }
