"""What the handlers of the Heat API share: how they are called, their errors, what an address names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pcloud.model.errors import Conflict, NotFound, PcloudError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import ResourceRecord, StackRecord

Handler = Callable[[StackManager, Request, dict[str, Any]], Awaitable[Response]]


class HeatError(Exception):
    """An error in Heat's words."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def failure(status: int, kind: str, message: str) -> Response:
    """Return an error answer in Heat's form."""
    titles = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}
    body = {
        "code": status,
        "title": titles.get(status, "Error"),
        "explanation": message,
        "error": {"type": kind, "message": message, "traceback": None},
    }
    return JSONResponse(body, status_code=status)


def translated(problem: PcloudError) -> Response:
    """Return an error of ours in Heat's words."""
    text = "\n".join(f"{item.path}: {item.message}" if item.path else item.message for item in problem.problems)
    if isinstance(problem, NotFound):
        return failure(404, "EntityNotFound", text)
    if isinstance(problem, Conflict):
        return failure(409, "StackExists" if problem.code == "ALREADY_EXISTS" else "ActionInProgress", text)
    return failure(503 if problem.status == 503 else 400, "StackValidationFailed", text)


def stack_of(manager: StackManager, request: Request, *, aside: bool = False) -> StackRecord:
    """Return the stack that an address names by name and id; HeatError when they do not belong together. With `aside` also
    one of which something can not be read."""
    stack = manager.get(request.path_params["id"], aside=aside)
    if stack.name != request.path_params["name"]:
        raise HeatError(404, "EntityNotFound", f"The Stack ({request.path_params['name']}) could not be found.")
    return stack


def record_of(manager: StackManager, request: Request) -> tuple[StackRecord, ResourceRecord]:
    """Return the stack and the resource that an address names."""
    stack = stack_of(manager, request)
    record = manager.current(stack).get(request.path_params["resource"])
    if record is None:
        raise HeatError(
            404,
            "ResourceNotFound",
            f"The Resource ({request.path_params['resource']}) could not be found in Stack {stack.name}.",
        )
    return stack, record
