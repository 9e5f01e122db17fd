"""Simulated guests, and the faults that can be asked of them; `infrastructure` and `transport` lead to them.

Everything happens in the loop's (virtual) time. What a guest holds is what a real one would: services that run or not,
an agent that answers or not, recurring monitors that report changes only, and at once when a process ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from pcloud.environment.infrastructure import (
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    InfrastructureError,
)
from pcloud.model.deployable import AttachedVolume, ResourceLimits


class Link(Protocol):
    """A connection, as its guest sees it."""

    def report(self, resource: str, action: str, signal: str) -> None:
        """Tell of a recurring operation's result when it changed."""
        ...

    def lose(self, why: str) -> None:
        """Fall silent."""
        ...


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
    bounds: tuple[int, float] = (0, 0.0)
    """Its limits in MiB and cores; 0 is none."""
    services: dict[str, bool] = field(default_factory=dict)
    """Resource id → runs."""
    service_limits: dict[str, ResourceLimits] = field(default_factory=dict)
    """Resource id → what it may use, until the guest ends."""
    recurring: dict[tuple[str, str], asyncio.TimerHandle] = field(default_factory=dict)
    connections: list[Link] = field(default_factory=list)
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
        self.used: dict[str, int] = {}
        """Guest id → MiB that it uses: it can not be limited to less."""
        self.stubborn: set[str] = set()
        """Guests that can not be destroyed."""
        self.immovable = False
        """Whether guests are started where they were, whatever place is asked for."""
        self.watchers: list[asyncio.Queue[GuestEvent]] = []
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
        """Return the guest of a spec, made where needed: also when it is off and shall be in another place."""
        guest = self.guests.get(spec.guest_id)
        elsewhere = guest is not None and spec.place and guest.place not in ("", spec.place)
        moves = elsewhere and guest is not None and not guest.running and not self.immovable
        if guest is None or guest.digest != spec.digest or moves:
            boots, place = 0, spec.place or self.places[0]
            if guest is not None:
                self._off(guest)
                boots = guest.boots
                place = place if moves else guest.place
            self._addresses += 1
            address = f"10.0.{self._addresses // 250}.{self._addresses % 250}"
            guest = SimulatedGuest(spec.guest_id, address, spec.digest, place, boots=boots)
            self.guests[spec.guest_id] = guest
        return guest

    def off(self, guest: SimulatedGuest) -> None:
        """End a guest."""
        self._off(guest)

    def _off(self, guest: SimulatedGuest) -> None:
        guest.running = guest.frozen = guest.cut_off = False
        guest.services.clear()
        guest.service_limits.clear()
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
