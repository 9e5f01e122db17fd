"""The Heat API (`/v1/{project}/…` on port 8004) with version discovery and a minimal identity catalogue: a Starlette app.

Concurrency: handlers run on the event loop of the stack manager and only await it. Without a token a request from loopback
may do everything when the daemon was told so (`open_loopback`), as `OS_AUTH_TYPE=none` clients expect.
"""

from __future__ import annotations

import datetime
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from pcloud.api.aws.app import MAX_BODY, read_body, signal_of
from pcloud.api.aws.query import QueryError
from pcloud.api.heat_views import event_view, resource_view, source_from, stack_view, template_schema
from pcloud.model.errors import Conflict, NotFound, PcloudError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import ResourceRecord, StackRecord
from pcloud.stacks.types.registry import types

Handler = Callable[[StackManager, Request, dict[str, Any]], Awaitable[Response]]


class HeatError(Exception):
    """An error in Heat's words."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def heat_app(
    manager: StackManager, authenticate: Callable[[str], str | None], *, open_loopback: bool = False
) -> Starlette:
    """Return the application. `authenticate` gives the role of a token or None."""

    def role(request: Request) -> str:
        token = request.headers.get("x-auth-token", "")
        found = authenticate(token) if token else None
        if (
            found is None
            and open_loopback
            and request.client is not None
            and request.client.host in ("127.0.0.1", "::1")
        ):
            found = "admin"
        if found is None:
            raise HeatError(401, "HTTPUnauthorized", "a valid token is needed in X-Auth-Token")
        if (
            found == "viewer"
            and request.method not in ("GET", "HEAD")
            and not request.url.path.endswith(("/validate", "/preview"))
        ):
            raise HeatError(403, "Forbidden", "this token may only look")
        return found

    def guarded(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                role(request)
                body: dict[str, Any] = {}
                if request.method in ("POST", "PUT", "PATCH"):
                    raw = await read_body(request, MAX_BODY)
                    try:
                        body = json.loads(raw) if raw.strip() else {}
                    except (ValueError, RecursionError):
                        raise HeatError(400, "HTTPBadRequest", "the body is not JSON") from None
                    if not isinstance(body, dict):
                        raise HeatError(400, "HTTPBadRequest", "the body must be a JSON object")
                return await handler(manager, request, body)
            except HeatError as problem:
                return _failure(problem.status, problem.kind, str(problem))
            except QueryError as problem:
                return _failure(problem.status, "HTTPBadRequest", str(problem))
            except PcloudError as problem:
                return _translated(problem)

        return endpoint

    async def signal(request: Request) -> Response:
        record = manager.record(request.path_params["record"])
        given = request.query_params.get("proof", "")
        if record is None or not hmac.compare_digest(given.encode(), manager.proof(record.id, "signal").encode()):
            return _failure(403, "Forbidden", "Forbidden")
        try:
            await manager.signal(record, signal_of(await read_body(request, 256 * 1024)))
        except (QueryError, PcloudError) as problem:
            return _failure(getattr(problem, "status", 400), "HTTPBadRequest", str(problem))
        return Response(status_code=200)

    async def versions(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        entry = {"id": "v1.0", "status": "CURRENT", "links": [{"rel": "self", "href": f"{base}/v1/"}]}
        return JSONResponse({"versions": [entry]}, status_code=300)

    async def identity(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        links = [{"rel": "self", "href": f"{base}/identity/v3/"}]
        entry = {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": links,
            "media-types": [],
        }
        if request.url.path.rstrip("/").endswith("/v3"):
            return JSONResponse({"version": entry})
        return JSONResponse({"versions": {"values": [entry]}}, status_code=300)

    async def tokens(request: Request) -> Response:
        try:
            body = json.loads(await read_body(request, 64 * 1024))
            given = body["auth"]["identity"]
            secret = given["password"]["user"]["password"] if "password" in given["methods"] else given["token"]["id"]
        except (ValueError, KeyError, TypeError, QueryError):
            return _failure(400, "BadRequest", "the request is not one of Keystone v3")
        if not isinstance(secret, str) or authenticate(secret) is None:
            return _failure(401, "Unauthorized", "the password must be a token of the native API")
        base = str(request.base_url).rstrip("/")
        now = datetime.datetime.now(datetime.UTC)

        def service(kind: str, url: str) -> dict[str, Any]:
            endpoints = [
                {"id": f"{kind}-{face}", "interface": face, "region": "local", "region_id": "local", "url": url}
                for face in ("public", "internal", "admin")
            ]
            return {"id": kind, "type": kind, "name": kind, "endpoints": endpoints}

        token = {
            "methods": ["password"],
            "user": {"id": "admin", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "admin", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "admin", "name": "admin"}],
            "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "expires_at": (now + datetime.timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "catalog": [service("orchestration", f"{base}/v1/admin"), service("identity", f"{base}/identity/v3")],
        }
        return JSONResponse({"token": token}, status_code=201, headers={"X-Subject-Token": secret})

    one = "/v1/{project}/stacks/{name}/{id}"
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/v1/{project}/stacks", list_stacks),
        ("GET", "/v1/{project}/stacks/detail", list_stacks),
        ("POST", "/v1/{project}/stacks", create),
        ("POST", "/v1/{project}/stacks/preview", preview),
        ("POST", "/v1/{project}/validate", validate),
        ("GET", "/v1/{project}/build_info", build_info),
        ("GET", "/v1/{project}/services", services),
        ("GET", "/v1/{project}/resource_types", resource_types),
        ("GET", "/v1/{project}/resource_types/{type}", resource_type),
        ("GET", "/v1/{project}/template_versions", template_versions),
        ("GET", "/v1/{project}/stacks/{name}/resources", by_name),
        ("GET", "/v1/{project}/stacks/{name}/events", by_name),
        ("GET", "/v1/{project}/stacks/{name}/template", by_name),
        ("GET", "/v1/{project}/stacks/{name}/outputs", by_name),
        ("GET", one, show),
        ("PUT", one, update),
        ("PATCH", one, update),
        ("DELETE", one, delete),
        ("PUT", one + "/preview", preview_update),
        ("PATCH", one + "/preview", preview_update),
        ("POST", one + "/actions", actions),
        ("GET", one + "/template", template),
        ("GET", one + "/environment", environment),
        ("GET", one + "/files", files),
        ("GET", one + "/outputs", outputs),
        ("GET", one + "/outputs/{output}", output),
        ("GET", one + "/events", events),
        ("GET", one + "/resources", resources),
        ("GET", one + "/resources/{resource}", resource),
        ("GET", one + "/resources/{resource}/metadata", metadata),
        ("POST", one + "/resources/{resource}/signal", signal_resource),
        ("GET", one + "/resources/{resource}/events", events),
        ("GET", one + "/resources/{resource}/events/{event}", events),
        ("GET", "/v1/{project}/stacks/{name}", by_name),
        ("PUT", "/v1/{project}/stacks/{name}", by_name),
        ("DELETE", "/v1/{project}/stacks/{name}", by_name),
    ]
    return Starlette(
        routes=[
            Route("/", versions),
            Route("/v1", versions),
            Route("/v1/", versions),
            Route("/identity", identity),
            Route("/identity/v3", identity),
            Route("/identity/v3/", identity),
            Route("/identity/v3/auth/tokens", tokens, methods=["POST"]),
            Route("/v1/signal/{stack}/{stack_id}/{resource}/{record}", signal, methods=["POST", "PUT"]),
            *[Route(path, guarded(handler), methods=[method]) for method, path, handler in table],
        ]
    )


def _failure(status: int, kind: str, message: str) -> Response:
    titles = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}
    body = {
        "code": status,
        "title": titles.get(status, "Error"),
        "explanation": message,
        "error": {"type": kind, "message": message, "traceback": None},
    }
    return JSONResponse(body, status_code=status)


def _translated(problem: PcloudError) -> Response:
    text = "\n".join(f"{item.path}: {item.message}" if item.path else item.message for item in problem.problems)
    if isinstance(problem, NotFound):
        return _failure(404, "EntityNotFound", text)
    if isinstance(problem, Conflict):
        return _failure(409, "StackExists" if problem.code == "ALREADY_EXISTS" else "ActionInProgress", text)
    return _failure(503 if problem.status == 503 else 400, "StackValidationFailed", text)


def _stack(manager: StackManager, request: Request) -> StackRecord:
    stack = manager.get(request.path_params["id"])
    if stack.name != request.path_params["name"]:
        raise HeatError(404, "EntityNotFound", f"The Stack ({request.path_params['name']}) could not be found.")
    return stack


def _record(manager: StackManager, request: Request) -> tuple[StackRecord, ResourceRecord]:
    stack = _stack(manager, request)
    record = manager.current(stack).get(request.path_params["resource"])
    if record is None:
        raise HeatError(
            404,
            "ResourceNotFound",
            f"The Resource ({request.path_params['resource']}) could not be found in Stack {stack.name}.",
        )
    return stack, record


async def list_stacks(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET stacks."""
    query = request.query_params
    nested = query.get("show_nested", "").lower() == "true"
    found = [
        item
        for item in manager.stacks.values()
        if (item.live or query.get("show_deleted", "").lower() == "true") and (nested or not item.parent)
    ]
    for name in ("name", "id"):
        if query.getlist(name):
            found = [item for item in found if getattr(item, name) in query.getlist(name)]
    found.sort(key=lambda item: item.created, reverse=True)
    marker, limit = query.get("marker"), query.get("limit", "")
    if marker:
        ids = [item.id for item in found]
        found = found[ids.index(marker) + 1 :] if marker in ids else []
    if limit.isdigit():
        found = found[: int(limit[:6])]
    answer: dict[str, Any] = {"stacks": [stack_view(manager, request, item, outputs=False) for item in found]}
    if query.get("with_count", "").lower() == "true":
        answer["count"] = len(answer["stacks"])
    return JSONResponse(answer)


