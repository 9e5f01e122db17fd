"""A `Transport` over a `World`: what an agent in a guest would do. Concurrency: as `pcloud.simulator.world`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pcloud.environment.transport import Endpoint, Operation, OperationResult, OperationStatus, TransportError
from pcloud.simulator.world import SimulatedGuest, World

OK, ERROR, NOT_RUNNING = 0, 1, 7
"""OCF exit codes."""


class SimulatedTransport:
    """`Transport` over a World."""

    name = "remote"

    def __init__(self, world: World, connection: type[SimulatedConnection] | None = None) -> None:
        """`connection`: what a connection is, where it is to be another one."""
        self.world = world
        self.connection = connection or SimulatedConnection

    async def connect(
        self,
        endpoint: Endpoint,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        timeout: float,
    ) -> SimulatedConnection:
        """Connect to a guest that runs and answers."""
        await asyncio.sleep(0.01)
        guest = self.world.guests.get(endpoint.guest_id)
        if guest is None or not guest.running:
            raise TransportError("REFUSED", f"nothing listens at {endpoint.address}")
        if guest.frozen or guest.cut_off:
            await asyncio.sleep(timeout)
            raise TransportError("TIMEOUT", f"no answer from {endpoint.address} within {timeout:g} s")
        connection = self.connection(self.world, guest, on_result, on_lost)
        guest.connections.append(connection)
        self.world.note("connect", endpoint.guest_id)
        return connection

    async def close(self) -> None:
        """Close all connections."""
        for guest in self.world.guests.values():
            guest.connections.clear()


class SimulatedConnection:
    """`Connection` to a simulated guest's agent."""

    def __init__(
        self,
        world: World,
        guest: SimulatedGuest,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
    ) -> None:
        self._world = world
        self._guest = guest
        self._on_result = on_result
        self._on_lost = on_lost
        self._lost = asyncio.Event()
        self._last: dict[tuple[str, str], int] = {}
        self._intervals: dict[tuple[str, str], float] = {}
        self._delayed: dict[tuple[str, str, float], asyncio.Event] = {}
        """Recurring operations that wait for their start delay, and what ends the wait."""

    async def execute(self, operation: Operation) -> OperationResult:
        """Carry an operation out as an agent would."""
        self._speak()
        kind = f"{operation.action}/{operation.interval:g}" if operation.interval else operation.action
        self._world.note(kind, operation.resource)
        if operation.start_delay and not await self._delay_over(operation):
            return _result(operation, OK, status=OperationStatus.CANCELLED)
        seconds = self._world.action_seconds if operation.action != "monitor" else 0.01
        hangs = (operation.resource, operation.action) in self._world.hanging
        loop, busy = asyncio.get_running_loop(), self._guest.busy_until
        end = max(loop.time(), busy.get(operation.resource, 0.0)) + (operation.timeout if hangs else seconds)
        busy[operation.resource] = end
        boot = self._guest.boots
        try:
            async with asyncio.timeout_at(end):
                await self._lost.wait()
        except TimeoutError:
            if hangs:
                return _result(operation, ERROR, status=OperationStatus.TIMEOUT)
        except asyncio.CancelledError:
            self._goes_on(operation, boot, end, hangs=hangs)
            raise
        if self._lost.is_set():
            self._goes_on(operation, boot, end, hangs=hangs)
        self._speak()
        rc = self._outcome(operation)
        if operation.interval:
            self._repeat(operation, rc)
        return _result(operation, rc)

    async def _delay_over(self, operation: Operation) -> bool:
        """Wait for the start delay; False where the operation was given up meanwhile."""
        key, given_up = (operation.resource, operation.action, operation.interval), asyncio.Event()
        if operation.interval:
            self._give_up(key)
            self._delayed[key] = given_up
        try:
            async with asyncio.timeout(operation.start_delay):
                await given_up.wait()
        except TimeoutError:
            pass
        finally:
            if self._delayed.get(key) is given_up:
                del self._delayed[key]
        self._speak()
        return not given_up.is_set()

    def _give_up(self, *keys: tuple[str, str, float]) -> None:
        for key in keys:
            if given_up := self._delayed.pop(key, None):
                given_up.set()

    def _goes_on(self, operation: Operation, boot: int, end: float, *, hangs: bool) -> None:
        """Nobody waits for the operation any more; in the guest it goes on to its end."""

        def ends() -> None:
            if self._guest.running and self._guest.boots == boot and not self._guest.frozen:
                self._outcome(operation)

        if operation.action in ("start", "stop") and not hangs:
            asyncio.get_running_loop().call_at(end, ends)

    def _outcome(self, operation: Operation) -> int:
        services = self._guest.services
        if planned := self._world.results.get((operation.resource, operation.action)):
            return planned.pop(0)
        if operation.action == "start":
            services[operation.resource] = True
        elif operation.action == "stop":
            services[operation.resource] = False
            self._give_up(*(key for key in self._delayed if key[0] == operation.resource))
            for key in [key for key in self._guest.recurring if key[0] == operation.resource]:
                self._guest.recurring.pop(key).cancel()
        elif operation.action == "limit":
            self._guest.service_limits[operation.resource] = operation.limits
        elif operation.action == "monitor":
            return OK if services.get(operation.resource) else NOT_RUNNING
        return OK

    def _repeat(self, operation: Operation, rc: int) -> None:
        key = (operation.resource, operation.action)
        self._last[key] = rc
        self._intervals[key] = operation.interval
        loop = asyncio.get_running_loop()

        def again() -> None:
            if self._guest.recurring.get(key) is timer_box[0]:
                self.report(*key, "interval")
                self._repeat(operation, self._last[key])

        timer_box = [loop.call_later(operation.interval, again)]
        if old := self._guest.recurring.get(key):
            old.cancel()
        self._guest.recurring[key] = timer_box[0]

    def report(self, resource: str, action: str, signal: str) -> None:
        """Tell of a recurring operation's result when it changed."""
        if self._guest.frozen or self._guest.cut_off or self._lost.is_set():
            return
        rc = OK if self._guest.services.get(resource) else NOT_RUNNING
        if planned := self._world.results.get((resource, action)):
            rc = planned.pop(0)
        if self._last.get((resource, action)) != rc:
            self._last[resource, action] = rc
            interval = self._intervals[resource, action]
            self._on_result(OperationResult(resource=resource, action=action, interval=interval, rc=rc, signal=signal))

    async def cancel(self, resource: str, action: str, interval: float) -> None:
        """Stop repeating."""
        self._speak()
        self._give_up((resource, action, interval))
        if self._intervals.get((resource, action)) != interval:
            return  # another one has taken its place
        if timer := self._guest.recurring.pop((resource, action), None):
            timer.cancel()

    async def forget(self, resource: str) -> None:
        """Stop repeating anything of a resource."""
        self._give_up(*(key for key in self._delayed if key[0] == resource))
        for key in [key for key in self._guest.recurring if key[0] == resource]:
            self._guest.recurring.pop(key).cancel()

    async def check(self, *, timeout: float) -> None:
        """Answer when it can."""
        self._speak()

    async def close(self) -> None:
        """Close without telling anybody."""
        if self in self._guest.connections:
            self._guest.connections.remove(self)
        self._lost.set()
        self._give_up(*self._delayed)

    def lose(self, why: str) -> None:
        """Fall silent."""
        if self in self._guest.connections:
            self._guest.connections.remove(self)
            self._lost.set()
            self._give_up(*self._delayed)
            self._on_lost(TransportError("LOST", why))

    def _speak(self) -> None:
        if self._lost.is_set():
            raise TransportError("NOT_CONNECTED", "the connection was lost")


def _result(operation: Operation, rc: int, *, status: OperationStatus = OperationStatus.DONE) -> OperationResult:
    return OperationResult(
        resource=operation.resource, action=operation.action, interval=operation.interval, rc=rc, status=status,
        signal="request",
    )  # fmt: skip
