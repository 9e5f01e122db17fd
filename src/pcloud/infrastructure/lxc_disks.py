"""Volumes as whoever drives LXC has them: made, attached to running guests, kept in step with their partitions.

Concurrency: lives on one event loop; what blocks runs in threads, one call at a time. Other processes' calls on the same
state folder wait for the lock of `lxc_volumes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pcloud.environment.infrastructure import InfrastructureError, VolumeInfo
from pcloud.infrastructure.lxc_live import init_of
from pcloud.infrastructure.lxc_partitions import PartitionWatch
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.infrastructure.volume_snapshots import SnapshotStore, VolumeSnapshots
from pcloud.model.deployable import AttachedVolume

_log = logging.getLogger(__name__)
T = TypeVar("T")


class LxcVolumeStore(SnapshotStore):
    """The volumes of the guests of one state folder. Implements `Volumes` and `Snapshots` of
    `pcloud.environment.infrastructure`."""

    def __init__(self, state: Path) -> None:
        self._guests = state / "guests"
        self._volumes = LxcVolumes(state)
        super().__init__(VolumeSnapshots(state, self._volumes))
        self._watch = PartitionWatch(self._partitioned, self._look_again)
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stale = False
        """Whether all is to be looked at (again)."""
        self._looking = False

    def open(self) -> None:
        """Follow the partitions that guests make from now on, and look once at those they have."""
        try:
            self._watch.open()
        except OSError as error:
            _log.warning("partitions of volumes are seen at a guest's next start only: %s", error)
            return
        self._look_again()

    async def close(self) -> None:
        """Stop following; volumes stay where they are."""
        self._watch.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow."""
        await self._call(lambda: self._volumes.create(volume, size))

    async def delete(self, volume: str) -> None:
        """Remove a volume; no error when there is none."""
        await self._call(lambda: self._volumes.delete(volume))

    async def holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and the guest that has it."""
        return await self._call(lambda: (self._volumes.exists(volume), self._volumes.holder(volume)))

    async def attach(self, guest_id: str, wanted: Sequence[AttachedVolume]) -> None:
        """Give a guest these volumes and no others."""
        folder = self._guests / guest_id
        if not await asyncio.to_thread(folder.is_dir):
            return
        init = await init_of(folder)
        await self._call(lambda: self._volumes.apply(folder, wanted, init))

    async def all_volumes(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        return await asyncio.to_thread(self._volumes.all)

    async def _call(self, work: Callable[[], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(work)

    def _partitioned(self, loop: str) -> None:
        self._begin(self._refresh(loop), f"partitions of {loop}")

    def _look_again(self) -> None:
        """Bring all volumes' partitions to what they are, whatever was missed; one look for all that is missed meanwhile."""
        self._stale = True
        if not self._looking:
            self._looking = True
            self._begin(self._refresh_all(), "partitions of all volumes")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh_all(self) -> None:
        try:
            while self._stale:
                self._stale = False
                for loop in await asyncio.to_thread(self._volumes.connected):
                    await self._refresh(loop)
        except InfrastructureError as problem:
            _log.warning("what volumes guests have can not be told: %s", problem)
        finally:
            self._looking = False

    async def _refresh(self, loop: str) -> None:
        for folder, one in await asyncio.to_thread(self._volumes.of_loop, loop):
            init = await init_of(folder)
            try:
                async with self._lock:
                    await asyncio.to_thread(self._volumes.refresh, folder, loop, one.device, init)
            except InfrastructureError as problem:
                _log.warning("%s: the partitions of %s are not all there: %s", folder.name, one.device, problem)
