"""An `Infrastructure` over a `World`. Concurrency: as `pcloud.simulator.world`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from pcloud.environment.infrastructure import (
    Bounded,
    Capability,
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    InfrastructureError,
    InfrastructureUnavailable,
    Limits,
    Vitality,
)
from pcloud.simulator.volumes import SimulatedVolumes
from pcloud.simulator.world import World


class SimulatedInfrastructure:
    """`Infrastructure` over a World."""

    name = "simulated"

    def __init__(self, world: World) -> None:
        self.world = world
        self.capabilities = frozenset(
            {Capability.EXECUTE, Capability.SECOND_SIGNAL, Capability.VOLUMES, Capability.LIMITS}
        )
        self.limits: Limits = self
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
            guest.bounds = (spec.memory, spec.cpus)
            self.world.tell(guest, "started")
        return guest.info

    async def bound(self, guest_id: str, *, memory: int, cpus: float) -> Bounded:
        """Give a guest that runs these limits, unless it uses more."""
        await self._call()
        guest = self.world.guests.get(guest_id)
        if guest is None or not guest.running or guest.bounds == (memory, cpus):
            return Bounded()
        if memory and (used := self.world.used.get(guest_id, 0)) > memory:
            raise InfrastructureError(f"it uses {used} MiB of memory now and can not be limited to {memory} MiB")
        self.world.note("limit", guest_id)
        guest.bounds = (memory, cpus)
        return Bounded(changed=(f"{memory or 'unlimited'} MiB of memory and {cpus or 'unlimited'} processors",))

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
