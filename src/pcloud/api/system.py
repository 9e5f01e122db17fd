"""Everything about the daemon itself: version, health, metrics, jobs, tokens, statistics, doctor, shutdown."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import PlainTextResponse, Response

from pcloud.api import schemas
from pcloud.api.access import ADMIN, OPERATOR, VIEWER
from pcloud.api.deployables import cpe
from pcloud.api.errors import Json, documented
from pcloud.cpe.processes import memory
from pcloud.cpe.version import version as installed_version
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.model.errors import Problem, Unavailable
from pcloud.objects.checks import checks
from pcloud.store.rows import Job

router = APIRouter(tags=["system"])
Name = Annotated[str, Path(max_length=127)]


@router.get("/healthz", response_class=PlainTextResponse, responses={503: documented()[503]})
async def healthz(request: Request) -> Response:
    """Tell that the daemon works; 503 while the store can not be written."""
    failing = cpe(request).ingest.failing
    if failing:
        raise Unavailable(
            Problem(code="STORE_FAILS", message="the store can not be written; management goes on without a record")
        )
    return PlainTextResponse("ok\n")


@router.get("/metrics", dependencies=[VIEWER], response_class=PlainTextResponse, responses=documented())
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text form."""
    text, kind = request.app.state.metrics.render()
    return Response(text, media_type=kind)


@router.get("/v1/version", dependencies=[VIEWER], response_model=schemas.Version, responses=documented())
async def version(request: Request) -> Response:
    """Return the daemon's version."""
    return Json({"version": installed_version(), "api": "v1", "host": cpe(request).host})


@router.get("/v1/jobs", dependencies=[VIEWER], response_model=list[schemas.JobModel], responses=documented())
async def jobs(request: Request) -> Response:
    """List the newest jobs, newest first."""
    return Json([_job(job) for job in await cpe(request).jobs.list()])


@router.get("/v1/jobs/{job}", dependencies=[VIEWER], response_model=schemas.JobModel, responses=documented(404))
async def job(request: Request, job: Name) -> Response:
    """Return a job."""
    return Json(_job(await cpe(request).jobs.get(job)))


@router.delete(
    "/v1/jobs/{job}", dependencies=[OPERATOR], response_model=schemas.JobModel, responses=documented(404, 409)
)
async def cancel(request: Request, job: Name) -> Response:
    """Cancel a running job."""
    return Json(_job(await cpe(request).jobs.cancel(job)))


def _job(job: Job) -> dict[str, Any]:
    names = ("id", "kind", "subject", "state", "progress", "message", "errors", "created", "updated")
    return {name: getattr(job, name) for name in names}


@router.get("/v1/tokens", dependencies=[ADMIN], response_model=list[schemas.TokenModel], responses=documented())
async def tokens(request: Request) -> Response:
    """List the tokens, without their secrets."""
    found = request.app.state.tokens.list()
    return Json([{"name": one.name, "role": one.role, "created": one.created} for one in found])


@router.post(
    "/v1/tokens", status_code=201, dependencies=[ADMIN], response_model=schemas.TokenModel, responses=documented(409)
)
async def create_token(request: Request, body: schemas.TokenBody) -> Response:
    """Make a token. This answer is the only one that ever shows it."""
    token, secret = await request.app.state.tokens.create(body.name, body.role)
    content = {"name": token.name, "role": token.role, "created": token.created, "token": secret}
    return Json(content, status_code=201)


@router.delete("/v1/tokens/{name}", status_code=204, dependencies=[ADMIN], responses=documented(404, 409))
async def delete_token(request: Request, name: Name) -> Response:
    """Make a token invalid at once."""
    await request.app.state.tokens.remove(name)
    return Response(status_code=204)


@router.get("/v1/infrastructures", dependencies=[VIEWER], response_model=list[dict[str, Any]], responses=documented())
async def infrastructures(request: Request) -> Response:
    """List the infrastructures that are configured or used: what they can do, the numbers of their deployables."""
    engine = cpe(request)
    used = Counter(row.infrastructure for row in engine.desired.rows.values())
    names = sorted({"lxc", *used, *engine.settings.infrastructures})
    configured = engine.settings.infrastructures
    return Json(
        [
            {
                "name": name,
                "configured": name in configured,
                "deployables": used[name],
                "capabilities": sorted(CAPABILITIES.get(name, ())),
            }
            for name in names
        ]
    )


@router.get("/v1/statistics", dependencies=[VIEWER], response_model=dict[str, Any], responses=documented())
async def statistics(request: Request) -> Response:
    """Return numbers: deployables and assemblies by state, engine processes and what they count."""
    engine = cpe(request)
    deployables, assemblies = request.app.state.metrics.by_state()
    engines = [
        {
            "slot": slot.name,
            "pid": slot.pid,
            "connected": slot.link is not None,
            "restarts": slot.restarts,
            "deployables": len(slot.link.loaded) if slot.link is not None else 0,
            "memory": await asyncio.to_thread(memory, slot.pid) if slot.pid else 0,
            "counters": slot.link.counters if slot.link is not None else {},
        }
        for slot in list(engine.fleet.slots.values())
    ]
    return Json(
        {
            "deployables": len(engine.desired.rows),
            "assemblies": sum(row.assemblies for row in engine.desired.rows.values()),
            "deployables_by_state": deployables,
            "assemblies_by_state": assemblies,
            "events": await engine.store.log.head(),
            "started": engine.started,
            "engines": engines,
        }
    )


@router.get("/v1/doctor", dependencies=[VIEWER], response_model=list[schemas.CheckModel], responses=documented())
async def doctor(request: Request) -> Response:
    """Tell what this machine can and can not do, and how to mend it."""
    from pcloud.cpe.doctor import doctor as examine
    from pcloud.cpe.doctor import lease_check

    engine = cpe(request)
    found = await asyncio.to_thread(examine, engine.home.path, engine.settings.infrastructures)
    manager = getattr(request.app.state, "stacks", None)
    objects = await checks(manager.platform.objects) if manager is not None else []
    return Json([*found, *lease_check(engine.grant, engine.settings.store.lease), *objects])


@router.post(
    "/v1/shutdown", status_code=202, dependencies=[ADMIN], response_model=dict[str, Any], responses=documented()
)
async def shutdown(request: Request, body: schemas.ShutdownBody) -> Response:
    """Stop the daemon; `engines` the engine processes too; `guests` every deployable first. Guests go on otherwise."""
    request.app.state.shutdown(body.engines or body.guests, body.guests)
    return Json({"engines": body.engines or body.guests, "guests": body.guests}, status_code=202)
