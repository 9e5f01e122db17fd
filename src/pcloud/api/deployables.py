"""`/v1/deployables`."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import PlainTextResponse, Response

from pcloud.api import schemas
from pcloud.api.access import OPERATOR, VIEWER, Forbidden
from pcloud.api.errors import Json, documented
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.tokens import Role
from pcloud.model.deployable import ResourceState
from pcloud.model.errors import Conflict, InvalidDocument, PcloudError, Problem
from pcloud.stacks.engine.manager import StackManager

router = APIRouter(prefix="/v1/deployables", tags=["deployables"])
Name = Annotated[str, Path(max_length=127)]
_TYPES = {
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
    "application/xml": "xml",
    "text/xml": "xml",
    "application/json": "json",
}


class UnknownType(PcloudError):
    """The document's media type is not known."""

    status = 415


def cpe(request: Request) -> CloudPolicyEngine:
    """Return the engine behind the application."""
    engine: CloudPolicyEngine = request.app.state.engine
    return engine


def _nobodys(request: Request, name: str) -> None:
    """Conflict when a stack owns a deployable: what is changed here it would not know, and change back or miss."""
    manager: StackManager | None = getattr(request.app.state, "stacks", None)
    if manager is not None and (stack := manager.owner_of_deployable(name)):
        raise Conflict(
            Problem(
                code="OF_A_STACK",
                message=f"the deployable {name} belongs to the stack {stack}",
                hint=f"`pcloud stack update {stack}` changes it, `pcloud stack delete {stack}` deletes it",
            )
        )


@router.get("", dependencies=[VIEWER], response_model=list[schemas.Summary], responses=documented())
async def list_deployables(request: Request) -> Response:
    """List all deployables."""
    return Json(cpe(request).summaries())


_DOCUMENTS = {
    "required": True,
    "content": {
        "application/yaml": {"schema": {"type": "string"}},
        "application/xml": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "object"}},
    },
}


@router.post(
    "",
    dependencies=[OPERATOR],
    response_model=schemas.AppliedModel,
    responses=documented(409, 415),
    openapi_extra={"requestBody": _DOCUMENTS},
)
async def apply(
    request: Request,
    start: bool = True,
    file: Annotated[str, Query(max_length=1024)] = "",
    dry_run: bool = False,
    empty: bool = False,
) -> Response:
    """Apply a document: check all of it, store it, bring it about. `empty=true` takes `EmptyDeployable` as JSON instead.

    Nothing is half applied; `dry_run` only tells what would change.
    """
    media = request.headers.get("content-type", "application/yaml").partition(";")[0].strip().lower()
    form = _TYPES.get(media)
    if form is None:
        raise UnknownType(
            Problem(
                code="UNKNOWN_TYPE",
                message=f"`{media[:80]}` is not a kind of document",
                hint=f"known: {', '.join(_TYPES)}",
            )
        )
    body = await request.body()
    if empty:
        new = _empty(body)
        await cpe(request).library.create_deployable(new.name, new.infrastructure, new.username, new.monitor)
        return Json({"name": new.name, "created": True, "changed": []})
    deployable = await cpe(request).read(body, form, file=file)
    _nobodys(request, deployable.name)
    return Json(await cpe(request).put(deployable, start=start, dry_run=dry_run))


