"""Operations on what belongs to no single stack: exports, limits, types."""

from __future__ import annotations

import json

from pcloud.api.aws.cloudformation.requests import OPERATIONS
from pcloud.api.aws.cloudformation.views import page
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.reading import MAX_OUTPUTS, MAX_PARAMETERS, MAX_RESOURCES
from pcloud.stacks.schema import OnChange
from pcloud.stacks.types.base import ResourceType
from pcloud.stacks.types.registry import types

_VERSION = "00000001"
"""The only version of a type."""


@OPERATIONS.operation
async def list_exports(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListExports."""
    rows = [
        {"ExportingStackId": arn(manager.stacks[owner], manager.region), "Name": name, "Value": value}
        for name, (owner, value) in sorted(manager.exporters().items())
    ]
    items, token = page(rows, given.get("NextToken"))
    return {"Exports": items, "NextToken": token}


@OPERATIONS.operation
async def list_imports(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListImports."""
    name = given["ExportName"]
    users = manager.imports_of(name)
    if not users:
        raise QueryError("ValidationError", f"Export '{name}' is not imported by any stack.")
    items, token = page(users, given.get("NextToken"))
    return {"Imports": items, "NextToken": token}


@OPERATIONS.operation
async def describe_account_limits(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeAccountLimits."""
    limits = {
        "StackLimit": 1_000_000,
        "StackOutputsLimit": MAX_OUTPUTS,
        "ResourceLimit": MAX_RESOURCES,
        "ParameterLimit": MAX_PARAMETERS,
    }
    items, token = page([{"Name": name, "Value": value} for name, value in limits.items()], given.get("NextToken"))
    return {"AccountLimits": items, "NextToken": token}


@OPERATIONS.operation
async def list_types(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ListTypes: the resource types that do their job here. All are public, in use, and nobody else's."""
    filters = given.get("Filters") or {}
    others = (
        given.get("Type") not in (None, "RESOURCE")
        or given.get("Visibility") == "PRIVATE"
        or given.get("DeprecatedStatus") == "DEPRECATED"
        or bool(filters.get("PublisherId"))
    )
    rows = [
        {"Type": "RESOURCE", "TypeName": name, "TypeArn": _type_arn(manager, name), "DefaultVersionId": _VERSION}
        for name, kind in sorted(types().items())
        if "::" in name
        and not others
        and given.get("ProvisioningType") in (None, _provisioning(kind))
        and filters.get("Category") in (None, "AWS_TYPES" if name.startswith("AWS::") else "REGISTERED")
        and name.startswith(filters.get("TypeNamePrefix") or "")
    ]
    items, token = page(rows, given.get("NextToken"), given.get("MaxResults"))
    return {"TypeSummaries": items, "NextToken": token}


@OPERATIONS.operation
async def describe_type(manager: StackManager, given: Input, caller: Caller) -> Output:
    """DescribeType: there is one version of each, and nobody else publishes any."""
    name = given.get("TypeName") or (given.get("Arn") or "").rsplit("/", 1)[-1].replace("-", "::")
    kind = types().get(name)
    others = given.get("Type") not in (None, "RESOURCE") or given.get("PublisherId") or given.get("PublicVersionNumber")
    if kind is None or "::" not in name or others or given.get("VersionId") not in (None, _VERSION):
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
        "Arn": _type_arn(manager, name),
        "Type": "RESOURCE",
        "TypeName": name,
        "DefaultVersionId": _VERSION,
        "IsDefaultVersion": True,
        "Description": schema["description"],
        "Schema": json.dumps(schema),
        "ProvisioningType": _provisioning(kind),
        "DeprecatedStatus": "LIVE",
        "Visibility": "PUBLIC",
    }


def _type_arn(manager: StackManager, name: str) -> str:
    return f"arn:aws:cloudformation:{manager.region}::type/resource/{name.replace('::', '-')}"


def _provisioning(kind: ResourceType) -> str:
    """Return whether any property can be changed in place, in CloudFormation's words."""
    changes = kind.nested or any(rule.on_change is OnChange.UPDATE for rule in kind.schema.values())
    return "FULLY_MUTABLE" if changes else "IMMUTABLE"
