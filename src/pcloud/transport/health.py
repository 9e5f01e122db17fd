"""Health checks of many connections for little: one timer for all, and only silent ones are asked.

Owns: the timer. Concurrency: one event loop. Each tick looks at a slice of the connections, so that checks are spread evenly
(that is the jitter); what answered anything lately is not asked. The kernel's keep-alive notices cut-off hosts besides.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcloud.transport.session import RemoteConnection

TICK = 0.25


class Health:
    """Pokes silent connections, and ends those that do not answer."""

    __slots__ = ("_connections", "_handle", "_interval", "_rate", "_ring", "_timeout")

    def __init__(self, connections: set[RemoteConnection], *, interval: float, timeout: float, rate: float) -> None:
        self._connections = connections
        self._interval = interval
        self._timeout = timeout
        self._rate = rate
        self._ring: list[RemoteConnection] = []
        self._handle: asyncio.TimerHandle | None = None

    @property
    def interval(self) -> float:
        """Seconds between two checks of a silent connection, as the number of connections allows."""
        return max(self._interval, len(self._connections) / self._rate)

    def start(self) -> None:
        """Begin, if that has not happened yet."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(TICK, self._tick)

    def stop(self) -> None:
        """End."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._handle = None
        if not self._connections:
            self._ring = []
            return  # the next connection starts it again
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._ring:
            self._ring = list(self._connections)
        # Each is looked at a few times an interval, so that it is poked within a fraction of it, and its time-out is kept.
        looks = min(self._interval, self._timeout, 10.0) / 4 if self.interval == self._interval else self.interval / 4
        count = max(1, round(len(self._connections) * TICK / max(looks, TICK)))
        for _ in range(min(count, len(self._ring))):
            connection = self._ring.pop()
            if connection in self._connections:
                connection.check_health(now, self.interval, self._timeout)
        self._handle = loop.call_later(TICK, self._tick)