class _Empty(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    infrastructure: str = "lxc"
    username: str = ""
    monitor: str = "am"


def _empty(body: bytes) -> _Empty:
    try:
        return msgspec.json.decode(body, type=_Empty)
    except msgspec.MsgspecError as error:
        raise InvalidDocument(Problem(code="INVALID_REQUEST", message=str(error))) from error


@router.get("/{name}", dependencies=[VIEWER], response_model=schemas.Status, responses=documented(404))
async def status(request: Request, name: Name) -> Response:
    """Return the state of a deployable with all that is in it."""
    return Json(await cpe(request).status(name))


@router.get(
    "/{name}/manifest",
    response_class=PlainTextResponse,
    responses={
        **documented(404),
        200: {
            "content": {"application/yaml": {}, "application/xml": {}, "application/json": {}},
            "description": "The document",
        },
    },
)
async def manifest(
    request: Request,
    name: Name,
    format: Literal["yaml", "xml", "json"] = "yaml",  # noqa: A002 - the contract's word
    secrets: bool = False,
    role: Role = VIEWER,
) -> Response:
    """Return the document. Secret parameters are hidden, unless an operator asks for them with `secrets=true`."""
    if secrets and role < Role.OPERATOR:
        raise Forbidden(Problem(code="FORBIDDEN", message="secrets need the role operator"))
    text = await cpe(request).manifest(name, format, redacted=not secrets)
    return Response(text, media_type=f"application/{format}")


@router.delete(
    "/{name}",
    status_code=202,
    dependencies=[OPERATOR],
    response_model=schemas.JobReference,
    responses=documented(404, 409),
)
async def delete(request: Request, name: Name, force: bool = False) -> Response:
    """Stop it in order and remove guests, disks, addresses, keys, then the definition. One that belongs to a stack only with
    `force=true`: its stack goes on to have what is gone."""
    if not force:
        _nobodys(request, name)
    return Json({"job": (await cpe(request).delete(name)).id}, status_code=202)


@router.post(
    "/{name}/recover",
    status_code=202,
    dependencies=[OPERATOR],
    response_model=schemas.Status,
    responses=documented(404, 409),
)
async def recover(request: Request, name: Name, body: Annotated[schemas.RecoverBody | None, Body()] = None) -> Response:
    """Take it, or one assembly or resource of it, up again after it was given up."""
    what = body or schemas.RecoverBody()
    return Json(await cpe(request).recover(name, assembly=what.assembly, resource=what.resource), status_code=202)


@router.get("/{name}/explain", dependencies=[VIEWER], response_model=list[dict[str, object]], responses=documented(404))
async def explain(
    request: Request,
    name: Name,
    assembly: Annotated[str, Query(max_length=127)] = "",
    resource: Annotated[str, Query(max_length=127)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """Return the newest decisions with their reasons, newest first."""
    return Json(await cpe(request).explain(name, assembly=assembly, resource=resource, limit=limit))


@router.get(
    "/{name}/standstill",
    dependencies=[VIEWER],
    response_model=list[schemas.StandstillModel],
    responses=documented(404),
)
async def standstill(
    request: Request,
    name: Name,
    assembly: Annotated[str, Query(max_length=127)] = "",
    resource: Annotated[str, Query(max_length=127)] = "",
) -> Response:
    """Return what is not being done at the moment, and why: paused, stopped, waiting, blocked, away."""
    return Json(await cpe(request).standstill(name, assembly=assembly, resource=resource))


@router.get(
    "/{name}/assemblies",
    dependencies=[VIEWER],
    response_model=list[schemas.AssemblyInDeployable],
    responses=documented(404),
)
async def assemblies(request: Request, name: Name) -> Response:
    """List the assemblies of a deployable."""
    found = await cpe(request).definition(name)
    states = {one.name: one.state for one in (await cpe(request).status(name)).assemblies}
    return Json(
        [
            {
                "name": one.name,
                "image": one.image,
                "arch": one.arch,
                "state": states.get(one.name, ResourceState.UNKNOWN),
                "library": one.name in found.library,
            }
            for one in found.deployable.assemblies
        ]
    )


@router.post(
    "/{name}/assemblies",
    status_code=202,
    dependencies=[OPERATOR],
    response_model=schemas.Status,
    responses=documented(404, 409),
)
async def add_assembly(request: Request, name: Name, body: schemas.AssemblyReference) -> Response:
    """Put a library assembly, by reference, into a deployable; at once when that is started."""
    _nobodys(request, name)
    await cpe(request).library.add_assembly(name, body.assembly)
    return Json(await cpe(request).status(name), status_code=202)


@router.delete(
    "/{name}/assemblies/{assembly}",
    status_code=202,
    dependencies=[OPERATOR],
    response_model=schemas.Status,
    responses=documented(404, 409),
)
async def remove_assembly(request: Request, name: Name, assembly: Name) -> Response:
    """Take an assembly out of a deployable; its guest goes."""
    _nobodys(request, name)
    await cpe(request).library.remove_assembly(name, assembly)
    return Json(await cpe(request).status(name), status_code=202)


@router.post(
    "/{name}/assemblies/{assembly}/exec",
    dependencies=[OPERATOR],
    response_model=schemas.ExecResultModel,
    responses=documented(404, 409),
)
async def execute(request: Request, name: Name, assembly: Name, body: schemas.ExecBody) -> Response:
    """Run a command in a guest, without a shell."""
    try:
        stdin = base64.b64decode(body.stdin, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidDocument(Problem(code="INVALID_REQUEST", message="stdin is not base64", path="stdin")) from error
    if any("\0" in one for one in body.argv):
        raise InvalidDocument(Problem(code="INVALID_REQUEST", message="an argument can not hold NUL", path="argv"))
    result = await cpe(request).execute(name, assembly, body.argv, stdin=stdin, timeout=body.timeout)
    return Json(result)


@router.get(
    "/{name}/assemblies/{assembly}/console",
    dependencies=[OPERATOR],
    response_class=PlainTextResponse,
    responses=documented(404, 409),
)
async def console(request: Request, name: Name, assembly: Name) -> Response:
    """Return the newest part of a guest's console log."""
    return Response(await cpe(request).console(name, assembly), media_type="text/plain; charset=utf-8")


# Last, because its path would also match those above.
@router.post(
    "/{name}/{action}",
    status_code=202,
    dependencies=[OPERATOR],
    response_model=schemas.Status,
    responses=documented(404, 409),
)
async def act(request: Request, name: Name, action: Literal["start", "stop", "reload", "pause", "resume"]) -> Response:
    """Start, stop or reload it; pause recovery, or resume it."""
    engine = cpe(request)
    actions = {
        "start": engine.start_deployable,
        "stop": engine.stop_deployable,
        "reload": engine.reload,
        "pause": engine.pause,
        "resume": engine.resume,
    }
    return Json(await actions[action](name), status_code=202)
