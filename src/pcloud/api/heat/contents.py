"""Handlers of the Heat API that show what a stack holds: template, environment, outputs, events, resources; and signals."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pcloud.api.aws.app import signal_of
from pcloud.api.heat.requests import HeatError, record_of, stack_of
from pcloud.api.heat.views import event_view, resource_view
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import StackRecord


async def template(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET template."""
    stack = stack_of(manager, request)
    source = stack.source or (stack.operation.target if stack.operation else None)
    return JSONResponse(manager.reader.template(source).document.data if source else {})


async def environment(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET environment."""
    source = stack_of(manager, request).source
    if source is None:
        return JSONResponse({})
    return JSONResponse(
        {
            "parameters": manager.reader.masked(source, source.parameters),
            "resource_registry": source.registry,
            "parameter_defaults": manager.reader.masked(source, source.defaults),
        }
    )


async def files(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET files."""
    source = stack_of(manager, request).source
    return JSONResponse(source.files if source else {})


async def outputs(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET outputs."""
    stack = stack_of(manager, request)
    return JSONResponse(
        {
            "outputs": [
                {"output_key": key, "description": item["description"] or "No description given"}
                for key, item in stack.outputs.items()
            ]
        }
    )


async def output(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET one output."""
    stack = stack_of(manager, request)
    name = request.path_params["output"]
    if name not in stack.outputs:
        raise HeatError(404, "NotFound", f"Specified output key {name} not found.")
    item = stack.outputs[name]
    return JSONResponse(
        {
            "output": {
                "output_key": name,
                "output_value": item["value"],
                "description": item["description"] or "No description given",
            }
        }
    )


async def events(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET events of a stack, of one of its resources, or one event."""
    stack = stack_of(manager, request, aside=True)
    found = manager.events(stack)
    name = request.path_params.get("resource")
    if name:
        found = [item for item in found if item.name == name]
    wanted = request.path_params.get("event")
    if wanted:
        for item in found:
            if item.id == wanted:
                return JSONResponse({"event": event_view(request, stack, item)})
        raise HeatError(404, "EntityNotFound", f"The Event ({wanted}) could not be found.")
    marker, limit = request.query_params.get("marker"), request.query_params.get("limit", "")
    if request.query_params.get("sort_dir", "asc") == "desc":
        found = found[::-1]
    if marker:
        ids = [item.id for item in found]
        found = found[ids.index(marker) + 1 :] if marker in ids else found
    if limit.isdigit():
        found = found[: int(limit[:6])]
    return JSONResponse({"events": [event_view(request, stack, item) for item in found]})


async def resources(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET resources, those of nested stacks too when asked for."""
    stack = stack_of(manager, request)
    depth = request.query_params.get("nested_depth", "0")
    rows = _nested_rows(manager, request, stack, int(depth) if depth.isdigit() and len(depth) < 3 else 0)
    return JSONResponse({"resources": rows})


def _nested_rows(manager: StackManager, request: Request, stack: StackRecord, depth: int) -> list[dict[str, Any]]:
    rows = []
    for record in manager.current(stack).values():
        rows.append(resource_view(manager, request, stack, record))
        child = manager.stacks.get(record.id)
        if depth > 0 and child is not None:
            rows.extend(_nested_rows(manager, request, child, depth - 1))
    return rows


async def resource(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET one resource with its attributes."""
    stack, record = record_of(manager, request)
    return JSONResponse({"resource": resource_view(manager, request, stack, record, detail=True)})


async def metadata(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET a resource's metadata."""
    return JSONResponse({"metadata": record_of(manager, request)[1].shown_metadata})


async def mark_resource(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """PATCH a resource: mark it unhealthy, or no longer."""
    stack, record = record_of(manager, request)
    unhealthy = body.get("mark_unhealthy")
    if not isinstance(unhealthy, bool):
        raise HeatError(400, "HTTPBadRequest", "mark_unhealthy must be true or false")
    await manager.mark(stack, record, unhealthy=unhealthy, reason=str(body.get("resource_status_reason") or ""))
    return JSONResponse(None)


async def signal_resource(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST a signal."""
    await manager.signal(record_of(manager, request)[1], signal_of(json.dumps(body).encode()))
    return Response(status_code=200)
