"""The daemon's engine behind `pcloud.stacks.platform.Platform`.

Concurrency: lives on the daemon's event loop. What it is asked for is stored by the engine before a method returns, so a
crash at any moment leaves the wish or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.settings import StackSettings, split_address
from pcloud.environment.infrastructure import (
    Capability,
    ExecResult,
    InfrastructureError,
    SnapshotInfo,
    Snapshots,
    VolumeInfo,
    Volumes,
)
from pcloud.events.broadcast import Closed, TooSlow
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.images.definitions import definitions
from pcloud.infrastructure import lxc_live
from pcloud.infrastructure.checks import able
from pcloud.infrastructure.lxc_disks import LxcVolumeStore
from pcloud.infrastructure.lxc_network import Leases
from pcloud.infrastructure.lxc_room import Look, Room, RoomWatch
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.errors import Conflict, NotFound, Unavailable
from pcloud.model.names import guest_id
from pcloud.model.status import DeployableStatus
from pcloud.objects.store import ObjectStore
from pcloud.stacks.guests.catalogue import Catalogue
from pcloud.stacks.guests.endpoint import GuestEndpoint
from pcloud.stacks.guests.networks import GuestNetworks

_LOOK = 0.2
_HELD = "_address."
"""Begins the name of who holds an address that is no guest's own."""
CLOUDWATCH_PORT = 8003
"""Written into heat-cfntools' cfn-push-stats, hence the same everywhere."""
_GIB = 1 << 30
_RECENT = 1000
"""Events that are read again after an overrun."""


class EnginePlatform:
    """Deployables of stacks, kept alive by the engine of this daemon."""

    def __init__(self, engine: CloudPolicyEngine, settings: StackSettings, objects: ObjectStore | None = None) -> None:
        self._engine = engine
        self.objects = objects or ObjectStore()
        ports = [split_address(settings.cloudformation)[1], CLOUDWATCH_PORT]
        self._state = engine.home.path / "infrastructure" / "lxc"
        self.endpoint = GuestEndpoint(self._state, engine.settings.infrastructures.get("lxc", {}), ports)
        self.infrastructure = settings.infrastructure
        self.catalogue = Catalogue(settings, {name: frozenset(one.packages) for name, one in definitions().items()})
        can = able(settings.infrastructure)
        # Without files of its own a server of a stack would lack its user data.
        self.capabilities: frozenset[str] = can | {"guests"} if Capability.SEED in can else frozenset()
        self._volumes: Volumes = LxcVolumeStore(self._state)
        self._room = RoomWatch(LxcVolumes(self._state), self._tell_room)
        self.networks = GuestNetworks(self._state, self.endpoint)

    def images(self) -> Sequence[str]:
        """Return the names of the JEOS that guests can be made from."""
        return sorted(definitions())

    def read(self, document: Mapping[str, Any]) -> Deployable:
        """Read a manifest; InvalidDocument with every problem."""
        return self._engine.documents.read(msgspec.json.encode(document), "json", "")

    async def prepare(self) -> str:
        """Be reachable for guests before the first is made; return the URL."""
        if Capability.VOLUMES in self.capabilities:
            self._volumes.open()
            self._room.open()
        return await self.endpoint.open() if self.capabilities else ""

    async def release(self) -> None:
        """No stack has guests any more."""
        await self.endpoint.close(leave=False)
        await self._room.close()
        await self._volumes.close()

    async def close(self) -> None:
        """Stop; what runs goes on."""
        await self.endpoint.close(leave=True)
        await self._room.close()
        await self._volumes.close()
        await self.objects.close()

    def _tell_room(self, now: Room, sentence: str, seen: Look) -> None:
        how = {Room.ENOUGH: Severity.NOTICE, Room.SHORT: Severity.WARNING, Room.FULL: Severity.CRITICAL}[now]
        self._engine.emit("volume.room", sentence, severity=how, room=now.value, free=seen.free, guests=seen.guests)

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
        # The driver gives the address back last of all.
        leases = Leases(self._state)
        return guest_id(deployable, assembly) in await asyncio.to_thread(leases.all)

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        """Take an address of the guests' network, the same for the same holder, until it is released."""
        return await self.endpoint.take(f"{_HELD}{holder}", wanted)

    async def release_address(self, holder: str) -> None:
        """Give it back."""
        await self.endpoint.give_back(f"{_HELD}{holder}")

    def address_refusal(self, address: str, guests: Sequence[tuple[str, str]], holders: Sequence[str]) -> str:
        """Say why an address can not be had."""
        own = {guest_id(*place) for place in guests} | {f"{_HELD}{holder}" for holder in holders}
        return self.endpoint.refusal(address, frozenset(own))

    async def settle(self, deployable: str, assembly: str) -> None:
        """Bring a running guest's addresses, firewall and volumes to its stored definition, without a restart."""
        definition = await self.definition(deployable)
        found = next((one for one in definition.assemblies if one.name == assembly), None) if definition else None
        if found is None:
            return
        folder = self._state / "guests" / guest_id(deployable, assembly)
        network = self.endpoint.network()
        if network is None or not await asyncio.to_thread(folder.is_dir):
            return  # it gets both when it starts
        try:
            await lxc_live.settle(folder, found, network)
        except InfrastructureError as problem:
            raise Unavailable.of("NOT_SETTLED", f"{deployable}/{assembly}: {problem}") from problem
        with _volume_errors():
            await self._volumes.attach(folder.name, found.volumes)

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        """Make a volume of that size, empty or as a snapshot is, or let one grow to it."""
        with _volume_errors():
            if snapshot:
                await self._snapshots().restore(snapshot, volume, gigabytes * _GIB)
            else:
                await self._volumes.create(volume, gigabytes * _GIB)

    async def snapshot_volume(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has."""
        with _volume_errors():
            await self._snapshots().take(volume, snapshot, note)

    async def volumes(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        return await self._volumes.all_volumes() if isinstance(self._volumes, Snapshots) else []

    async def snapshots(self) -> list[SnapshotInfo]:
        """Return what snapshots of volumes there are."""
        return await self._volumes.all_snapshots() if isinstance(self._volumes, Snapshots) else []

    async def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot."""
        with _volume_errors():
            await self._snapshots().delete_snapshot(snapshot)

    def _snapshots(self) -> Snapshots:
        if not isinstance(self._volumes, Snapshots):
            raise Unavailable.of("NO_SNAPSHOTS", f"there are no snapshots of volumes on {self.infrastructure}")
        return self._volumes

    async def delete_volume(self, volume: str) -> None:
        """Remove a volume."""
        with _volume_errors():
            await self._volumes.delete(volume)

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and who has it."""
        with _volume_errors():
            return await self._volumes.holder(volume)

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
def _volume_errors() -> Iterator[None]:
    try:
        yield
    except InfrastructureError as problem:
        raise Unavailable.of("NO_VOLUME", str(problem)) from problem
