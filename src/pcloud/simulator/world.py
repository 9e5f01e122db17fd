"""Simulated guests: an `Infrastructure` and a `Transport` without a world, and the faults that can be asked of them.

Everything happens in the loop's (virtual) time. What a guest holds is what a real one would: services that run or not,
an agent that answers or not, recurring monitors that report changes only, and at once when a process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from pcloud.environment.infrastructure import (
    Capability,
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    InfrastructureError,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.environment.transport import (
    Endpoint,
    Operation,
    OperationResult,
    OperationStatus,
    TransportError,
)
from pcloud.model.deployable import AttachedVolume
from pcloud.simulator.volumes import SimulatedVolumes

OK, ERROR, NOT_RUNNING = 0, 1, 7


@dataclass(slots=True)
class SimulatedGuest:
    """One guest."""

    guest_id: str
    address: str
    digest: str = ""
    place: str = ""
    running: bool = False
    frozen: bool = False
    """Nothing in it executes."""
    cut_off: bool = False
    """Its network is gone; everything in it executes."""
    boots: int = 0
    volumes: tuple[AttachedVolume, ...] = ()
    services: dict[str, bool] = field(default_factory=dict)
    """Resource id → runs."""
    recurring: dict[tuple[str, str], asyncio.TimerHandle] = field(default_factory=dict)
    connections: list[SimulatedConnection] = field(default_factory=list)
    busy_until: dict[str, float] = field(default_factory=dict)
    """Resource id → when the operation on it ends; the next one waits, as in a real agent."""

    @property
    def info(self) -> GuestInfo:
        """What the infrastructure tells."""
        state = GuestState.RUNNING if self.running else GuestState.STOPPED
        return GuestInfo(
            guest_id=self.guest_id, state=state, address=self.address if self.running else "", place=self.place,
            digest=self.digest, boot_id=str(self.boots),
        )  # fmt: skip

    def watch_nothing(self) -> None:
        """End the recurring monitors."""
        for timer in self.recurring.values():
            timer.cancel()
        self.recurring.clear()


class World:
    """All simulated guests, and the faults to be asked of them. `log` holds every action on them, in order."""

    def __init__(
        self, *, places: tuple[str, ...] = ("here",), boot_seconds: float = 0.5, action_seconds: float = 0.1
    ) -> None:
        self.places = places
        self.boot_seconds = boot_seconds
        self.action_seconds = action_seconds
        self.guests: dict[str, SimulatedGuest] = {}
        self.log: list[tuple[float, str, str]] = []
        self.down = ""
        """Why the infrastructure's API does not answer; empty while it does."""
        self.second_signal = True
        self.results: dict[tuple[str, str], list[int]] = {}
        """(resource id, action) → exit codes of the next operations, instead of what would really happen."""
        self.hanging: set[tuple[str, str]] = set()
        """(resource id, action) that never end, but by their time-out."""
        self.start_errors: dict[str, list[InfrastructureError]] = {}
        """Guest id → errors of the next starts."""
        self.volumes: dict[str, int] = {}
        """Volume → bytes."""
        self.stubborn: set[str] = set()
        """Guests that can not be destroyed."""
        self.watchers: list[asyncio.Queue[GuestEvent]] = []
        self.connection: type[SimulatedConnection] = SimulatedConnection
        self._addresses = 1

    def note(self, action: str, subject: str) -> None:
        """Log an action with its time."""
        self.log.append((round(asyncio.get_running_loop().time(), 3), action, subject))

    def actions(self, *kinds: str) -> list[str]:
        """Return `action subject` of what was logged, of these kinds or all."""
        return [f"{action} {subject}" for _, action, subject in self.log if not kinds or action in kinds]

    # --- faults

    def kill_service(self, guest_id: str, resource: str, *, seen: bool = True) -> None:
        """End a service's process; `seen` says whether the agent's watch on the process tells at once."""
        guest = self.guests[guest_id]
        guest.services[resource] = False
        if seen:
            self._report(guest, resource, "exit")

    def kill_guest(self, guest_id: str) -> None:
        """End a guest; its watchers are told."""
        guest = self.guests[guest_id]
        self._off(guest)
        self.tell(guest, "killed")

    def freeze(self, guest_id: str) -> None:
        """Nothing in the guest executes any more; its transport falls silent."""
        guest = self.guests[guest_id]
        guest.frozen = True
        self._silence(guest, "it does not answer")

    def cut_off(self, guest_id: str) -> None:
        """The guest's network is gone."""
        guest = self.guests[guest_id]
        guest.cut_off = True
        self._silence(guest, "no route to it")

    def heal(self, guest_id: str) -> None:
        """End freezing and cutting off."""
        guest = self.guests[guest_id]
        guest.frozen = guest.cut_off = False

    def forget_engine(self) -> None:
        """The engine process is dead: its connections and its monitors in guests are gone, everything else goes on."""
        for guest in self.guests.values():
            guest.watch_nothing()
            guest.connections.clear()

    # --- mechanics

    def guest(self, spec: GuestSpec) -> SimulatedGuest:
        """Return the guest of a spec, made where needed."""
        guest = self.guests.get(spec.guest_id)
        if guest is None or guest.digest != spec.digest:
            boots = 0
            if guest is not None:
                self._off(guest)
                boots = guest.boots
            self._addresses += 1
            address = f"10.0.{self._addresses // 250}.{self._addresses % 250}"
            guest = SimulatedGuest(spec.guest_id, address, spec.digest, boots=boots)
            self.guests[spec.guest_id] = guest
        return guest

    def off(self, guest: SimulatedGuest) -> None:
        """End a guest."""
        self._off(guest)

    def _off(self, guest: SimulatedGuest) -> None:
        guest.running = guest.frozen = guest.cut_off = False
        guest.services.clear()
        guest.busy_until.clear()
        guest.watch_nothing()
        self._silence(guest, "its guest ended")

    def _silence(self, guest: SimulatedGuest, why: str) -> None:
        for connection in tuple(guest.connections):
            connection.lose(why)

    def tell(self, guest: SimulatedGuest, reason: str) -> None:
        """Tell the watchers of a guest's state."""
        event = GuestEvent(guest_id=guest.guest_id, state=guest.info.state, reason=reason)
        for watcher in self.watchers:
            watcher.put_nowait(event)

    def _report(self, guest: SimulatedGuest, resource: str, signal: str) -> None:
        for name, action in tuple(guest.recurring):
            if name == resource:
                for connection in tuple(guest.connections):
                    connection.report(resource, action, signal)


