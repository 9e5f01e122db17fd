"""Live events for whoever listens now.

Concurrency: `publish` is called in the loop and never waits. Each subscriber has a bounded queue; one that does not keep
up is cut off with the cursor from which it can read on in the log, so that a slow reader costs nothing but itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from pcloud.events.event import Event
from pcloud.events.filters import EventFilter


class TooSlow(Exception):
    """The subscriber did not keep up and was cut off; `cursor` is the last sequence it was given."""

    def __init__(self, cursor: int) -> None:
        super().__init__(f"too slow; go on after event {cursor}")
        self.cursor = cursor


class Closed(Exception):
    """The broadcaster ended."""


class Subscription:
    """One listener's queue; a context manager."""

    def __init__(self, owner: Broadcaster, where: EventFilter, limit: int) -> None:
        self._owner = owner
        self._where = where
        self._limit = limit
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._overrun = False
        self._closed = False
        self._cursor = 0

    def __enter__(self) -> Subscription:
        self._owner._subscriptions.add(self)
        self._closed = self._owner.closed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner._subscriptions.discard(self)

    async def next(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None when none came within `timeout` seconds.

        TooSlow once the queue overran (after what was queued before is given out), Closed when the daemon ends.
        """
        while not self._queue:
            if self._overrun:
                raise TooSlow(self._cursor)
            if self._closed:
                raise Closed
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return None
        event = self._queue.popleft()
        self._cursor = event.sequence
        return event

    def offer(self, event: Event) -> None:
        """Queue an event when it is wanted and there is room."""
        if self._overrun or not self._where.matches(event):
            return
        if len(self._queue) >= self._limit:
            self._overrun = True
            self._owner._subscriptions.discard(self)
        else:
            self._queue.append(event)
        self._wake.set()

    def close(self) -> None:
        """End it from the owner's side."""
        self._closed = True
        self._wake.set()


class Broadcaster:
    """Hands committed events to every subscriber."""

    def __init__(self, *, limit: int = 1000) -> None:
        self._limit = limit
        self._subscriptions: set[Subscription] = set()
        self.closed = False

    def subscribe(self, where: EventFilter | None = None, *, limit: int | None = None) -> Subscription:
        """Return a subscription, to be entered with `with`; it receives what is committed from then on."""
        return Subscription(self, where or EventFilter(), limit or self._limit)

    def publish(self, events: Sequence[Event]) -> None:
        """Give events to all subscribers."""
        for subscription in tuple(self._subscriptions):
            for event in events:
                subscription.offer(event)

    def close(self) -> None:
        """End every subscription, those that are made later too."""
        self.closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()
        self._subscriptions.clear()

    def __len__(self) -> int:
        return len(self._subscriptions)
