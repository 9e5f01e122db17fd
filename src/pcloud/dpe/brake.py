"""The storm brake: how many guests may be started at once on one infrastructure, the most important first.

One brake is shared by all deployables of an engine process on one infrastructure, whoever their users are, and the daemon
divides the number that is set over its engine processes (`share`). When more wait than a threshold, one event says so.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


def share(total: int, engines: int, index: int) -> int:
    """Return how many of `total` starts the engine process `index` (from 0) of so many may have in flight; at least one."""
    return max(1, total // engines + (index < total % engines))


class Brake:
    """A semaphore whose waiters are served by priority (higher first), then in order of arrival."""

    def __init__(self, limit: int, *, storm: Callable[[int], None] | None = None, threshold: int = 0) -> None:
        """`storm` is called with the number of waiters when it first exceeds `threshold` (default: the limit)."""
        if limit < 1:
            raise ValueError("a brake lets at least one through")
        self._free = self._limit = limit
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self._storm = storm
        self._threshold = threshold or limit
        self._told = False

    @property
    def waiting(self) -> int:
        """How many starts wait."""
        return len(self._waiting)

    def resize(self, limit: int) -> None:
        """Let another number through at once; those that are through already are not held back."""
        more, self._limit = limit - self._limit, limit
        self._free += more
        while self._free > 0 and self._waiting:
            self._free -= 1
            self._release()

    @asynccontextmanager
    async def slot(self, priority: int) -> AsyncIterator[None]:
        """Hold one of the places while the body runs."""
        await self._acquire(priority)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, priority: int) -> None:
        if self._free > 0:
            self._free -= 1
            return
        self._arrivals += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-priority, self._arrivals, turn))
        if len(self._waiting) > self._threshold and not self._told:
            self._told = True
            if self._storm is not None:
                self._storm(len(self._waiting))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # the turn came in the moment of the cancellation: pass it on
            raise

    def _release(self) -> None:
        if self._free >= 0:  # less than that: fewer may be through than are
            while self._waiting:
                _, _, turn = heapq.heappop(self._waiting)
                if not turn.done():
                    turn.set_result(None)
                    return
            self._told = False
        self._free += 1
