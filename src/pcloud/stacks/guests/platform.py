"""The daemon's engine behind `pcloud.stacks.platform.Platform`.

Concurrency: lives on the daemon's event loop. What it is asked for is stored by the engine before a method returns, so a
crash at any moment leaves the wish or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.settings import StackSettings
from pcloud.environment.infrastructure import (
    Capability,
    ExecResult,
    InfrastructureError,
    InfrastructureUnavailable,
    SnapshotInfo,
    Snapshots,
    VolumeInfo,
    Volumes,
)
from pcloud.events.broadcast import Closed, TooSlow
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.images.definitions import definitions
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.lxc_guest_network import LxcGuestNetwork
from pcloud.infrastructure.lxc_room import Look, Room, RoomWatch
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.errors import Conflict, NotFound, Unavailable
from pcloud.model.names import guest_id
from pcloud.model.status import DeployableStatus
from pcloud.objects.store import ObjectStore
from pcloud.stacks.guests.catalogue import Catalogue
from pcloud.stacks.guests.endpoint import Server
from pcloud.stacks.guests.networks import GuestNetworks
from pcloud.stacks.guests.places import Place, Places

_LOOK = 0.2
_HELD = "_address."
"""Begins the name of who holds an address that is no guest's own."""
_GIB = 1 << 30
_MACHINE_SECONDS = 600.0
"""Until the agent of a machine answers: cloud-init goes before it, and an emulated machine is slow."""
_RECENT = 1000
"""Events that are read again after an overrun."""


