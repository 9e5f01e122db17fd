"""Operations on templates: what they hold, whether they hold."""

from __future__ import annotations

import json

from pcloud.api.aws.cloudformation.requests import OPERATIONS, find, source_of_request
from pcloud.api.aws.cloudformation.views import parameters_view, source_of
from pcloud.api.aws.operations import Caller, Input, Output
from pcloud.api.aws.query import QueryError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.reading import read_template
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.types.registry import find_type


@OPERATIONS.operation
async def get_template(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetTemplate."""
    if given.get("ChangeSetName"):
        change_set = manager.find_change_set(given["ChangeSetName"], given.get("StackName") or "")
        if change_set.root:
            raise QueryError("ValidationError", "the template of a nested stack is what its resource names")
        source: Source | None = change_set.source
    else:
        source = source_of(find(manager, given.get("StackName") or "", caller))
    body = source.template if source is not None else ""
    transformed = source is not None and manager.reader.template(source).transforms
    stages = ["Original"] if transformed else ["Original", "Processed"]
    wanted = given.get("TemplateStage") or "Original"
    if wanted not in stages:
        raise QueryError(
            "ValidationError", f"TemplateStage {wanted} is refused: transforms are carried out as values are needed"
        )
    return {"TemplateBody": body, "StagesAvailable": stages}


@OPERATIONS.operation
async def get_template_summary(manager: StackManager, given: Input, caller: Caller) -> Output:
    """GetTemplateSummary."""
    name = given.get("StackName")
    source = source_of(find(manager, name, caller)) if name else await source_of_request(manager, given)
    if source is None:
        raise QueryError("ValidationError", "the stack has no template")
    template = read_template(source.template)
    kinds = sorted({definition.type for definition in template.resources.values()})
    unknown = [kind for kind in kinds if find_type(kind, source.registry, source.files)[0] is None]
    tolerant = (given.get("TemplateSummaryConfig") or {}).get("TreatUnrecognizedResourceTypesAsWarnings")
    if unknown and not tolerant:
        raise QueryError(
            "ValidationError", f"Template format error: Unrecognized resource types: [{', '.join(unknown)}]"
        )
    return {
        "Parameters": parameters_view(template),
        "Description": template.description or None,
        "ResourceTypes": kinds,
        "Version": template.version,
        "Metadata": json.dumps(template.metadata) if template.metadata else None,
        "DeclaredTransforms": list(template.transforms),
        "Capabilities": [],
        "Warnings": {"UnrecognizedResourceTypes": unknown} if unknown else None,
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
