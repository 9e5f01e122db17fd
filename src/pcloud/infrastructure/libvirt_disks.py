"""Volumes as whoever drives libvirt on this host has them: made, attached to running guests, copied, grown.

Concurrency: lives on one event loop; libvirt is asked in the connection's threads, files are handled in others. A change of
a guest's disks has a connection of its own: one that a hung machine holds delays all that shares its connection. Other
processes' calls on the same state folder wait for the lock of `libvirt_volumes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable, VolumeInfo
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.libvirt_volumes import LibvirtVolumes
from pcloud.infrastructure.volume_snapshots import SnapshotStore, VolumeSnapshots
from pcloud.model.deployable import AttachedVolume


class LibvirtVolumeStore(SnapshotStore):
    """The volumes of the guests of one driver. Implements `Volumes` and `Snapshots` of
    `pcloud.environment.infrastructure`."""

    def __init__(self, settings: LibvirtSettings, volumes: LibvirtVolumes, connection: LibvirtConnection) -> None:
        super().__init__(VolumeSnapshots(volumes.state, volumes))
        self._settings = settings
        self._volumes = volumes
        self._libvirt = connection
        self._own: dict[str, LibvirtConnection] = {}
        """The connections of guests whose change is under way, or was given up and may still be."""

    def open(self) -> None:
        """A guest follows its disks by itself."""

    async def close(self) -> None:
        """Close what is left of changes; volumes stay where they are."""
        for connection in self._own.values():
            await connection.close()
        self._own.clear()

    async def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow, in the machine that has it too."""
        await asyncio.to_thread(self._volumes.create, volume, size)
        await self._libvirt.call(lambda c: self._volumes.resize(c, volume, size))

    async def delete(self, volume: str) -> None:
        """Remove a volume; no error when there is none."""
        await self._libvirt.call(lambda c: self._volumes.delete(c, volume))

    async def holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and the guest that has it."""
        if not await asyncio.to_thread(self._volumes.exists, volume):
            return False, ""
        return True, (await self._libvirt.call(self._volumes.holders)).get(volume, "")

    async def attach(self, guest_id: str, wanted: Sequence[AttachedVolume]) -> None:
        """Give a guest these volumes and no others."""
        own = self._own.get(guest_id)
        if own is None:
            own = self._own[guest_id] = LibvirtConnection(self._settings.uri, timeout=self._settings.call_timeout)
        try:
            await own.call(lambda c: self._volumes.apply(c, guest_id, wanted), changes=guest_id)
        except InfrastructureUnavailable:
            raise  # what was given up may go on: until it ends, that connection refuses the next change
        except InfrastructureError:
            await self._done(guest_id)
            raise
        await self._done(guest_id)

    async def _done(self, guest_id: str) -> None:
        if (connection := self._own.pop(guest_id, None)) is not None:
            await connection.close()

    async def take(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has."""
        if not await asyncio.to_thread(self._snapshots.has, snapshot):
            _, holder = await self.holder(volume)
            if holder:
                raise InfrastructureError(f"volume {volume} is attached to {holder}")
        await super().take(volume, snapshot, note)

    async def restore(self, snapshot: str, volume: str, size: int) -> None:
        """Make a volume that begins as a snapshot, or let one grow."""
        await super().restore(snapshot, volume, size)
        if size:
            await self._libvirt.call(lambda c: self._volumes.resize(c, volume, size))

    async def all_volumes(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        holders = await self._libvirt.call(self._volumes.holders)
        return await asyncio.to_thread(self._volumes.infos, holders)