class EnginePlatform:
    """Deployables of stacks, kept alive by the engine of this daemon."""

    def __init__(self, engine: CloudPolicyEngine, settings: StackSettings, objects: ObjectStore | None = None) -> None:
        self._engine = engine
        self.objects = objects or ObjectStore()
        self.serve: Callable[[str, int], Server] | None = None
        """Makes the server of the guests' endpoint; set by whoever has the application."""
        self._places = Places(engine.home.path, engine.settings.infrastructures, settings, self._server)
        self._place = self._places.of(settings.infrastructure)
        self.infrastructure = settings.infrastructure
        self.transport: str = settings.transport
        self.catalogue = Catalogue(settings, {name: frozenset(one.packages) for name, one in definitions().items()})
        self.capabilities = self._place.capabilities
        state = engine.home.path / "infrastructure" / "lxc"
        self._attaching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = RoomWatch(LxcVolumes(state), self._tell_room)
        settings_there = {"state": str(state), **engine.settings.infrastructures.get("lxc", {})}
        self.networks = GuestNetworks(state, LxcGuestNetwork(msgspec.convert(settings_there, LxcSettings)))
        self.start_timeout = 0.0 if self.infrastructure == "lxc" else _MACHINE_SECONDS

    def why(self, lacking: Sequence[str]) -> str:
        """Return why there is no such thing here."""
        return self._place.why(lacking)

    def images(self) -> Sequence[str]:
        """Return the names of the JEOS that guests can be made from."""
        return sorted(definitions())

    def read(self, document: Mapping[str, Any]) -> Deployable:
        """Read a manifest; InvalidDocument with every problem."""
        return self._engine.documents.read(msgspec.json.encode(document), "json", "")

    async def prepare(self) -> str:
        """Be reachable for guests before the first is made; return the URL."""
        url = ""
        for place in await self._used():
            found = await place.open()
            url = found if place is self._place else url
            if place.name == "lxc" and place.volumes is not None:
                self._room.open()
        return url

    async def release(self) -> None:
        """No stack has guests any more."""
        await self._leave(for_good=True)

    async def close(self) -> None:
        """Stop; what runs goes on."""
        await self._leave(for_good=False)
        await self._places.close()
        await self.objects.close()

    async def _leave(self, *, for_good: bool) -> None:
        await self._room.close()
        for place in self._places.opened():
            await place.leave(for_good=for_good)

    def _tell_room(self, now: Room, sentence: str, seen: Look) -> None:
        how = {Room.ENOUGH: Severity.NOTICE, Room.SHORT: Severity.WARNING, Room.FULL: Severity.CRITICAL}[now]
        self._engine.emit("volume.room", sentence, severity=how, room=now.value, free=seen.free, guests=seen.guests)

    def _server(self, host: str, port: int) -> Server:
        if self.serve is None:
            raise Unavailable.of("NO_ENDPOINT", "there is nothing for guests to talk to")
        return self.serve(host, port)

    async def _used(self) -> list[Place]:
        """Return where new guests are made, and where older stacks have some: our own address in the network tells."""
        others = {row.infrastructure for row in self._engine.desired.rows.values()} - {self.infrastructure}
        known = [self._places.of(name) for name in sorted(others & CAPABILITIES.keys())]
        with _told("NO_ANSWER"):
            return [self._place, *[one for one in known if await one.was_open()]]

    def _at(self, deployable: str) -> Place:
        """Return where a deployable's guests are."""
        row = self._engine.desired.rows.get(deployable)
        return self._places.of(row.infrastructure) if row is not None else self._place

    async def deployables(self) -> Sequence[str]:
        """Return the names of the deployables that there are."""
        return sorted(self._engine.desired.rows)

    async def definition(self, name: str) -> Deployable | None:
        """Return the stored definition of a deployable; None when there is none, or when it is being deleted."""
        row = self._engine.desired.rows.get(name)
        if row is None or row.phase == "deleting":
            return None
        return (await self._engine.definition(name)).deployable

    async def apply(self, deployable: Deployable) -> None:
        """Store a deployable, or its changed form, and start it (one that is stopped and only loses something stays so);
        waits for the end of one of that name that is leaving."""
        while True:
            try:
                old = await self.definition(deployable.name)
                await self._engine.put(deployable, start=old is None or not loses(old, deployable))
            except Conflict as problem:
                if problem.code != "BEING_DELETED":
                    raise
                await asyncio.sleep(_LOOK)
            else:
                return

    async def stop(self, name: str) -> None:
        """Stop a deployable's guests, in order; returns when they are."""
        try:
            await self._engine.stop_deployable(name)
        except NotFound:
            return
        while (status := await self.status(name)) is not None and status.state is not ResourceState.STOPPED:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)

    async def start(self, name: str) -> None:
        """Have it started, in order."""
        with contextlib.suppress(NotFound):
            await self._engine.start_deployable(name)

    async def status(self, name: str) -> DeployableStatus | None:
        """Return its state; None when there is none. Images that can not be built count as failed, whatever runs."""
        try:
            status = await self._engine.status(name)
        except NotFound:
            return None
        overlay = self._engine.desired.overlays.get(name)
        if overlay is not None and overlay.state is ResourceState.FAILED:
            return msgspec.structs.replace(status, state=ResourceState.FAILED, reason=overlay.reason)
        return status

    async def holds_guest(self, deployable: str, assembly: str) -> bool:
        """Return whether anything of a guest is left."""
        row = self._engine.desired.rows.get(deployable)
        if row is None or not row.loaded:
            return False
        with _told("NO_ANSWER"):
            try:
                return await self._at(deployable).holds(guest_id(deployable, assembly))
            except InfrastructureUnavailable:
                return True  # nothing is known: whoever waits for its end waits on

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        """Take an address of the guests' network, the same for the same holder, until it is released."""
        with _told("NO_ADDRESS"):
            return await self._place.addresses.take(f"{_HELD}{holder}", wanted)

    async def offers_addresses(self) -> None:
        """Unavailable when nothing gives any, though the settings say so. Of a cloud that is away nothing is known."""
        if Capability.ADDRESSES in self.capabilities and self._place.apart is not None:
            with (
                _told("NO_ADDRESS", "there are no addresses to be had: "),
                contextlib.suppress(InfrastructureUnavailable),
            ):
                await self._place.apart.offered()

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        """Give it back where it was taken."""
        with _told("NO_ADDRESS"):
            if infrastructure and Capability.NETWORK not in CAPABILITIES.get(infrastructure, frozenset()):
                await self._places.of(infrastructure).give_back(f"{_HELD}{holder}")
                return
            for place in [each for each in await self._used() if Capability.NETWORK in each.capabilities]:
                await place.network.give_back(f"{_HELD}{holder}")

    def address_refusal(self, address: str, guests: Sequence[tuple[str, str]], holders: Sequence[str]) -> str:
        """Say why an address can not be had."""
        own = {guest_id(*place) for place in guests} | {f"{_HELD}{holder}" for holder in holders}
        return self._place.addresses.refusal(address, frozenset(own))

    async def settle(self, deployable: str, assembly: str) -> None:
        """Bring a running guest's addresses, firewall and volumes to its stored definition, without a restart."""
        found = await self._defined(deployable, assembly)
        if found is None:
            return
        place, guest = self._at(deployable), guest_id(deployable, assembly)
        if place.changes is not None:
            with _told("NOT_SETTLED", f"{deployable}/{assembly}: "):
                await place.changes.settle(guest, found, functools.partial(self.execute, deployable, assembly))
        if place.volumes is None:
            return
        # One after the other, each by what is wanted then: what somebody else asked for meanwhile stays.
        async with self._attaching.setdefault(guest, asyncio.Lock()):
            found = await self._defined(deployable, assembly)
            if found is not None:
                with _told("NO_VOLUME"):
                    await place.volumes.attach(guest, found.volumes)

    async def _defined(self, deployable: str, assembly: str) -> Assembly | None:
        definition = await self.definition(deployable)
        return next((one for one in definition.assemblies if one.name == assembly), None) if definition else None

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        """Make a volume of that size, empty or as a snapshot is, or let one grow to it."""
        if self._place.volumes is None:
            raise Unavailable.of("NO_VOLUME", f"there are no volumes: {self.why([Capability.VOLUMES])}")
        with _told("NO_VOLUME"):
            if snapshot:
                await self._snapshots().restore(snapshot, volume, gigabytes * _GIB)
            else:
                await self._place.volumes.create(volume, gigabytes * _GIB)

    async def snapshot_volume(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has."""
        with _told("NO_VOLUME"):
            await self._snapshots().take(volume, snapshot, note)

    async def volumes(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        kept = self._place.volumes
        with _told("NO_ANSWER"):
            return await kept.all_volumes() if isinstance(kept, Snapshots) else []

    async def snapshots(self) -> list[SnapshotInfo]:
        """Return what snapshots of volumes there are."""
        kept = self._place.volumes
        return await kept.all_snapshots() if isinstance(kept, Snapshots) else []

    async def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot."""
        with _told("NO_VOLUME"):
            await self._snapshots().delete_snapshot(snapshot)

    def _snapshots(self) -> Snapshots:
        kept: object = self._place.volumes
        if not isinstance(kept, Snapshots):
            raise Unavailable.of("NO_SNAPSHOTS", f"there are no snapshots of volumes on {self.infrastructure}")
        return kept

    async def delete_volume(self, volume: str) -> None:
        """Remove a volume."""
        with _told("NO_VOLUME"):
            for volumes in await self._all_volumes():
                await volumes.delete(volume)

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and who has it."""
        with _told("NO_VOLUME"):
            for volumes in await self._all_volumes():
                exists, holder = await volumes.holder(volume)
                if exists:
                    return exists, holder
        return False, ""

    async def _all_volumes(self) -> list[Volumes]:
        return [place.volumes for place in await self._used() if place.volumes is not None]

    async def delete(self, name: str) -> None:
        """Stop it, remove its guests and all of it; returns when it is gone."""
        try:
            await self._engine.delete(name)
        except NotFound:
            return
        while name in self._engine.desired.rows:  # noqa: ASYNC110 - the engine tries until it is done; nobody tells
            await asyncio.sleep(_LOOK)

    async def recover(self, deployable: str, assembly: str, *, reason: str) -> None:
        """Restart one assembly's guest and its resources through the engine, in dependency order."""
        await self._engine.command(deployable, "restart", {"assembly": assembly, "reason": reason})

    async def execute(
        self, deployable: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest."""
        return await self._engine.execute(deployable, assembly, argv, stdin=stdin, timeout=timeout)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens to deployables from now on; what an overrun left out is read from the log."""
        cursor = -1
        while True:
            with self._engine.subscribe() as live:
                while cursor >= 0:
                    missed, cursor_now = await self._engine.events(EventFilter(), after=cursor, limit=_RECENT)
                    for event in missed:
                        yield event
                    cursor = cursor_now
                    if not missed:
                        break
                try:
                    while True:
                        event_now = await live.next()
                        if event_now is not None and event_now.sequence > cursor:
                            cursor = event_now.sequence
                            yield event_now
                except TooSlow as problem:
                    cursor = max(cursor, problem.cursor)
                except Closed:
                    return


def loses(old: Deployable, new: Deployable) -> bool:
    """Whether a change only takes assemblies away, or is only about volumes and addresses. Pure."""
    before, after = {one.name for one in old.assemblies}, {one.name for one in new.assemblies}
    if after != before:
        return after < before

    def rest(one: Deployable) -> list[Assembly]:
        return [msgspec.structs.replace(each, volumes=(), addresses=()) for each in one.assemblies]

    return old != new and rest(old) == rest(new)


@contextlib.contextmanager
def _told(code: str, before: str = "") -> Iterator[None]:
    """Tell an infrastructure's errors as ours."""
    try:
        yield
    except InfrastructureError as problem:
        raise Unavailable.of(code, f"{before}{problem}") from problem
