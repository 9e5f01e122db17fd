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
from pcloud.stacks.types.registry import types


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
    return {"AccountLimits": [{"Name": name, "Value": value} for name, value in limits.items()]}


@OPERATIONS.operation
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


@OPERATIONS.operation
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
