"""Whether the guest has booted so far that operations may be asked for.

The agent is started early in the boot, so that a connection can stand when the boot is over. Operations would come too
early: their programs may need the file systems, run-time folders and sockets that `basic.target` stands for, and their
time-outs would pass while the guest boots. Owns: who waits for that. Callbacks of the loop.
"""

from __future__ import annotations

import os

from pcloud.agent.loop import Loop

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

_ASK_AGAIN = 0.5
"""Seconds after which systemd is asked anew: the connection to it may have been lost, and with it the news."""


class Boot:
    """The guest's boot."""

    __slots__ = ("_job_ended", "_loop", "_waiting", "over")

    def __init__(self, loop: Loop, job_ended: Callable[[str, Callable[[], None]], None]) -> None:
        """`job_ended(unit, reply)` has systemd tell when a unit has no job any more."""
        self._loop, self._job_ended = loop, job_ended
        self._waiting: list[Callable[[], None]] = []
        self.over = not os.path.isdir("/run/systemd/system")
        """Once true it stays so. Where the first process is not systemd there is nothing to wait for."""
        if not self.over:
            loop.soon(self._ask)

    def then(self, callback: Callable[[], None]) -> None:
        """Call back when it is over."""
        self._waiting.append(callback)

    def _ask(self) -> None:
        if not self.over:
            self._job_ended("basic.target", self._ended)
            self._loop.later(_ASK_AGAIN, self._ask)

    def _ended(self) -> None:
        self.over = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
