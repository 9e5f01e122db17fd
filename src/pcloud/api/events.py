"""`/v1/events`: the log, and the live stream (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from pcloud.api import schemas
from pcloud.api.access import VIEWER
from pcloud.api.deployables import cpe
from pcloud.api.errors import Json, documented
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.events.broadcast import Closed, TooSlow
from pcloud.events.cloudevents import PREFIX, encode, to_cloudevent
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.model.errors import InvalidDocument, Problem, Unavailable

router = APIRouter(prefix="/v1/events", tags=["events"])
_HEARTBEAT = 10.0
_PAGE = 500
Text = Annotated[str, Query(max_length=127)]
Cursor = Annotated[int | None, Query(ge=0, lt=2**63)]


def _filter(deployable: str, assembly: str, resource: str, kind: str, severity: Severity | None) -> EventFilter:
    return EventFilter(
        deployable=deployable,
        assembly=assembly,
        resource=resource,
        type=kind.removeprefix(PREFIX),
        severity=severity,
    )


@router.get("", dependencies=[VIEWER], response_model=schemas.EventPage, responses=documented())
async def read(
    request: Request,
    after: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    deployable: Text = "",
    assembly: Text = "",
    resource: Text = "",
    type: Text = "",  # noqa: A002 - the contract's word
    severity: Severity | None = None,
    newest: bool = False,
) -> Response:
    """Return events after a cursor, oldest first, and the cursor to go on from; `newest` returns the last ones.

    `type` may end in `*`. `severity` is the least wanted.
    """
    engine = cpe(request)
    where = _filter(deployable, assembly, resource, type, severity)
    found, following = await engine.events(where, after=after or 0, limit=limit, newest=newest)
    return Json({"events": [to_cloudevent(event, engine.host) for event in found], "next": following})


@router.get(
    "/stream",
    dependencies=[VIEWER],
    response_class=StreamingResponse,
    responses={**documented(), 200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
)
async def stream(
    request: Request,
    after: Cursor = None,
    deployable: Text = "",
    assembly: Text = "",
    resource: Text = "",
    type: Text = "",  # noqa: A002 - the contract's word
    severity: Severity | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream events as they happen; `id` is the cursor. Goes on after `Last-Event-ID` or `after`, else from now.

    A reader that does not keep up is cut off after `event: slow`, and goes on where it was by connecting again.
    """
    engine = cpe(request)
    if last_event_id is not None:
        if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
            raise InvalidDocument(
                Problem(code="INVALID_REQUEST", message="Last-Event-ID is not a cursor", path="last-event-id")
            )
        after = int(last_event_id)
    if len(engine.broadcaster) >= engine.settings.api.streams + len(engine.settings.sinks):
        raise Unavailable(
            Problem(code="TOO_MANY_STREAMS", message="too many event streams are open", hint="raise `streams` in [api]")
        )
    start = after if after is not None else await engine.store.log.head()
    where = _filter(deployable, assembly, resource, type, severity)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_follow(engine, where, start), media_type="text/event-stream", headers=headers)


async def _follow(engine: CloudPolicyEngine, where: EventFilter, cursor: int) -> AsyncIterator[bytes]:
    yield f": events after {cursor}\n\n".encode()
    # Subscribed before the log is read, so that nothing falls in between; what comes twice is left out by its number.
    with engine.subscribe(where) as news:
        while True:
            found, following = await engine.events(where, after=cursor, limit=_PAGE)
            for event in found:
                yield _frame(event, engine.host)
            cursor = max(cursor, following)
            if len(found) < _PAGE:
                break
        while True:
            try:
                fresh = await news.next(_HEARTBEAT)
            except TooSlow as error:
                yield f'event: slow\ndata: {{"cursor": {error.cursor}}}\n\n'.encode()
                return
            except Closed:
                yield b"event: end\ndata: {}\n\n"
                return
            if fresh is None:
                yield b": still here\n\n"
            elif fresh.sequence > cursor:
                cursor = fresh.sequence
                yield _frame(fresh, engine.host)


def _frame(event: Event, host: str) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (event.sequence, encode(event, host))
