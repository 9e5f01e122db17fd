"""How stacks look through Heat's API, and what its clients send. Pure."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

from starlette.requests import Request

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.scopes import given_values
from pcloud.stacks.heat_environment import mapping, read_environments
from pcloud.stacks.parameters import shown_values
from pcloud.stacks.records import ResourceRecord, Source, StackEvent, StackRecord
from pcloud.stacks.template import UNSET


@functools.lru_cache(maxsize=4096)  # who waits for a stack asks for the same times again and again
def moment(seconds: float) -> str | None:
    """Return a time as Heat writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else None


_ACTIONS = ("CREATE", "UPDATE", "SUSPEND", "RESUME", "CHECK")


def heat_status(status: str) -> tuple[str, str, str]:
    """Return (stack_status, action, status) in Heat's words for one of CloudFormation's."""
    if status.startswith("UPDATE_ROLLBACK"):
        word = (
            "FAILED"
            if status.endswith("FAILED")
            else "COMPLETE"
            if status == "UPDATE_ROLLBACK_COMPLETE"
            else "IN_PROGRESS"
        )
        return f"ROLLBACK_{word}", "ROLLBACK", word
    if status == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS":
        return "UPDATE_IN_PROGRESS", "UPDATE", "IN_PROGRESS"
    action, _, word = status.partition("_")
    return status, action, word


def _refuse(message: str) -> InvalidDocument:
    return InvalidDocument(Problem(code="BAD_REQUEST", message=message))


