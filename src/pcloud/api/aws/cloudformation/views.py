"""How stacks look through CloudFormation: records to the shapes of its answers. Pure."""

from __future__ import annotations

import json
from typing import Any

from pcloud.stacks.engine.changes import entry_of
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import ACCOUNT, arn, given_values
from pcloud.stacks.parameters import shown_values
from pcloud.stacks.plan import Change
from pcloud.stacks.records import ChangeSet, ResourceRecord, Source, StackEvent, StackRecord
from pcloud.stacks.template import UNSET, Template

PAGE = 500


def page(items: list[Any], token: str | None, most: int | None = None) -> tuple[list[Any], str | None]:
    """Return one page of a list, of `most` items where a request says so, and the token of the next."""
    begin = int(token) if token and token.isdigit() and len(token) < 12 else 0
    end = begin + min(most or PAGE, PAGE)
    return items[begin:end], str(end) if end < len(items) else None


def text(value: Any) -> str:
    """Return a value as the text that CloudFormation shows."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)


def source_of(stack: StackRecord) -> Source | None:
    """Return what a stack is made from, or is about to be."""
    return stack.source or (stack.operation.target if stack.operation is not None else None)


def stack_view(manager: StackManager, stack: StackRecord) -> dict[str, Any]:
    """Return a Stack."""
    source = None if stack.id in manager.unreadable else source_of(stack)
    parameters: list[dict[str, Any]] = []
    if source is not None:
        template = manager.reader.template(source)
        shown = shown_values(template, given_values(template, source, complete=False))
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in shown.items()]
    parent = manager.stacks.get(stack.parent)
    root = manager.stacks.get(stack.root)
    return {
        "StackId": arn(stack, manager.region),
        "StackName": stack.name,
        "Description": stack.description or None,
        "Parameters": parameters,
        "CreationTime": stack.created,
        "DeletionTime": stack.deleted or None,
        "LastUpdatedTime": stack.updated or None,
        "RollbackConfiguration": {},
        "StackStatus": stack.status,
        "StackStatusReason": manager.reason_of(stack) or None,
        "DisableRollback": stack.disable_rollback,
        "NotificationARNs": list(source.notifications) if source else [],
        "TimeoutInMinutes": stack.timeout or None,
        "Capabilities": list(source.capabilities) if source else [],
        "Outputs": [
            {
                "OutputKey": name,
                "OutputValue": text(entry["value"]),
                "Description": entry.get("description") or None,
                "ExportName": entry.get("export"),
            }
            for name, entry in stack.outputs.items()
        ],
        "RoleARN": stack.role or None,
        "Tags": [{"Key": key, "Value": value} for key, value in source.tags.items()] if source else [],
        "EnableTerminationProtection": stack.protected,
        "ParentId": arn(parent, manager.region) if parent else None,
        "RootId": arn(root, manager.region) if root else None,
        "DriftInformation": drift_view(stack.drift),
    }


def drift_view(drift: dict[str, Any]) -> dict[str, Any]:
    """Return a StackDriftInformation."""
    return {"StackDriftStatus": drift.get("status", "NOT_CHECKED"), "LastCheckTimestamp": drift.get("time")}


def summary_view(manager: StackManager, stack: StackRecord) -> dict[str, Any]:
    """Return a StackSummary."""
    parent = manager.stacks.get(stack.parent)
    root = manager.stacks.get(stack.root)
    return {
        "StackId": arn(stack, manager.region),
        "StackName": stack.name,
        "TemplateDescription": stack.description or None,
        "CreationTime": stack.created,
        "LastUpdatedTime": stack.updated or None,
        "DeletionTime": stack.deleted or None,
        "StackStatus": stack.status,
        "StackStatusReason": manager.reason_of(stack) or None,
        "ParentId": arn(parent, manager.region) if parent else None,
        "RootId": arn(root, manager.region) if root else None,
        "DriftInformation": drift_view(stack.drift),
    }


def resource_view(manager: StackManager, stack: StackRecord, record: ResourceRecord) -> dict[str, Any]:
    """Return a StackResource, its summary and its detail at once: the shape picks what it has."""
    drift = {"StackResourceDriftStatus": record.drift.get("status", "NOT_CHECKED")}
    return {
        "StackName": stack.name,
        "StackId": arn(stack, manager.region),
        "LogicalResourceId": record.name,
        "PhysicalResourceId": record.physical or None,
        "ResourceType": record.type,
        "Timestamp": record.updated,
        "LastUpdatedTimestamp": record.updated,
        "ResourceStatus": record.status,
        "ResourceStatusReason": record.reason or None,
        "Metadata": json.dumps(record.shown_metadata),
        "DriftInformation": drift,
    }


def event_view(manager: StackManager, stack: StackRecord, event: StackEvent) -> dict[str, Any]:
    """Return a StackEvent."""
    return {
        "StackId": arn(stack, manager.region),
        "EventId": event.id,
        "StackName": stack.name,
        "LogicalResourceId": event.name,
        "PhysicalResourceId": event.physical or None,
        "ResourceType": event.type,
        "Timestamp": event.time,
        "ResourceStatus": event.status,
        "ResourceStatusReason": event.reason or None,
        "ClientRequestToken": event.token or None,
    }


def change_set_arn(change_set: ChangeSet, region: str) -> str:
    """Return the ARN of a change set."""
    return f"arn:aws:cloudformation:{region}:{ACCOUNT}:changeSet/{change_set.name}/{change_set.id}"


_ACTIONS = {"create": "Add", "update": "Modify", "metadata": "Modify", "replace": "Modify", "delete": "Remove"}


def change_view(entry: dict[str, Any], *, nested: str | None = None, values: bool = False) -> dict[str, Any]:
    """Return a Change of a change set: with the ARN of that of the resource's nested stack, and with properties before and
    after it where `values` asks for that."""
    action = _ACTIONS.get(entry["action"], "Dynamic")
    change: dict[str, Any] = {
        "Action": action,
        "LogicalResourceId": entry["name"],
        "PhysicalResourceId": entry["physical"] or None,
        "ResourceType": entry["type"],
        "Scope": [],
        "Details": [],
    }
    if action == "Modify":
        certain = entry["action"] == "replace" and not entry["conditional"]
        change["Replacement"] = "True" if certain else "Conditional" if entry["replacing"] else "False"
        change["Scope"] = ["Metadata"] if entry["action"] == "metadata" else ["Properties"]
        change["Details"] = [
            {
                "Target": {
                    "Attribute": "Properties",
                    "Name": name,
                    "RequiresRecreation": "Always" if name in entry["replacing"] else "Never",
                },
                "Evaluation": "Dynamic" if entry["conditional"] else "Static",
                "ChangeSource": "DirectModification",
            }
            for name in entry["changed"]
        ]
        if entry["action"] == "update" and not entry["changed"]:  # what a nested stack is made from
            target = {"Attribute": "Properties", "RequiresRecreation": "Never"}
            change["Details"] = [{"Target": target, "Evaluation": "Dynamic", "ChangeSource": "Automatic"}]
    if nested:
        change["ChangeSetId"] = nested
    if values:
        _put_values(change, entry.get("before"), entry.get("after"))
    return {"Type": "Resource", "ResourceChange": change}


def _put_values(change: dict[str, Any], before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
    for key, properties in (("BeforeContext", before), ("AfterContext", after)):
        if properties is not None:
            change[key] = json.dumps({"Properties": properties})
    for detail in change["Details"]:
        target = detail["Target"]
        name = target.get("Name")
        if name is None:
            continue
        target["Path"] = f"/Properties/{name}"
        kinds = [properties is not None and properties.get(name) is not None for properties in (before, after)]
        target["AttributeChangeType"] = "Modify" if all(kinds) else "Add" if kinds[1] else "Remove"
        for key, properties in (("BeforeValue", before), ("AfterValue", after)):
            if properties is not None and properties.get(name) is not None:
                target[key] = text(properties[name])


def plan_view(change: Change) -> dict[str, Any]:
    """Return a planned change as plain data."""
    beneath = [plan_view(each) for each in change.beneath]
    return {**entry_of(change), "why": change.why, "waits_for": list(change.waits_for), "beneath": beneath}


def parameters_view(template: Template) -> list[dict[str, Any]]:
    """Return ParameterDeclarations (and TemplateParameters: the shape picks)."""
    result = []
    for schema in template.parameters.values():
        allowed = [str(value) for rule in schema.constraints if rule.kind == "allowed_values" for value in rule.values]
        result.append(
            {
                "ParameterKey": schema.name,
                "DefaultValue": None if schema.default is UNSET else text(schema.default),
                "ParameterType": schema.declared_type,
                "NoEcho": schema.hidden,
                "Description": schema.description or None,
                "ParameterConstraints": {"AllowedValues": allowed} if allowed else {},
            }
        )
    return result
