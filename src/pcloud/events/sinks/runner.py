"""Delivers the log to one sink: in order, at least once, across restarts.

Concurrency: one task a sink. It reads the *log* from its own persistent cursor and uses the live events only as a
wake-up; so a receiver that is away for an hour loses nothing, and no queue grows for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pcloud.events.broadcast import Broadcaster, Closed, TooSlow
from pcloud.events.event import Event
from pcloud.events.filters import EventFilter
from pcloud.events.sinks.base import DeliveryError, Sink

_log = logging.getLogger(__name__)

ReadLog = Callable[[EventFilter, int, int], Awaitable[tuple[list[Event], int]]]
"""(filter, after, limit) → events and the next cursor."""

_BATCH = 100


class SinkRunner:
    """One sink's delivery."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        where: EventFilter,
        *,
        read: ReadLog,
        save: Callable[[int], Awaitable[None]],
        broadcaster: Broadcaster,
        give_up: float = 3600.0,
        first_delay: float = 0.5,
        longest_delay: float = 60.0,
    ) -> None:
        self.name = name
        self._sink = sink
        self._where = where
        self._read = read
        self._save = save
        self._broadcaster = broadcaster
        self._give_up = give_up
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self.delivered = 0
        self.dropped = 0

    async def run(self, cursor: int) -> None:
        """Deliver everything after `cursor`, for ever; ends when the broadcaster closes. Cancel to stop sooner."""
        try:
            while True:
                # Subscribed before reading, so that nothing falls between reading and waiting.
                with self._broadcaster.subscribe(self._where, limit=1) as news:
                    cursor = await self._drain(cursor)
                    try:
                        await news.next()
                    except TooSlow:
                        continue
        except Closed:
            return
        finally:
            await self._sink.close()

    async def _drain(self, cursor: int) -> int:
        while True:
            events, after = await self._read(self._where, cursor, _BATCH)
            for event in events:
                await self._deliver(event)
                await self._save(event.sequence)
            if not events:
                return cursor
            cursor = after

    async def _deliver(self, event: Event) -> None:
        """Deliver one event, trying again with growing pauses until `give_up` seconds have gone by."""
        delay = self._first_delay
        waited = 0.0
        while True:
            try:
                await self._sink.deliver(event)
            except DeliveryError as error:
                if waited >= self._give_up:
                    self.dropped += 1
                    _log.error("sink %s: event %d given up: %s", self.name, event.sequence, error)
                    return
                _log.warning("sink %s: event %d: %s; again in %g s", self.name, event.sequence, error, delay)
                await asyncio.sleep(delay)
                waited += delay
                delay = min(delay * 2, self._longest_delay)
            else:
                self.delivered += 1
                return
