"""Operations on templates: what they hold, whether they hold."""

from __future__ import annotations

import json

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, source_of_request
from pcloud.api.aws.cloudformation.views import parameters_view, source_of
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.reading import read_template
from pcloud.stacks.records import StackRecord


@OPERATIONS.operation
async def get_template(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetTemplate."""
    if given.get("ChangeSetName"):
        body = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "").source.template
    else:
        source = source_of(find(manager, given.get("StackName") or "", caller))
        body = source.template if source is not None else ""
    return {"TemplateBody": body, "StagesAvailable": ["Original", "Processed"]}


@OPERATIONS.operation
async def get_template_summary(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetTemplateSummary."""
    name = given.get("StackName")
    source = source_of(find(manager, name, caller)) if name else await source_of_request(manager, given)
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


@OPERATIONS.operation
async def validate_template(manager: StackManager, given: Input, caller: Caller) -> Output:
    """ValidateTemplate: everything that can be known without parameters."""
    source = await source_of_request(manager, given)
    template = read_template(source.template)
    subject = StackRecord(id="00000000-0000-0000-0000-000000000000", name="validate", status="REVIEW_IN_PROGRESS")
    manager.validate(subject, source, complete=False)
    return {
        "Parameters": parameters_view(template),
        "Description": template.description or None,
        "Capabilities": [],
        "DeclaredTransforms": list(template.transforms),
    }


@OPERATIONS.operation
async def estimate_template_cost(manager: StackManager, given: Input, caller: Caller) -> Output:
    """EstimateTemplateCost: own guests cost nothing; there is no calculator."""
    await source_of_request(manager, given)
    return {"Url": "about:blank#own-infrastructure-costs-nothing"}
