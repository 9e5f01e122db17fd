"""Programs that are asked for while the guest still boots wait until its basic services stand.

The agent is started early in the boot, so that it can be reached, and units be asked for, without delay; systemd starts
those in its own order. A program of ours has no such order: it may need the file systems, run-time folders and sockets
that `basic.target` stands for. Owns: what waits for that. Callbacks of the loop.
"""

from __future__ import annotations

import os

from pcloud.agent.loop import Loop
from pcloud.agent.operation import CANCELLED, OK, Result

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pcloud.agent.systemd import Systemd

    class Running(Protocol):
        """What runs and can be ended."""

        def kill(self) -> None:
            """End it."""


class Boot:
    """Knows whether the guest's basic services stand."""

    __slots__ = ("_loop", "_systemd", "_wait", "_waiting", "over")

    def __init__(self, loop: Loop, systemd: Callable[[], Systemd]) -> None:
        self._loop, self._systemd = loop, systemd
        self._waiting: list[Callable[[], None]] = []
        self._wait = 0.01
        self.over = not os.path.isdir("/run/systemd/system")
        """Once true it stays so. Where the first process is not systemd there is nothing to wait for."""

    def then(self, callback: Callable[[], None]) -> None:
        """Call back when they stand, or can not be expected any more; at once where they do."""
        if self.over:
            callback()
            return
        self._waiting.append(callback)
        if len(self._waiting) == 1:
            self._ask()

    def _ask(self) -> None:
        self._systemd().job("basic.target", self._answer)

    def _answer(self, job: int) -> None:
        if job:
            self._loop.later(self._wait, self._ask)
            self._wait = min(self._wait * 1.2, 0.5)
            return
        self.over = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class Held:
    """An operation that begins when the boot is over."""

    __slots__ = ("_begin", "_done", "_loop", "_running")

    def __init__(
        self, loop: Loop, boot: Boot, begin: Callable[[], Running | None], done: Callable[[Result], None]
    ) -> None:
        self._loop = loop
        self._begin: Callable[[], Running | None] | None = begin
        self._done = done
        self._running: Running | None = None
        boot.then(self._go)

    def _go(self) -> None:
        begin, self._begin = self._begin, None
        if begin is not None:
            self._running = begin()

    def kill(self) -> None:
        """End it, or never begin it; `done` follows."""
        if self._running is not None:
            self._running.kill()
        elif self._begin is not None:
            self._begin = None
            self._loop.soon(lambda: self._done(Result(OK, CANCELLED)))
