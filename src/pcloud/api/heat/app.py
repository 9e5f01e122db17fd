"""The Starlette app of the Heat API: its guard and its table of routes."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pcloud.api.aws.app import MAX_BODY, read_body, signal_of
from pcloud.api.aws.query import QueryError
from pcloud.api.heat import catalogue, contents, stacks
from pcloud.api.heat.identity import identity_routes
from pcloud.api.heat.requests import Handler, HeatError, failure, translated
from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.manager import StackManager


def _from_this_host(request: Request) -> bool:
    """Whether a program on this host asks, and not a page in its browser: those send an Origin, or another host's name."""
    return (
        request.client is not None
        and request.client.host in ("127.0.0.1", "::1")
        and "origin" not in request.headers
        and request.url.hostname in ("127.0.0.1", "::1", "localhost")
    )


def heat_app(
    manager: StackManager, authenticate: Callable[[str], str | None], *, open_loopback: bool = False
) -> Starlette:
    """Return the application. `authenticate` gives the role of a token or None."""

    def role(request: Request) -> str:
        token = request.headers.get("x-auth-token", "")
        found = authenticate(token) if token else None
        if found is None and open_loopback and _from_this_host(request):
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
                return failure(problem.status, problem.kind, str(problem))
            except QueryError as problem:
                return failure(problem.status, "HTTPBadRequest", str(problem))
            except PcloudError as problem:
                return translated(problem)

        return endpoint

    async def signal(request: Request) -> Response:
        record = manager.record(request.path_params["record"])
        given = request.query_params.get("proof", "")
        if record is None or not hmac.compare_digest(given.encode(), manager.proof(record.id, "signal").encode()):
            return failure(403, "Forbidden", "Forbidden")
        try:
            await manager.signal(record, signal_of(await read_body(request, 256 * 1024)))
        except (QueryError, PcloudError) as problem:
            return failure(getattr(problem, "status", 400), "HTTPBadRequest", str(problem))
        return Response(status_code=200)

    one = "/v1/{project}/stacks/{name}/{id}"
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/v1/{project}/stacks", stacks.list_stacks),
        ("GET", "/v1/{project}/stacks/detail", stacks.list_stacks),
        ("POST", "/v1/{project}/stacks", stacks.create),
        ("POST", "/v1/{project}/stacks/preview", stacks.preview),
        ("POST", "/v1/{project}/validate", stacks.validate),
        ("GET", "/v1/{project}/build_info", catalogue.build_info),
        ("GET", "/v1/{project}/services", catalogue.services),
        ("GET", "/v1/{project}/resource_types", catalogue.resource_types),
        ("GET", "/v1/{project}/resource_types/{type}", catalogue.resource_type),
        ("GET", "/v1/{project}/resource_types/{type}/template", catalogue.resource_type_template),
        ("GET", "/v1/{project}/template_versions", catalogue.template_versions),
        ("GET", "/v1/{project}/template_versions/{version}/functions", catalogue.template_functions),
        ("GET", "/v1/{project}/stacks/{name}/resources", stacks.by_name),
        ("GET", "/v1/{project}/stacks/{name}/events", stacks.by_name),
        ("GET", "/v1/{project}/stacks/{name}/template", stacks.by_name),
        ("GET", "/v1/{project}/stacks/{name}/outputs", stacks.by_name),
        ("GET", one, stacks.show),
        ("PUT", one, stacks.update),
        ("PATCH", one, stacks.update),
        ("DELETE", one, stacks.delete),
        ("PUT", one + "/preview", stacks.preview_update),
        ("PATCH", one + "/preview", stacks.preview_update),
        ("POST", one + "/actions", stacks.actions),
        ("GET", one + "/snapshots", stacks.snapshots),
        ("POST", one + "/snapshots", stacks.snapshot),
        ("GET", one + "/snapshots/{snapshot}", stacks.no_snapshot),
        ("DELETE", one + "/snapshots/{snapshot}", stacks.no_snapshot),
        ("POST", one + "/snapshots/{snapshot}/restore", stacks.no_snapshot),
        ("DELETE", one + "/abandon", stacks.abandon),
        ("GET", one + "/export", stacks.abandon),
        ("GET", one + "/template", contents.template),
        ("GET", one + "/environment", contents.environment),
        ("GET", one + "/files", contents.files),
        ("GET", one + "/outputs", contents.outputs),
        ("GET", one + "/outputs/{output}", contents.output),
        ("GET", one + "/events", contents.events),
        ("GET", one + "/resources", contents.resources),
        ("GET", one + "/resources/{resource}", contents.resource),
        ("PATCH", one + "/resources/{resource}", contents.mark_resource),
        ("GET", one + "/resources/{resource}/metadata", contents.metadata),
        ("POST", one + "/resources/{resource}/signal", contents.signal_resource),
        ("GET", one + "/resources/{resource}/events", contents.events),
        ("GET", one + "/resources/{resource}/events/{event}", contents.events),
        ("GET", "/v1/{project}/stacks/{name}", stacks.by_name),
        ("POST", "/v1/{project}/stacks/{name}/actions", stacks.by_name),
        ("GET", "/v1/{project}/stacks/{name}/snapshots", stacks.by_name),
        ("POST", "/v1/{project}/stacks/{name}/snapshots", stacks.by_name),
        ("PUT", "/v1/{project}/stacks/{name}", stacks.by_name),
        ("DELETE", "/v1/{project}/stacks/{name}", stacks.by_name),
    ]
    return Starlette(
        routes=[
            *identity_routes(authenticate),
            Route("/v1/signal/{stack}/{stack_id}/{resource}/{record}", signal, methods=["POST", "PUT"]),
            *[Route(path, guarded(handler), methods=[method]) for method, path, handler in table],
        ]
    )
