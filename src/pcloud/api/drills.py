"""`/v1/deployables/{name}/drills`: a real fault on demand, and the reports of those before."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from pcloud.api.access import OPERATOR, VIEWER
from pcloud.api.deployables import Name
from pcloud.api.errors import Json, documented
from pcloud.api.schemas import Body
from pcloud.cpe.drills import Drills
from pcloud.cpe.probing import MOST

router = APIRouter(prefix="/v1/deployables", tags=["deployables"])

_Url = Annotated[str, StringConstraints(max_length=2000)]
_Name = Annotated[str, StringConstraints(max_length=127)]


class DrillBody(Body):
    """What is to be drilled."""

    fault: _Name = "service-killed"
    """`service-killed`, `guest-killed`, `link-cut` or `engine-killed`."""
    assembly: _Name = ""
    """The first one when none is named."""
    resource: _Name = ""
    budget: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds within which all must run again."""
    force: bool = False
    """Also where it is not safe."""
    probes: Annotated[tuple[_Url, ...], Field(max_length=MOST)] = ()
    """Pages that are asked for during the drill, to see what is lost."""


def drills(request: Request) -> Drills:
    """Return the application's drills."""
    found: Drills = request.app.state.drills
    return found


@router.post(
    "/{name}/drills",
    dependencies=[OPERATOR],
    response_model=dict[str, object],
    responses=documented(404, 409, 503),
)
async def drill(request: Request, name: Name, body: DrillBody) -> Response:
    """Do one real fault, wait until all runs again or the budget is used up, and report."""
    report = await drills(request).run(
        name,
        body.fault,
        assembly=body.assembly,
        resource=body.resource,
        budget=body.budget,
        force=body.force,
        probes=body.probes,
    )
    return Json(report)


@router.get("/{name}/drills", dependencies=[VIEWER], response_model=list[dict[str, object]], responses=documented(404))
async def reports(request: Request, name: Name, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> Response:
    """Return the reports of the newest drills, newest first."""
    return Json(await drills(request).reports(name, limit=limit))
