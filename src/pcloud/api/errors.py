"""Every refusal in one shape: `{"errors": [problem, …]}`, all problems at once; no user input ever yields a 500."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pcloud.api.schemas import Errors
from pcloud.model.errors import PcloudError, Problem

_log = logging.getLogger(__name__)
_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 400: "BAD_REQUEST", 413: "TOO_LARGE"}


def refusal(status: int, problems: Sequence[Problem], headers: dict[str, str] | None = None) -> Response:
    """Return the response for problems."""
    return Json({"errors": problems}, status_code=status, headers=headers)


class Json(Response):
    """JSON from our structs, by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode."""
        return msgspec.json.encode(content)


def install(app: FastAPI) -> None:
    """Put the handlers into the application."""

    @app.exception_handler(PcloudError)
    async def ours(request: Request, error: PcloudError) -> Response:
        return refusal(error.status, error.problems)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        problems = [
            Problem(
                code="INVALID_REQUEST",
                message=str(one.get("msg", "not valid")),
                path=".".join(str(part) for part in one.get("loc", ()) if part not in ("body", "query", "path")),
            )
            for one in error.errors()
        ]
        return refusal(422, problems)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        problem = Problem(code=_CODES.get(error.status_code, "REFUSED"), message=str(error.detail))
        return refusal(error.status_code, [problem], dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        # Logged by the server with its trace; the answer must not tell what is inside.
        return refusal(500, [Problem(code="INTERNAL_ERROR", message="the daemon made a mistake; its log says more")])


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's `responses` for refusals with these statuses, beyond those that every call may yield."""
    texts = {
        400: "The request can not be understood",
        401: "No valid token",
        403: "The token's role does not allow this",
        404: "There is no such thing",
        409: "Its state does not allow this",
        413: "The request is too large",
        415: "This kind of document is not known",
        421: "The Host header is not ours",
        422: "Not valid; every problem is listed",
        503: "Something this needs does not answer",
        507: "No room left on the daemon's disk",
    }
    return {
        status: {"model": Errors, "description": texts[status]}
        for status in sorted({400, 401, 403, 413, 421, 422, 503, 507, *statuses})
    }
