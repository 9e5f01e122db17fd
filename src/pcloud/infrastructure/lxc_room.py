"""Room for what guests write to their volumes: files of volumes grow as they are written, and their file system may be too
small for all of it. Then writes of guests fail, which nobody but the guest would see; so it is told before, and when it is.

Concurrency: one task on an event loop; the look itself runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import StrEnum

import msgspec

from pcloud.infrastructure.lxc_volumes import LxcVolumes

_log = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
SHORT = 0.05
"""Share of the file system that is left when it is told that it runs short."""
AGAIN = 0.08
"""Share that must be left until it is told that there is room again."""
FULL = 1 << 20
"""Bytes: with fewer left nothing can be relied upon."""


class Room(StrEnum):
    """How much room there is for what attached volumes may still take."""

    ENOUGH = "enough"
    SHORT = "short"
    FULL = "full"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at one moment, in bytes."""

    free: int
    size: int
    promised: int
    """What attached volumes can still take beyond what they have."""
    guests: tuple[str, ...] = ()
    """Who has a volume that can."""


def judge(before: Room, seen: Look) -> Room:
    """Return how it stands now, given how it stood: what is told once is not taken back for a few bytes. Pure."""
    if seen.promised <= seen.free:
        return Room.ENOUGH
    if seen.free < FULL:
        return Room.FULL
    edge = SHORT if before is Room.ENOUGH else AGAIN
    return Room.SHORT if seen.free < edge * seen.size else Room.ENOUGH


def sentence(now: Room, seen: Look) -> str:
    """Return what is told of a change."""
    left = f"{seen.free >> 20} of {seen.size >> 20} MiB are free in the file system that volumes lie in"
    whom = ", ".join(seen.guests[:20]) + (f" and {len(seen.guests) - 20} more" if len(seen.guests) > 20 else "")
    match now:
        case Room.FULL:
            return f"{left}: writes to volumes fail until there is room; concerned: {whom}"
        case Room.SHORT:
            return f"{left}, and attached volumes may take {seen.promised >> 20} MiB more; concerned: {whom}"
    return f"{left}: there is room for volumes again"


class RoomWatch:
    """Looks again and again, and tells of changes."""

    def __init__(self, volumes: LxcVolumes, tell: Callable[[Room, str, Look], None]) -> None:
        self._volumes = volumes
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Look from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="room for volumes")

    async def close(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        stands = Room.ENOUGH
        while True:
            try:
                seen = await asyncio.to_thread(self.look)
            except OSError as error:  # the folder goes with its last volume, or is being moved
                _log.info("room for volumes can not be told: %s", error)
            else:
                now = judge(stands, seen)
                if now is not stands:
                    stands = now
                    self._tell(now, sentence(now, seen), seen)
            await asyncio.sleep(EVERY_SECONDS)

    def look(self) -> Look:
        """Return what is to be seen now. Blocks; OSError."""
        promised = {guest: left for guest, left in self._volumes.promised().items() if left}
        if not promised:
            return Look(free=0, size=0, promised=0)
        free, size = self._volumes.space()
        return Look(free=free, size=size, promised=sum(promised.values()), guests=tuple(sorted(promised)))