async def create(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST stacks."""
    name = body.get("stack_name")
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name[0].isalpha():
        raise HeatError(
            400, "StackValidationFailed", "Invalid stack name: it must start with a letter, of at most 255 characters"
        )
    timeout = body.get("timeout_mins") or 60
    stack = await manager.create(
        name,
        source_from(body, None),
        timeout=timeout if isinstance(timeout, int) else 60,
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
    stack = _stack(manager, request)
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
    return JSONResponse({"stack": stack_view(manager, request, _stack(manager, request), outputs=resolve)})


async def by_name(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """Redirect from a stack's name to its canonical address."""
    stack = manager.get(request.path_params["name"])
    rest = request.url.path.split("/stacks/", 1)[1].split("/", 1)[1:]
    target = f"{str(request.base_url).rstrip('/')}/v1/{request.path_params['project']}/stacks/{stack.name}/{stack.id}"
    target += "/" + rest[0] if rest else ""
    target += "?" + request.url.query if request.url.query else ""
    return RedirectResponse(target, status_code=302 if request.method == "GET" else 308)


async def update(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """PUT (all of it) or PATCH (only what is given)."""
    stack = _stack(manager, request)
    existing = stack.source if request.method == "PATCH" else None
    on_failure = (
        "DO_NOTHING" if body.get("disable_rollback", stack.disable_rollback) in (True, "True", "true") else "ROLLBACK"
    )
    await manager.update(stack, source_from(body, existing, old=stack.source), on_failure=on_failure)
    return Response(status_code=202)


async def delete(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """DELETE stack."""
    await manager.delete(_stack(manager, request))
    return Response(status_code=204)


async def actions(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST actions: check, cancel_update, cancel_without_rollback; suspend and resume are refused."""
    stack = _stack(manager, request)
    if "check" in body:
        await manager.detect_drift(stack)
    elif "cancel_update" in body or "cancel_without_rollback" in body:
        await manager.cancel_update(stack, rollback="cancel_update" in body)
    else:
        raise HeatError(400, "HTTPBadRequest", f"the action {', '.join(body) or 'of no name'} is not offered")
    return JSONResponse(None, status_code=201)


async def template(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET template."""
    stack = _stack(manager, request)
    source = stack.source or (stack.operation.target if stack.operation else None)
    return JSONResponse(manager.reader.template(source).document.data if source else {})


async def environment(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET environment."""
    source = _stack(manager, request).source
    if source is None:
        return JSONResponse({})
    hidden = {name for name, schema in manager.reader.template(source).parameters.items() if schema.hidden}
    shown = {name: "******" if name in hidden else value for name, value in source.parameters.items()}
    return JSONResponse(
        {"parameters": shown, "resource_registry": source.registry, "parameter_defaults": source.defaults}
    )


async def files(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET files."""
    source = _stack(manager, request).source
    return JSONResponse(source.files if source else {})


async def outputs(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET outputs."""
    stack = _stack(manager, request)
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
    stack = _stack(manager, request)
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
    stack = _stack(manager, request)
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
    stack = _stack(manager, request)
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
    stack, record = _record(manager, request)
    return JSONResponse({"resource": resource_view(manager, request, stack, record, detail=True)})


async def metadata(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET a resource's metadata."""
    return JSONResponse({"metadata": _record(manager, request)[1].shown_metadata})


async def signal_resource(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """POST a signal."""
    await manager.signal(_record(manager, request)[1], signal_of(json.dumps(body).encode()))
    return Response(status_code=200)


async def build_info(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET build_info."""
    return JSONResponse({"api": {"revision": "pacemaker-cloud"}, "engine": {"revision": "pacemaker-cloud"}})


async def services(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET services."""
    return JSONResponse(
        {
            "services": [
                {
                    "binary": "pcloud-cped",
                    "host": "local",
                    "status": "up",
                    "topic": "engine",
                    "engine_id": "1",
                    "hostname": "local",
                    "report_interval": 60,
                    "updated_at": None,
                    "created_at": None,
                    "deleted_at": None,
                    "id": "1",
                }
            ]
        }
    )


async def resource_types(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET resource_types."""
    return JSONResponse({"resource_types": sorted(name for name in types() if "::" in name)})


async def resource_type(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET the schema of a type."""
    name = request.path_params["type"]
    kind = types().get(name)
    if kind is None:
        raise HeatError(404, "EntityNotFound", f"The Resource Type ({name}) could not be found.")
    properties = {
        key: {
            "type": rule.type,
            "required": rule.required,
            "update_allowed": rule.on_change == "update",
            "description": rule.description or rule.inert,
        }
        for key, rule in kind.schema.items()
    }
    attributes = {key: {"description": ""} for key in sorted(kind.attributes or ())}
    return JSONResponse(
        {
            "resource_type": name,
            "properties": properties,
            "attributes": attributes,
            "support_status": {"status": "SUPPORTED", "message": None, "version": None, "previous_status": None},
            "description": (kind.__doc__ or "").strip(),
        }
    )


async def template_versions(manager: StackManager, request: Request, body: dict[str, Any]) -> Response:
    """GET template_versions."""
    from pcloud.stacks.hot import VERSIONS

    rows = [{"version": f"heat_template_version.{version}", "type": "hot", "aliases": []} for version in VERSIONS]
    rows += [
        {"version": "AWSTemplateFormatVersion.2010-09-09", "type": "cfn", "aliases": []},
        {"version": "HeatTemplateFormatVersion.2012-12-12", "type": "cfn", "aliases": []},
    ]
    return JSONResponse({"template_versions": rows})
