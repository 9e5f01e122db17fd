"""`/v1/jeos`, `/v1/assemblies`, `/v1/templates`: images and the library that pcloudsh works with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from pcloud.api import schemas
from pcloud.api.access import OPERATOR, VIEWER
from pcloud.api.deployables import cpe
from pcloud.api.errors import Json, documented
from pcloud.cpe.ports import ImportRequest
from pcloud.model.deployable import Assembly, Escalation, Resource
from pcloud.model.errors import InvalidDocument

router = APIRouter(prefix="/v1", tags=["library"])
Name = Annotated[str, Path(max_length=127)]


@router.get("/jeos", dependencies=[VIEWER], response_model=list[schemas.JeosModel], responses=documented())
async def list_jeos(request: Request) -> Response:
    """List the JEOS images that exist or can be built."""
    return Json(await cpe(request).library.jeos())


@router.post(
    "/jeos",
    status_code=202,
    dependencies=[OPERATOR],
    response_model=schemas.JobReference,
    responses=documented(404, 409),
)
async def build_jeos(request: Request, body: schemas.JeosBody) -> Response:
    """Build a JEOS image."""
    return Json({"job": (await cpe(request).library.build_jeos(body.name, body.arch)).id}, status_code=202)


@router.put(
    "/jeos/{name}/{arch}",
    status_code=201,
    dependencies=[OPERATOR],
    response_model=schemas.JeosModel,
    responses=documented(404, 409, 413),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_image(
    request: Request,
    name: Name,
    arch: Name,
    digest: Annotated[str, Query(max_length=200, description="`sha256:…` or `sha512:…` of the file")],
    like: Annotated[str, Query(max_length=127, description="The distribution in it, for resource templates")] = "",
) -> Response:
    """Take over a disk image (qcow2 or raw) made by others, when its digest is right. The body is the file."""
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdigit() and len(announced) < 18 else 0
    wanted = ImportRequest(name=name, arch=arch, digest=digest, like=like, size=size)
    try:
        made = await cpe(request).library.import_image(wanted, request.stream())
    except ClientDisconnect:
        raise InvalidDocument.of("INCOMPLETE", "the file was not sent to its end") from None
    return Json(made, status_code=201)


def is_import(scope: Scope) -> bool:
    """Tell whether a request is the import of an image, whose body may be as large as the disk has room."""
    return bool(scope["method"] == "PUT" and scope["path"].startswith("/v1/jeos/"))


@router.delete("/jeos/{name}/{arch}", status_code=204, dependencies=[OPERATOR], responses=documented(404, 409))
async def delete_jeos(request: Request, name: Name, arch: Name) -> Response:
    """Remove a JEOS image that no assembly uses."""
    await cpe(request).library.delete_jeos(name, arch)
    return Response(status_code=204)


@router.get("/templates", dependencies=[VIEWER], response_model=list[schemas.Template], responses=documented())
async def templates(request: Request) -> Response:
    """List the resource templates."""
    return Json(cpe(request).library.templates())


@router.get("/assemblies", dependencies=[VIEWER], response_model=list[schemas.LibraryAssembly], responses=documented())
async def list_assemblies(request: Request) -> Response:
    """List the library assemblies."""
    library = cpe(request).library
    return Json([_assembly(one, await library.holders(one.name)) for one in await library.assemblies()])


@router.post(
    "/assemblies",
    status_code=201,
    dependencies=[OPERATOR],
    response_model=schemas.LibraryAssembly,
    responses=documented(404, 409),
)
async def create_assembly(request: Request, body: schemas.LibraryBody) -> Response:
    """Make an assembly from a JEOS."""
    return Json(_assembly(await cpe(request).library.create(body.name, body.jeos, body.arch), []), status_code=201)


@router.post(
    "/assemblies/{name}/clone",
    status_code=201,
    dependencies=[OPERATOR],
    response_model=schemas.LibraryAssembly,
    responses=documented(404, 409),
)
async def clone_assembly(request: Request, name: Name, body: schemas.CloneBody) -> Response:
    """Make another assembly like one, with an identity of its own."""
    return Json(_assembly(await cpe(request).library.clone(name, body.to), []), status_code=201)


@router.delete("/assemblies/{name}", status_code=204, dependencies=[OPERATOR], responses=documented(404, 409))
async def delete_assembly(request: Request, name: Name) -> Response:
    """Remove an assembly that no deployable holds."""
    await cpe(request).library.remove(name)
    return Response(status_code=204)


@router.get(
    "/assemblies/{name}/resources",
    dependencies=[VIEWER],
    response_model=list[schemas.LibraryResource],
    responses=documented(404),
)
async def list_resources(request: Request, name: Name) -> Response:
    """List an assembly's resources."""
    return Json([_resource(one) for one in (await cpe(request).library.get(name)).resources])


@router.post(
    "/assemblies/{name}/resources",
    status_code=201,
    dependencies=[OPERATOR],
    response_model=schemas.LibraryResource,
    responses=documented(404, 409),
)
async def add_resource(request: Request, name: Name, body: schemas.ResourceBody) -> Response:
    """Add a resource made from a template."""
    return Json(_resource(await cpe(request).library.add_resource(name, body.name, body.template)), status_code=201)


@router.delete(
    "/assemblies/{name}/resources/{resource}", status_code=204, dependencies=[OPERATOR], responses=documented(404, 409)
)
async def remove_resource(request: Request, name: Name, resource: Name) -> Response:
    """Remove a resource."""
    await cpe(request).library.remove_resource(name, resource)
    return Response(status_code=204)


@router.put("/assemblies/{name}/escalation", status_code=204, dependencies=[OPERATOR], responses=documented(404, 409))
async def set_assembly_escalation(request: Request, name: Name, body: schemas.EscalationBody) -> Response:
    """Set when an assembly's failures escalate."""
    await cpe(request).library.set_escalation(name, Escalation(failures=body.failures, period=body.period))
    return Response(status_code=204)


@router.put(
    "/assemblies/{name}/resources/{resource}/escalation",
    status_code=204,
    dependencies=[OPERATOR],
    responses=documented(404, 409),
)
async def set_resource_escalation(
    request: Request, name: Name, resource: Name, body: schemas.EscalationBody
) -> Response:
    """Set when a resource's failures escalate."""
    escalation = Escalation(failures=body.failures, period=body.period)
    await cpe(request).library.set_escalation(name, escalation, resource=resource)
    return Response(status_code=204)


def _assembly(assembly: Assembly, holders: list[str]) -> dict[str, Any]:
    return {
        "name": assembly.name,
        "jeos": assembly.image,
        "arch": assembly.arch,
        "resources": [_resource(one) for one in assembly.resources],
        "escalation": assembly.escalation,
        "deployables": holders,
    }


def _resource(resource: Resource) -> dict[str, Any]:
    return {
        "name": resource.name,
        "template": resource.template,
        "resource_class": resource.resource_class,
        "type": resource.type,
        "escalation": resource.escalation,
    }
