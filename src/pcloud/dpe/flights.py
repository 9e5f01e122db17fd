"""The actions of one deployable that are in flight: at most one of a kind a resource, each in a task of its own.

Owned by the control loop. The end of an action is told at once (`ended`), in the action's own task; what it brought is
told after that (`landed`), so that the resource is free by the time anybody hears of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from pcloud.dpe.recorder import Key
from pcloud.policy.identifiers import guest_id
from pcloud.policy.observation import GuestActed, GuestBounded, Observation, Operated

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[Observation]]
"""What carries an action out."""


class Tower(Protocol):
    """Who is told of flights."""

    def flight_ended(self, key: Key, *, ok: bool, seconds: float) -> bool:
        """An action ended, in whatever way; answers whether the newest decision wanted it."""
        ...

    def flight_landed(self, key: Key, observation: Observation, *, wanted: bool) -> None:
        """An action brought something to know."""
        ...

    def flight_crashed(self, error: BaseException) -> None:
        """An action failed by a fault of ours."""
        ...


class Flights:
    """Actions in flight, by key."""

    __slots__ = ("_tasks", "_tower", "ends")

    def __init__(self, tower: Tower) -> None:
        self._tower = tower
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self.ends = 0
        """How many actions have ended."""

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def __contains__(self, key: Key) -> bool:
        return key in self._tasks

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._tasks))

    def of(self, resource: str) -> list[Key]:
        """Return the actions in flight on a resource."""
        return [key for key in self._tasks if key[0] == resource]

    def busy(self, assembly: str) -> bool:
        """Tell whether an action on an assembly's guest is in flight."""
        return bool(self.of(guest_id(assembly)))

    def cancel(self, key: Key) -> None:
        """Give an action up, if it is in flight; it ends as any other does."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    def launch(self, key: Key, work: Work) -> None:
        """Begin an action."""

        async def carry_out() -> None:
            began = asyncio.get_running_loop().time()
            ok, wanted = False, False
            try:
                observation = await work()
                ok = succeeded(observation)
            finally:  # cancelled or failed by a fault of ours: the resource is free again either way
                del self._tasks[key]
                self.ends += 1
                wanted = self._tower.flight_ended(key, ok=ok, seconds=asyncio.get_running_loop().time() - began)
            self._tower.flight_landed(key, observation, wanted=wanted)

        self._tasks[key] = asyncio.get_running_loop().create_task(carry_out())
        self._tasks[key].add_done_callback(self._died)

    def _died(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._tower.flight_crashed(error)

    async def close(self) -> None:
        """Give up all of them."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def succeeded(observation: Observation) -> bool:
    """Tell whether what an action brought is what it was to bring."""
    match observation:
        case Operated(not_connected=True):
            return False
        case Operated(action="monitor", interval=0.0):
            return observation.rc in (0, 5, 7) and not observation.error
        case Operated():
            return observation.rc == 0 and not observation.error
        case GuestActed() | GuestBounded():
            return not observation.error
        case _:
            return True
