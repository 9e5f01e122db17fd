"""Takes records in, commits them in batches, tells who listens, acknowledges.

Concurrency: one task commits; while one batch is being committed the next one gathers, so batches grow with the load
and a lone record waits for nothing. While the store can not be written (a full disk) records of engine processes stay
with *them*: what does not fit in the queue is left out here, and the engine's connection is closed once the store works
again, whereupon the engine sends everything unacknowledged anew.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from typing import Protocol

from pcloud.events.broadcast import Broadcaster
from pcloud.events.event import Event
from pcloud.model.errors import PcloudError
from pcloud.store.errors import StoreRefused
from pcloud.store.log import Log
from pcloud.store.rows import Entry

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where records come from."""

    def acknowledge(self, sequence: int) -> None:
        """Records up to `sequence` are committed."""
        ...

    def resend(self) -> None:
        """Records were left out: have everything unacknowledged sent anew."""
        ...


class Ingest:
    """The way into the log."""

    def __init__(self, log: Log, broadcaster: Broadcaster, *, limit: int = 5000, batch: int = 1000) -> None:
        self._store = log
        self._broadcaster = broadcaster
        self._limit = limit
        self._batch = batch
        self._queue: deque[tuple[Entry, Source | None]] = deque()
        self._busy = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._left_out: set[Source] = set()
        """Whose records were left out since the store fails."""
        self._gaps: weakref.WeakSet[Source] = weakref.WeakSet()
        """Connections with a gap. What is still read from one after it was told to send anew must not be taken: it lies
        beyond the gap, and would be acknowledged."""
        self.failing = ""
        """Why the store can not be written at present; empty when it can."""
        self.committed = 0
        self.refused = 0

    def emit(self, event: Event) -> None:
        """Record an event of the daemon's own. Never blocks; dropped (and said so) only when the store fails for long."""
        if len(self._queue) >= 4 * self._limit:
            _log.error("event lost, the store can not be written: %s %s", event.type, event.reason)
            return
        self._add(Entry(event=event), None)

    def record(self, entry: Entry) -> None:
        """Take a record of the daemon's own that is no event."""
        self._add(entry, None)

    async def put(self, entry: Entry, source: Source) -> None:
        """Take a record of an engine process; waits while the queue is full, leaves it out while the store fails."""
        while len(self._queue) >= self._limit:
            if self.failing:
                self._left_out.add(source)
                self._gaps.add(source)
                return
            self._room.clear()
            await self._room.wait()
        if source in self._gaps:
            return  # after a gap nothing may be acknowledged beyond it
        self._add(entry, source)

    async def put_patiently(self, entry: Entry) -> None:
        """Take a record that nobody will send again; waits for room however long the store fails."""
        while len(self._queue) >= self._limit:
            self._room.clear()
            await self._room.wait()
        self._add(entry, None)

    def _add(self, entry: Entry, source: Source | None) -> None:
        self._queue.append((entry, source))
        self._idle.clear()
        self._wake.set()

    async def flush(self) -> None:
        """Wait until everything taken so far is committed."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit for ever."""
        while True:
            while not self._queue:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch))]
            await self._commit(taken)
            self._room.set()

    async def _commit(self, taken: list[tuple[Entry, Source | None]]) -> None:
        """Commit a batch, however long it takes; a record that the store refuses for itself is left out and logged."""
        delay = 0.1
        while True:
            try:
                events = await self._store.commit([entry for entry, _ in taken])
            except StoreRefused as error:
                if len(taken) == 1:
                    self.refused += 1
                    _log.error("a record of %s was refused: %s", taken[0][0].deployable or "the daemon", error)
                    self._acknowledge(taken)
                    return
                for one in taken:
                    await self._commit([one])
                return
            except PcloudError as error:
                if not self.failing:
                    _log.error("records wait: %s", error)
                self.failing = str(error)
                self._room.set()  # whoever waits for room looks again: it may leave records out now
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            else:
                break
        if self.failing:
            _log.warning("the store works again")
            self.failing = ""
            for source in self._left_out:
                source.resend()
            self._left_out.clear()
        self.committed += len(taken)
        self._broadcaster.publish(events)
        self._acknowledge(taken)

    def _acknowledge(self, taken: list[tuple[Entry, Source | None]]) -> None:
        newest: dict[Source, int] = {}
        for entry, source in taken:
            if source is not None:
                newest[source] = entry.sequence
        for source, sequence in newest.items():
            source.acknowledge(sequence)