def source_from(body: dict[str, Any], existing: Source | None, old: Source | None = None) -> Source:
    """Return the source of a create or update request; `existing` fills what a PATCH leaves out."""
    template = body.get("template")
    if template is None and body.get("template_url"):
        raise _refuse("template_url: templates are not fetched from the network; send the template")
    if template is None or template == {}:
        if existing is None:
            raise _refuse("No template specified")
        text = existing.template
    else:
        text = template if isinstance(template, str) else json.dumps(template)
    files = {
        str(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in mapping(body.get("files"), "files").items()
    }
    names = body.get("environment_files")
    sent = [files[name] for name in names if name in files] if isinstance(names, list) else []
    together = sent and len(sent) == len(names or ())  # else the client has put them together already
    environment = read_environments(sent if together else [body.get("environment")])
    parameters = {**environment.parameters, **mapping(body.get("parameters"), "parameters")}
    registry, defaults = environment.registry, environment.defaults
    tags = body.get("tags")
    tag_names = (
        tags.split(",")
        if isinstance(tags, str) and tags
        else [str(tag) for tag in tags]
        if isinstance(tags, list)
        else []
    )
    if existing is not None:
        cleared = set(body.get("clear_parameters") or ())
        kept = {key: value for key, value in existing.parameters.items() if key not in cleared}
        parameters = {**kept, **parameters}
        files = {**existing.files, **files}
        registry = {**existing.registry, **registry}
        defaults = {**existing.defaults, **defaults}
    return Source(
        template=text,
        parameters=parameters,
        files=files,
        registry=registry,
        defaults=defaults,
        tags=dict.fromkeys(tag_names, "") if tags is not None else (existing.tags if existing else {}),
    )


def stack_view(manager: StackManager, request: Request, stack: StackRecord, *, outputs: bool = True) -> dict[str, Any]:
    """Return a stack as Heat shows it."""
    project = request.path_params.get("project", "admin")
    base = f"{str(request.base_url).rstrip('/')}/v1/{project}/stacks/{stack.name}/{stack.id}"
    words, _, _ = heat_status(stack.status)
    source = stack.source or (stack.operation.target if stack.operation else None)
    source = None if stack.id in manager.unreadable else source
    parameters: dict[str, str] = {"OS::stack_name": stack.name, "OS::stack_id": stack.id, "OS::project_id": project}
    capabilities: list[str] = []
    if source is not None:
        template = manager.reader.template(source)
        parameters.update(shown_values(template, given_values(template, source, complete=False)))
    done = {action: f"Stack {action} completed successfully" for action in _ACTIONS}
    view: dict[str, Any] = {
        "id": stack.id,
        "stack_name": stack.name,
        "description": stack.description or "No description",
        "links": [{"href": base, "rel": "self"}],
        "stack_status": words,
        "stack_status_reason": reason
        if (reason := manager.reason_of(stack)) and reason != "User Initiated"
        else done.get(words.removesuffix("_COMPLETE"), f"Stack {words.partition('_')[0]} started"),
        "creation_time": moment(stack.created),
        "updated_time": moment(stack.updated),
        "deletion_time": moment(stack.deleted),
        "stack_owner": "admin",
        "parent": stack.parent or None,
        "stack_user_project_id": project,
        "project": project,
        "tags": list(source.tags) if source and source.tags else None,
        "timeout_mins": stack.timeout or None,
        "disable_rollback": stack.disable_rollback,
        "parameters": parameters,
        "capabilities": capabilities,
        "notification_topics": [],
        "template_description": stack.description or "No description",
    }
    if outputs:
        view["outputs"] = [
            {
                "output_key": name,
                "output_value": item["value"],
                "description": item["description"] or "No description given",
                **({"output_error": item["error"]} if item.get("error") else {}),
            }
            for name, item in stack.outputs.items()
        ]
    return view


def resource_view(
    manager: StackManager, request: Request, stack: StackRecord, record: ResourceRecord, *, detail: bool = False
) -> dict[str, Any]:
    """Return a resource as Heat shows it."""
    project = request.path_params.get("project", "admin")
    base = f"{str(request.base_url).rstrip('/')}/v1/{project}/stacks/{stack.name}/{stack.id}"
    links = [{"href": f"{base}/resources/{record.name}", "rel": "self"}, {"href": base, "rel": "stack"}]
    child = manager.stacks.get(record.id)
    if child is not None:
        links.append(
            {
                "href": f"{str(request.base_url).rstrip('/')}/v1/{project}/stacks/{child.name}/{child.id}",
                "rel": "nested",
            }
        )
    view: dict[str, Any] = {
        "resource_name": record.name,
        "logical_resource_id": record.name,
        "physical_resource_id": record.physical,
        "resource_type": record.type,
        "resource_status": "CHECK_FAILED" if record.data.get("unhealthy") else record.status,
        "resource_status_reason": record.reason or "state changed",
        "creation_time": moment(record.created),
        "updated_time": moment(record.updated),
        "required_by": [other.name for other in manager.current(stack).values() if record.name in other.requires],
        "links": links,
        "description": "",
    }
    if stack.parent:
        view["parent_resource"] = stack.parent_resource
    if detail:
        view["attributes"] = record.attributes
    return view


def event_view(request: Request, stack: StackRecord, event: StackEvent) -> dict[str, Any]:
    """Return an event as Heat shows it."""
    project = request.path_params.get("project", "admin")
    base = f"{str(request.base_url).rstrip('/')}/v1/{project}/stacks/{stack.name}/{stack.id}"
    own = event.type == "AWS::CloudFormation::Stack" and event.name == stack.name
    status = heat_status(event.status)[0] if own else event.status
    return {
        "id": event.id,
        "event_time": moment(event.time),
        "resource_name": event.name,
        "logical_resource_id": event.name,
        "physical_resource_id": stack.id if own else event.physical,
        "resource_status": status,
        "resource_status_reason": event.reason
        or ("Stack " + status.replace("_", " ").lower() if own else "state changed"),
        "resource_type": "OS::Heat::Stack" if own else event.type,
        "links": [
            {"href": f"{base}/resources/{event.name}/events/{event.id}", "rel": "self"},
            {"href": f"{base}/resources/{event.name}", "rel": "resource"},
            {"href": base, "rel": "stack"},
        ],
    }


_TYPES = {
    "string": "String",
    "number": "Number",
    "boolean": "Boolean",
    "list": "CommaDelimitedList",
    "numbers": "CommaDelimitedList",
    "json": "Json",
}


def template_schema(manager: StackManager, source: Source) -> dict[str, Any]:
    """Return what `template validate` tells."""
    template = manager.reader.template(source)
    parameters = {}
    for name, schema in template.parameters.items():
        parameters[name] = {
            "Type": _TYPES[schema.type],
            "NoEcho": str(schema.hidden).lower(),
            "Description": schema.description,
            "Label": schema.label or name,
            **({} if schema.default is UNSET else {"Default": schema.default}),
        }
    return {
        "Description": template.description or "No description",
        "Parameters": parameters,
        "ParameterGroups": list(template.parameter_groups),
        "Environment": {},
    }
