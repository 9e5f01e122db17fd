"""Following the daemon's event log: a stream that survives the daemon's restart.

Owns the cursor. The stream is server-sent events; after any loss it connects again with back-off from the last event
seen, so that nothing is missed or shown twice. Concurrency: one thread iterates; `stop` may be set by another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from threading import Event as Flag

import msgspec

from pcloud.client.errors import BadReply, Unreachable
from pcloud.client.http import Connection, Query
from pcloud.client.records import CloudEvent
from pcloud.model.errors import PcloudError

SILENCE = 60.0
"""Seconds without even a heartbeat after which the connection counts as lost."""
FIRST_DELAY = 0.2
LAST_DELAY = 5.0


def follow(
    connection: Connection,
    *,
    after: str,
    query: Query | None = None,
    stop: Flag | None = None,
    on_lost: Callable[[PcloudError], None] | None = None,
    on_back: Callable[[], None] | None = None,
    silence: float = SILENCE,
    persistent: bool = False,
) -> Iterator[CloudEvent]:
    """Yield events after the cursor `after` as they happen, until `stop` is set.

    `on_lost` is told when the connection breaks (once per outage), `on_back` when it stands again. The first connection
    must succeed unless `persistent`; refusals (a bad token, say) always end the iteration with their error.
    """
    stop = stop or Flag()
    seen = after
    connected_once = persistent
    lost = False
    delay = FIRST_DELAY
    while not stop.is_set():
        try:
            with connection.stream(
                "/v1/events/stream", query={**(query or {}), "after": seen}, silence=silence, last_id=seen
            ) as source:
                if lost and on_back is not None:
                    on_back()
                connected_once, lost, delay = True, False, FIRST_DELAY
                for message in source:
                    if stop.is_set():
                        return
                    if message.event != "message":
                        # `end` and `slow`: the daemon stops, or we did not keep up. The cursor says where to go on.
                        break
                    if not message.data:
                        continue
                    event = _decode(message.data)
                    seen = message.id or event.id
                    yield event
                raise Unreachable.of("CONNECTION_LOST", "the daemon closed the stream of events")
        except Unreachable as error:
            if not connected_once:
                raise
            if not lost and not stop.is_set() and on_lost is not None:
                on_lost(error)
            lost = True
        # Jitter: many watchers of one daemon must not come back in the same moment.
        stop.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
        delay = min(delay * 2, LAST_DELAY)


def _decode(data: str) -> CloudEvent:
    try:
        return msgspec.json.decode(data, type=CloudEvent)
    except msgspec.DecodeError as error:
        raise BadReply.of("BAD_EVENT", f"an event of the stream can not be read: {error}") from None