class SimulatedInfrastructure:
    """`Infrastructure` over a World."""

    name = "simulated"

    def __init__(self, world: World) -> None:
        self.world = world
        self.capabilities = frozenset({Capability.EXECUTE, Capability.SECOND_SIGNAL, Capability.VOLUMES})
        self.volumes = SimulatedVolumes(world)

    async def _call(self) -> None:
        await asyncio.sleep(0)
        if self.world.down:
            raise InfrastructureUnavailable(self.world.down)

    async def places(self) -> Sequence[str]:
        """Return the world's places."""
        await self._call()
        return self.world.places

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return all guests."""
        await self._call()
        return [guest.info for guest in self.world.guests.values()]

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return one guest."""
        await self._call()
        guest = self.world.guests.get(guest_id)
        return guest.info if guest else GuestInfo(guest_id=guest_id, state=GuestState.ABSENT)

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Start a guest; takes the world's boot time."""
        await self._call()
        self.world.note("boot", spec.guest_id)
        if errors := self.world.start_errors.get(spec.guest_id):
            raise errors.pop(0)
        self.volumes.claim(spec.guest_id, spec.volumes)
        guest = self.world.guest(spec)
        guest.volumes = spec.volumes
        if not guest.running:
            await asyncio.sleep(self.world.boot_seconds)
            guest.running = True
            guest.boots += 1
            guest.place = spec.place or self.world.places[0]
            self.world.tell(guest, "started")
        return guest.info

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Shut a guest down."""
        await self._end(guest_id, "shutdown")

    async def destroy(self, guest_id: str) -> None:
        """End a guest at once."""
        await self._end(guest_id, "destroy")

    async def _end(self, guest_id: str, how: str) -> None:
        await self._call()
        self.world.note(how, guest_id)
        await asyncio.sleep(self.world.action_seconds)
        if guest_id in self.world.stubborn:
            raise InfrastructureError(f"{guest_id} does not end")
        if guest := self.world.guests.get(guest_id):
            self.world.off(guest)

    async def delete(self, guest_id: str) -> None:
        """Remove a guest."""
        await self._call()
        self.world.note("delete", guest_id)
        if guest := self.world.guests.pop(guest_id, None):
            self.world.off(guest)

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Tell whether anything in the guest executes."""
        guest = self.world.guests.get(guest_id)
        if self.world.down or not self.world.second_signal:
            return Vitality.UNKNOWN
        if guest is None or not guest.running:
            return Vitality.GONE
        return Vitality.HUNG if guest.frozen else Vitality.ALIVE

    async def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield what happens to guests."""
        events: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self.world.watchers.append(events)
        try:
            while True:
                yield await events.get()
        finally:
            self.world.watchers.remove(events)

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run nothing, successfully, in a guest that runs; but `systemctl kill … UNIT` ends what runs for that unit."""
        await self._call()
        guest = self.world.guests.get(guest_id)
        if guest is None or not guest.running:
            raise InfrastructureError(f"guest {guest_id} does not run")
        if list(argv[:2]) == ["systemctl", "kill"]:
            unit = argv[-1].removesuffix(".service")
            for resource in [each for each in guest.services if each.endswith(f"_{unit}")]:
                self.world.kill_service(guest_id, resource)
        return ExecResult(returncode=0, stdout=" ".join(argv).encode())

    async def console(self, guest_id: str) -> bytes:
        """Return what was done to the guest, while there is one."""
        if guest_id not in self.world.guests:
            return b""
        return "\n".join(f"{when} {what}" for when, what, who in self.world.log if who == guest_id).encode()

    async def close(self) -> None:
        """Hold nothing."""


