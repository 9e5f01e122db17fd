"""One engine slot: keeps exactly one engine process alive for it.

Concurrency: one task a slot. It adopts a process that already lives (after a crash of the daemon), else starts one; when
it ends, its spool is taken in and another is started, at once the first time and then with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Awaitable, Callable, Sequence

from pcloud.cpe import processes
from pcloud.cpe.home import Home
from pcloud.cpe.link import EngineLink

_log = logging.getLogger(__name__)
_STABLE = 60.0
_LONGEST_PAUSE = 30.0


class Slot:
    """Supervision of one slot."""

    def __init__(
        self,
        name: str,
        *,
        home: Home,
        command: Sequence[str],
        hello_timeout: Callable[[], float],
        before_start: Callable[[str], Awaitable[None]],
        on_end: Callable[[Slot], None],
    ) -> None:
        self.name = name
        self.link: EngineLink | None = None
        self.pid = 0
        self.restarts = 0
        self.started = 0
        self._home = home
        self._command = tuple(command)
        self._hello_timeout = hello_timeout
        self._before_start = before_start
        self._on_end = on_end
        self._linked = asyncio.Event()
        self._unlinked = asyncio.Event()
        self._unlinked.set()
        self._retiring = asyncio.Event()

    async def run(self) -> None:
        """Keep the slot's process alive until retired or cancelled (cancelling leaves the process alone)."""
        pause = 0.0
        loop = asyncio.get_running_loop()
        while True:
            if self._retiring.is_set():
                return
            begun = loop.time()
            child: subprocess.Popen[bytes] | None = None
            self.pid = processes.holder(self._home, self.name) or 0
            if not self.pid:
                await self._before_start(self.name)
                try:
                    child = processes.spawn(self._home, self.name, self._command)
                except OSError as error:
                    _log.error("engine process %s can not be started: %s", self.name, error)
                else:
                    self.pid = child.pid
                    self.started += 1
            try:
                if self.pid:
                    await self._until_end(self.pid)
            except asyncio.CancelledError:
                if child is not None:
                    child.returncode = 0  # it outlives us, on purpose
                raise
            if child is not None:
                child.wait()
                _log.warning("engine process %s (pid %d) ended with status %s", self.name, child.pid, child.returncode)
            if self.link is not None:
                self.link.close()
            self.pid = 0
            if self._retiring.is_set():
                return
            self.restarts += 1
            self._on_end(self)
            if loop.time() - begun >= _STABLE:
                pause = 0.0
            if pause:
                await asyncio.sleep(pause)
            pause = min(max(0.25, pause * 2), _LONGEST_PAUSE)

    async def _until_end(self, pid: int) -> None:
        """Wait for the process's end; kill it when it lives but does not connect."""
        end = asyncio.create_task(processes.ended(pid))
        try:
            while not end.done():
                waiting = asyncio.create_task(self._linked.wait())
                await asyncio.wait({end, waiting}, timeout=self._hello_timeout(), return_when=asyncio.FIRST_COMPLETED)
                connected = waiting.done()
                waiting.cancel()
                if end.done():
                    return
                if connected:
                    lost = asyncio.create_task(self._unlinked.wait())
                    await asyncio.wait({end, lost}, return_when=asyncio.FIRST_COMPLETED)
                    lost.cancel()
                else:
                    _log.error("engine process %s (pid %d) does not connect: ending it", self.name, pid)
                    processes.kill(pid, self.name)
                    await asyncio.wait({end}, timeout=5)
                    if not end.done() and not processes.is_engine(pid, self.name):
                        return
        finally:
            end.cancel()

    def retire(self) -> None:
        """Start no process any more."""
        self._retiring.set()

    def attach(self, link: EngineLink) -> None:
        """A connection of this slot's process said Hello."""
        self.link = link
        self._linked.set()
        self._unlinked.clear()

    def detach(self, link: EngineLink) -> None:
        """A connection ended."""
        if self.link is link:
            self.link = None
            self._linked.clear()
            self._unlinked.set()

    async def linked(self) -> EngineLink:
        """Return the connection, waiting for it."""
        while self.link is None or not self.link.is_open():
            if self.link is not None:
                await self._unlinked.wait()
            await self._linked.wait()
        return self.link
