"""`/v1/deployables/{name}/simulate` and `…/replay`: what would happen, and whether it would be decided so again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from pcloud.api.access import OPERATOR, VIEWER
from pcloud.api.deployables import Name
from pcloud.api.errors import Json, documented
from pcloud.api.schemas import Body
from pcloud.cpe.foresight import Foresight, form_of

router = APIRouter(prefix="/v1/deployables", tags=["deployables"])


class SimulateBody(Body):
    """A scenario: faults and changes in order, each from when the former's consequences are over."""

    faults: Annotated[list[Annotated[str, StringConstraints(max_length=1200)]], Field(min_length=1, max_length=50)]
    files: Annotated[dict[str, str], Field(max_length=10, default_factory=dict)]
    """Documents that `apply FILE` names, by that name."""


def foresight(request: Request) -> Foresight:
    """Return the application's foresight."""
    found: Foresight = request.app.state.foresight
    return found


@router.post(
    "/{name}/simulate",
    dependencies=[OPERATOR],
    response_model=dict[str, object],
    responses=documented(404, 503),
)
async def simulate(request: Request, name: Name, body: SimulateBody) -> Response:
    """Tell what faults and changes would do to a running deployable; nothing real is touched."""
    files = {file: (text.encode(), form_of(file, text)) for file, text in body.files.items()}
    return Json(await foresight(request).simulate(name, body.faults, files))


@router.get(
    "/{name}/replay",
    dependencies=[VIEWER],
    response_model=list[dict[str, object]],
    responses=documented(404, 503),
)
async def replay(request: Request, name: Name, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """Decide the newest journalled decisions again and compare, newest first."""
    return Json(await foresight(request).replay(name, limit=limit))