class SimulatedTransport:
    """`Transport` over a World."""

    name = "remote"

    def __init__(self, world: World) -> None:
        self.world = world

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
        connection = self.world.connection(self.world, guest, on_result, on_lost)
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

    async def execute(self, operation: Operation) -> OperationResult:
        """Carry an operation out as an agent would."""
        self._speak()
        kind = f"{operation.action}/{operation.interval:g}" if operation.interval else operation.action
        self._world.note(kind, operation.resource)
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
            for key in [key for key in self._guest.recurring if key[0] == operation.resource]:
                self._guest.recurring.pop(key).cancel()
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
        if timer := self._guest.recurring.pop((resource, action), None):
            timer.cancel()

    async def forget(self, resource: str) -> None:
        """Stop repeating anything of a resource."""
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

    def lose(self, why: str) -> None:
        """Fall silent."""
        if self in self._guest.connections:
            self._guest.connections.remove(self)
            self._lost.set()
            self._on_lost(TransportError("LOST", why))

    def _speak(self) -> None:
        if self._lost.is_set():
            raise TransportError("NOT_CONNECTED", "the connection was lost")


def _result(operation: Operation, rc: int, *, status: OperationStatus = OperationStatus.DONE) -> OperationResult:
    return OperationResult(
        resource=operation.resource, action=operation.action, interval=operation.interval, rc=rc, status=status,
        signal="request",
    )  # fmt: skip
