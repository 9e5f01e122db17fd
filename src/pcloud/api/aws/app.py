"""The endpoint of CloudFormation, CloudWatch and Auto Scaling (`/` and `/v1/`, Query protocol) and the URLs that guests
signal to: a Starlette app. An operation's name says which of the services is meant.

Concurrency: handlers run on the event loop of the stack manager and only await it.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pcloud.api.aws.autoscaling import OPERATIONS as SCALING_OPERATIONS
from pcloud.api.aws.cloudformation import OPERATIONS
from pcloud.api.aws.cloudwatch import OPERATIONS as METRIC_OPERATIONS
from pcloud.api.aws.operations import Caller, Table
from pcloud.api.aws.query import QueryError, error_text, operation, parse, response_json, response_xml
from pcloud.api.aws.sigv4 import check_signature
from pcloud.model.errors import Conflict, NotFound, PcloudError
from pcloud.stacks.engine.manager import StackManager

_log = logging.getLogger(__name__)
_SERVICES: dict[str, Table] = {
    "cloudformation": OPERATIONS,
    "cloudwatch": METRIC_OPERATIONS,
    "autoscaling": SCALING_OPERATIONS,
}
"""Operations by service; no name is in two of them."""
MAX_BODY = 16 * 1024 * 1024
MAX_SIGNAL = 256 * 1024


def cloudformation_app(manager: StackManager, authenticate: Callable[[str], str | None]) -> Starlette:
    """Return the application. `authenticate` gives the role of a native token (`viewer`, `operator`, `admin`) or None."""

    async def query(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        as_json = False
        try:
            body = await read_body(request, MAX_BODY)
            form = dict(parse_qsl(request.url.query, keep_blank_values=True))
            form.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            as_json = form.get("ContentType", "").upper() == "JSON"
            caller = _caller(manager, authenticate, request, body)
            form = {
                key: value
                for key, value in form.items()
                if not key.startswith(("AWSAccessKeyId", "Signature", "Timestamp"))
            }
            name = form.get("Action", "")
            if not name:
                raise QueryError("MissingAction", "The request has no Action")
            of, handler = next(
                ((of, known[name]) for of, known in _SERVICES.items() if name in known), ("cloudformation", None)
            )
            model = operation(name, of)
            if handler is None:
                raise QueryError("InvalidAction", f"The operation {name} is not offered here")
            caller.allow(name)
            output = await handler(manager, parse(model, form), caller)
        except QueryError as problem:
            return _answer(error_text(problem, request_id, as_json=as_json), as_json, problem.status)
        except PcloudError as problem:
            return _answer(
                error_text(translate(problem), request_id, as_json=as_json), as_json, translate(problem).status
            )
        text = response_json(model, output, request_id) if as_json else response_xml(model, output, request_id)
        return _answer(text, as_json, 200)

    async def signal(request: Request) -> Response:
        record = manager.record(request.path_params["record"])
        purpose = request.path_params["purpose"]
        given = request.query_params.get("proof", "")
        import hmac

        if record is None or not hmac.compare_digest(given.encode(), manager.proof(record.id, purpose).encode()):
            return PlainTextResponse("Forbidden", 403)
        try:
            body = await read_body(request, MAX_SIGNAL)
            await manager.signal(record, signal_of(body))
        except QueryError as problem:
            return PlainTextResponse(str(problem), problem.status)
        except PcloudError as problem:
            return PlainTextResponse(str(problem), problem.status)
        return PlainTextResponse("", 200)

    where = "/v1/{purpose:str}/{stack:str}/{stack_id:str}/{resource:str}/{record:str}"
    return Starlette(
        routes=[
            Route("/", query, methods=["GET", "POST"]),
            Route("/v1", query, methods=["GET", "POST"]),
            Route("/v1/", query, methods=["GET", "POST"]),
            Route(where, signal, methods=["PUT", "POST"]),
        ]
    )


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body; QueryError when it is over the limit."""
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise QueryError("ValidationError", f"the request is larger than {limit} bytes", 413)
        parts.append(chunk)
    return b"".join(parts)


def _answer(text: str, as_json: bool, status: int) -> Response:
    return Response(text, status, media_type="application/json" if as_json else "text/xml")


def _caller(manager: StackManager, authenticate: Callable[[str], str | None], request: Request, body: bytes) -> Caller:
    token = request.headers.get("x-auth-token", "")
    if token:
        role = authenticate(token)
        if role is None:
            raise QueryError("InvalidClientTokenId", "The token is not known", 403)
        return Caller(user="token", role=role)
    if "authorization" not in request.headers:
        raise QueryError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)

    def secret_of(key: str) -> str | None:
        known = manager.keys.get(key)
        return known.secret if known is not None and known.active else None

    headers = {name.lower(): value for name, value in request.headers.items()}
    # The path and the query as they came, for both are signed as sent.
    raw_path = request.scope.get("raw_path") or request.url.path.encode()
    query = request.scope.get("query_string", b"")
    url = f"http://{headers.get('host', 'localhost')}{raw_path.decode('latin-1')}"
    if query:
        url += "?" + query.decode("latin-1")
    key = check_signature(
        method=request.method, url=url, headers=headers, body=body, secret_of=secret_of, now=manager.now()
    )
    known = manager.keys[key]
    return Caller(user=known.user, role="operator", stack=known.stack)


def translate(problem: PcloudError) -> QueryError:
    """Return an error of ours in CloudFormation's words."""
    text = "; ".join(f"{item.path}: {item.message}" if item.path else item.message for item in problem.problems)
    codes = {
        "ALREADY_EXISTS": "AlreadyExistsException",
        "NO_SUCH_CHANGE_SET": "ChangeSetNotFound",
        "OBSOLETE": "InvalidChangeSetStatus",
    }
    status = 404 if problem.code == "NO_SUCH_CHANGE_SET" else 503 if problem.status == 503 else 400
    code = codes.get(problem.code, "ServiceUnavailable" if status == 503 else "ValidationError")
    if isinstance(problem, Conflict | NotFound):
        return QueryError(code, text, status)
    prefix = "Template error: " if problem.status == 422 else ""
    return QueryError(code, prefix + text, status)


def signal_of(body: bytes) -> dict[str, Any]:
    """Return a signal of either form: cfn-signal's `Status, Reason, UniqueId, Data` or Heat's `status, reason, id, data`."""
    try:
        given = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise QueryError("ValidationError", "the signal is not JSON") from None
    if not isinstance(given, dict):
        raise QueryError("ValidationError", "the signal is not a map")
    lower = {str(key).lower(): value for key, value in given.items()}
    data = lower.get("data", "")
    extra = {key: value for key, value in lower.items() if key not in ("status", "reason", "uniqueid", "id", "data")}
    return {
        "status": str(lower.get("status", "SUCCESS")).upper(),
        "reason": str(lower.get("reason", "")),
        "id": str(lower.get("uniqueid", lower.get("id", "")) or ""),
        "data": data if isinstance(data, str) else json.dumps(data),
        "details": extra,
    }
