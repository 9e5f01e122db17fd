"""Handlers of the Heat API that list, make, change and delete stacks."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from pcloud.api.heat.listing import chosen, page, sorted_by
from pcloud.api.heat.requests import HeatError, stack_of
from pcloud.api.heat.views import source_from, stack_view, template_schema
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import StackRecord


async def list_stacks(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET stacks."""
    query = request.query_params
    nested = query.get("show_nested", "").lower() == "true"
    found = [
        item
        for item in manager.stacks.values()
        if (item.live or query.get("show_deleted", "").lower() == "true") and (nested or not item.parent)
    ]
    found = sorted_by(chosen(found, query), query)
    rows = page(found, query)
    answer: dict[str, Any] = {"stacks": [stack_view(manager, request, item, outputs=False) for item in rows]}
    if query.get("with_count", "").lower() == "true":
        answer["count"] = len(found)
    return JSONResponse(answer)


async def create(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST stacks."""
    name = body.get("stack_name")
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name[0].isalpha():
        raise HeatError(
            400, "StackValidationFailed", "Invalid stack name: it must start with a letter, of at most 255 characters"
        )
    if body.get("adopt_stack_data") is not None:
        raise _unsupported("Stack Adopt", "what others made can not be taken over; create the stack from its template")
    stack = await manager.create(
        name,
        source_from(body, None),
        timeout=_minutes(body) or 60,
        on_failure="DO_NOTHING" if body.get("disable_rollback", True) in (True, "True", "true") else "ROLLBACK",
        owner="heat",
    )
    view = stack_view(manager, request, stack)
    return JSONResponse({"stack": {"id": stack.id, "links": view["links"]}}, status_code=201)


async def preview(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST stacks/preview."""
    source = source_from(body, None)
    judged = manager.plan(None, source, str(body.get("stack_name", "preview")))
    rows = [
        {"resource_name": item.name, "resource_type": item.type, "resource_action": "INIT"} for item in judged.changes
    ]
    return JSONResponse({"stack": {"stack_name": body.get("stack_name"), "resources": rows}})


async def preview_update(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """PUT/PATCH stack/preview."""
    stack = stack_of(manager, request)
    judged = manager.plan(stack, source_from(body, stack.source if request.method == "PATCH" else None))
    words = {"create": "added", "update": "updated", "metadata": "updated", "replace": "replaced", "delete": "deleted"}
    changes: dict[str, list[dict[str, Any]]] = {
        key: [] for key in ("added", "updated", "replaced", "deleted", "unchanged")
    }
    for item in judged.changes:
        changes[words.get(item.action, "unchanged")].append({"resource_name": item.name, "resource_type": item.type})
    return JSONResponse({"resource_changes": changes})


async def validate(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST validate."""
    source = source_from(body, None)
    subject = StackRecord(id="00000000-0000-0000-0000-000000000000", name="validate", status="REVIEW_IN_PROGRESS")
    manager.validate(subject, source, complete=False)
    return JSONResponse(template_schema(manager, source))


async def show(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET stack."""
    resolve = request.query_params.get("resolve_outputs", "true").lower() != "false"
    return JSONResponse(
        {"stack": stack_view(manager, request, stack_of(manager, request, aside=True), outputs=resolve)}
    )


async def by_name(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """Redirect from a stack's name to its canonical address."""
    stack = manager.get(request.path_params["name"], aside=True)
    rest = request.url.path.split("/stacks/", 1)[1].split("/", 1)[1:]
    target = f"{str(request.base_url).rstrip('/')}/v1/{request.path_params['project']}/stacks/{stack.name}/{stack.id}"
    target += "/" + rest[0] if rest else ""
    target += "?" + request.url.query if request.url.query else ""
    return RedirectResponse(target, status_code=302 if request.method == "GET" else 308)


async def update(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """PUT (all of it) or PATCH (only what is given)."""
    stack = stack_of(manager, request)
    existing = stack.source if request.method == "PATCH" else None
    if body.get("converge") in (True, "True", "true"):
        why = "run `openstack stack check`, mark what it finds unhealthy, and update"
        raise _unsupported("Stack Update with converge", why)
    on_failure = (
        "DO_NOTHING" if body.get("disable_rollback", stack.disable_rollback) in (True, "True", "true") else "ROLLBACK"
    )
    source = source_from(body, existing, old=stack.source)
    await manager.update(stack, source, timeout=_minutes(body), on_failure=on_failure)
    return Response(status_code=202)


async def delete(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """DELETE stack."""
    await manager.delete(stack_of(manager, request, aside=True))
    return Response(status_code=204)


async def actions(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST actions: suspend, resume, check, cancel_update, cancel_without_rollback."""
    stack = stack_of(manager, request)
    if "suspend" in body:
        await manager.suspend(stack)
    elif "resume" in body:
        await manager.resume(stack)
    elif "check" in body:
        await manager.check(stack)
    elif "cancel_update" in body or "cancel_without_rollback" in body:
        await manager.cancel_update(stack, rollback="cancel_update" in body)
    else:
        raise HeatError(400, "HTTPBadRequest", f"the action {', '.join(body) or 'of no name'} is not offered")
    return JSONResponse(None, status_code=201)


async def snapshots(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET snapshots: there are none."""
    stack_of(manager, request)
    return JSONResponse({"snapshots": []})


async def snapshot(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST snapshots: refused."""
    stack_of(manager, request)
    raise _unsupported(
        "Stack Snapshot",
        "disks of guests that run can not be copied as they are at one moment; deletion_policy Snapshot keeps a volume's",
    )


async def no_snapshot(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """Whatever is asked of one snapshot: it is not there."""
    stack_of(manager, request)
    raise HeatError(404, "NotFound", f"Snapshot with id {request.path_params['snapshot']} not found")


async def abandon(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """DELETE abandon, GET export: refused."""
    stack_of(manager, request)
    raise _unsupported("Stack Abandon", "nobody else could take over its guests; deletion_policy Retain keeps volumes")


def _minutes(body: dict[str, Any]) -> int:
    """Return the minutes that an operation may take; 0 when none are said."""
    given = body.get("timeout_mins")
    text = "0" if given is None else str(given)
    if isinstance(given, bool) or not text.isdecimal() or len(text) > 9:
        raise HeatError(400, "HTTPBadRequest", "timeout_mins must be a whole number")
    return int(text)


def _unsupported(what: str, why: str) -> HeatError:
    return HeatError(400, "NotSupported", f"{what} is not supported: {why}.")
