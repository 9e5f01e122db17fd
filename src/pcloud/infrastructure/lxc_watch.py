"""Which guests run, learnt from pidfds: a guest's death wakes the event loop at once, without polling or a helper process.

Concurrency: used by one event loop. Each tracked guest costs one file descriptor. Guests that another process started (or
that ran before this one did) are taken in by `adopt`, which looks at the pid files that LXC writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import GuestEvent, GuestState
from pcloud.infrastructure import lxc_process
from pcloud.infrastructure.lxc_process import Process


class Running(msgspec.Struct, frozen=True):
    """A guest's two processes."""

    init: Process
    monitor: Process | None
    """None when LXC's monitor was killed and init has not followed it (a frozen init can not)."""


class Tracker:
    """The running guests of one state folder, and those who want to hear of changes."""

    def __init__(self, guests: Path, rescan: float) -> None:
        self._guests = guests
        self._rescan = rescan
        self._running: dict[str, Running] = {}
        self._pidfds: dict[str, int] = {}
        self._ending: dict[str, str] = {}
        self._listeners: set[asyncio.Queue[GuestEvent | None]] = set()
        self._scanner: asyncio.Task[None] | None = None

    def find(self, guest_id: str) -> Running | None:
        """Return the guest's processes when it runs, looking at /proc where it is not tracked yet."""
        running = self._running.get(guest_id)
        if running is not None and lxc_process.is_alive(running.init):
            return running
        monitor = self.monitor(guest_id)
        init = lxc_process.find_init(monitor) if monitor else self._remembered(guest_id)
        if init is None:
            return None
        running = Running(init, monitor)
        return running if self._track(guest_id, running) else None

    def monitor(self, guest_id: str) -> Process | None:
        """Return the guest's live LXC monitor, which ends a little after its init."""
        return lxc_process.find_monitor(self._guests / guest_id / "lxc.pid", self._guests, guest_id)

    def seen(self, guest_id: str) -> bool:
        """Tell whether somebody has seen the guest run since it was last prepared for a start."""
        return (self._guests / guest_id / "init").exists()

    def expect_end(self, guest_id: str, reason: str) -> None:
        """Give the reason that will be told when the guest ends: it is we who end it."""
        self._ending[guest_id] = reason

    def names(self) -> list[str]:
        """Return the ids of all guests that exist here, running or not."""
        try:
            with os.scandir(self._guests) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except FileNotFoundError:
            return []

    def adopt(self) -> None:
        """Take in every running guest that is not tracked."""
        for name in self.names():
            if name not in self._running:
                self.find(name)

    def listen(self) -> asyncio.Queue[GuestEvent | None]:
        """Return a queue that gets the guests that run, then every change; None ends it."""
        queue: asyncio.Queue[GuestEvent | None] = asyncio.Queue()
        self.adopt()
        for guest_id in self._running:
            queue.put_nowait(GuestEvent(guest_id=guest_id, state=GuestState.RUNNING))
        self._listeners.add(queue)
        if self._scanner is None:
            self._scanner = asyncio.get_running_loop().create_task(self._scan(), name="lxc-rescan")
        return queue

    async def unlisten(self, queue: asyncio.Queue[GuestEvent | None]) -> None:
        """Send nothing more to a queue."""
        self._listeners.discard(queue)
        if not self._listeners:
            await self._stop_scanner()

    async def close(self) -> None:
        """Forget everything; listeners end."""
        for queue in self._listeners:
            queue.put_nowait(None)
        self._listeners.clear()
        await self._stop_scanner()
        for guest_id in list(self._pidfds):
            self._untrack(guest_id)

    def _track(self, guest_id: str, running: Running) -> bool:
        if self._running.get(guest_id) == running:
            return True
        fd = lxc_process.open_pidfd(running.init)
        if fd is None:
            return False
        self._untrack(guest_id)
        self._running[guest_id] = running
        self._pidfds[guest_id] = fd
        self._ending.pop(guest_id, None)
        if self._remembered(guest_id) != running.init:
            with contextlib.suppress(FileNotFoundError):  # being deleted
                (self._guests / guest_id / "init").write_text(str(running.init))
        asyncio.get_running_loop().add_reader(fd, self._ended, guest_id, running)
        self._tell(GuestEvent(guest_id=guest_id, state=GuestState.RUNNING))
        return True

    def _remembered(self, guest_id: str) -> Process | None:
        """The init that was seen last, if it still executes and is this container's."""
        try:
            pid, start = (self._guests / guest_id / "init").read_text().split("-")
            process = Process(int(pid), int(start))
        except (FileNotFoundError, ValueError):
            return None
        if not lxc_process.is_alive(process):
            return None
        return process if any(g.name.startswith("lxc.payload.") for g in lxc_process.cgroups(process)) else None

    def _untrack(self, guest_id: str) -> None:
        self._running.pop(guest_id, None)
        fd = self._pidfds.pop(guest_id, None)
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _ended(self, guest_id: str, running: Running) -> None:
        if self._running.get(guest_id) == running:
            self._untrack(guest_id)
            reason = self._ending.pop(guest_id, "exited")
            self._tell(GuestEvent(guest_id=guest_id, state=GuestState.STOPPED, reason=reason))

    def _tell(self, event: GuestEvent) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)

    async def _scan(self) -> None:
        while True:
            await asyncio.sleep(self._rescan)
            self.adopt()

    async def _stop_scanner(self) -> None:
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            scanner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await scanner
