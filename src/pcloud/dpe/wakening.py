"""When an engine wakes without being told of anything: a wait that ends, a state that does not settle, an infrastructure
that may be back.

Concurrency: one timer, and one task while the infrastructure is away; both end as observations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pcloud.dpe.environment import Environment
from pcloud.dpe.executor import Executor
from pcloud.dpe.flights import Flights
from pcloud.environment.infrastructure import InfrastructureError
from pcloud.model.status import DeployableStatus
from pcloud.policy import escalation, failures, incidents, limits, service_limits
from pcloud.policy.observation import Elapsed, GuestActed, InfrastructureState, Observation, Tick
from pcloud.policy.state import State

RECHECK = 60.0
"""Seconds after which a deployable that is not as it shall be is looked at again, whatever was (not) observed."""
INFRASTRUCTURE_RETRY = 2.0
"""Seconds between attempts to reach an infrastructure that went away."""
SETTLED = frozenset({"running", "stopped", "paused", "failed", "blocked"})


class Wakener:
    """Timers of one deployable's engine."""

    __slots__ = ("_environment", "_executor", "_flights", "_post", "_retry", "_review", "_state", "_timer")

    def __init__(
        self,
        environment: Environment,
        executor: Executor,
        flights: Flights,
        post: Callable[[Observation], None],
        state: Callable[[], State],
    ) -> None:
        """`post` takes observations; `state` returns the newest state."""
        self._environment = environment
        self._executor = executor
        self._flights = flights
        self._post = post
        self._state = state
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.Task[None] | None = None
        self._review: asyncio.TimerHandle | None = None

    def arm(self, state: State, published: DeployableStatus | None) -> None:
        """Set the timer for the next time at which something is due by itself."""
        now = self._environment.clock.time()
        times = (
            escalation.next_wake(state.memory, now),
            limits.next_wake(state, now),
            service_limits.next_wake(state, now),
        )
        due = min((time for time in times if time is not None), default=None)
        if due is None and (published is None or published.state.value not in SETTLED):
            due = now + RECHECK
        if (again := failures.next_wake(state, now)) is not None:  # hours away: no reason not to look before
            due = again if due is None else min(due, again)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            # The wait is over a moment *after* its end, else the state would still hold it back.
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now) + 0.001, self._post, Tick())
        if self._review is not None:
            self._review.cancel()
            self._review = None
        if (over := incidents.next_due(state)) is not None:
            self._review = asyncio.get_running_loop().call_later(max(0.0, over - now) + 0.001, self._post, Elapsed())
        if state.infrastructure_down and (self._retry is None or self._retry.done()):
            self._retry = asyncio.get_running_loop().create_task(self._await_infrastructure())

    async def close(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._review is not None:
            self._review.cancel()
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.gather(self._retry, return_exceptions=True)

    async def _await_infrastructure(self) -> None:
        """Ask until the infrastructure answers, then look at every guest."""
        while True:
            await asyncio.sleep(INFRASTRUCTURE_RETRY)
            ends = self._flights.ends
            try:
                places = tuple(await self._environment.infrastructure.places())
                # All at once: drivers whose infrastructure lists all guests in one call share it between them.
                looks = await asyncio.gather(
                    *(self._executor.look(self._state(), a.name) for a in self._state().assemblies())
                )
            except InfrastructureError:
                continue
            if any(isinstance(look, GuestActed) for look in looks):
                continue
            if ends != self._flights.ends or any(self._flights.busy(a.name) for a in self._state().assemblies()):
                continue  # what was seen may be older than what an action did
            for look in looks:
                self._post(look)
            self._post(InfrastructureState(error="", places=places))
            return
