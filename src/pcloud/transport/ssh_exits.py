"""Detection at once of the exit of a service's process in a guest that carries nothing of ours.

Owns one long-lived channel per connection in which a constant script waits for processes (`tail --pid`, which any coreutils
has) and prints the id of each that ended. Optional: without it a recurring monitor notices at its next interval.
Concurrency: `watch` and `unwatch` may be called at any time from the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import asyncssh

from pcloud.transport.ssh_channel import CommandSession
from pcloud.transport.ssh_commands import WATCH_EXITS, as_root, command_line, script

_MAX_WATCHED = 64
"""Processes watched in one guest at once; each costs a sleeping `tail` there."""


class ExitWatch:
    """Tells `on_exit(key)` when one of the processes watched under `key` has ended."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        on_exit: Callable[[str], None],
        *,
        poll: float,
        username: str = "root",
    ) -> None:
        self._connection = connection
        self._on_exit = on_exit
        self._command = command_line([*as_root(username), *script(WATCH_EXITS, f"{poll:g}")])
        self._keys: dict[int, str] = {}
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._opening = asyncio.Lock()

    def watched(self, key: str) -> set[int]:
        """Return the process ids watched under a key."""
        return {pid for pid, owner in self._keys.items() if owner == key}

    async def watch(self, key: str, pids: Iterable[int]) -> None:
        """Watch exactly these processes under a key. Does nothing more when the guest refuses the channel."""
        wanted = set(pids)
        for pid in self.watched(key) - wanted:
            del self._keys[pid]  # its `tail` ends with the process; what it prints then is ignored
        new = [pid for pid in wanted if pid > 1 and pid not in self._keys][: max(0, _MAX_WATCHED - len(self._keys))]
        if not new:
            return
        with contextlib.suppress(OSError, asyncssh.Error):
            channel = await self._open()
            self._keys.update(dict.fromkeys(new, key))
            channel.write(b"".join(b"%d\n" % pid for pid in new))

    def unwatch(self, key: str) -> None:
        """Forget what was watched under a key."""
        for pid in self.watched(key):
            del self._keys[pid]

    def close(self) -> None:
        """End the channel, and with it everything it runs in the guest."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _open(self) -> asyncssh.SSHClientChannel[bytes]:
        async with self._opening:
            if self._channel is None or self._channel.is_closing():
                self._keys.clear()
                self._channel, _ = await self._connection.create_session(
                    lambda: CommandSession(on_line=self._line), self._command, encoding=None
                )
            return self._channel

    def _line(self, line: bytes) -> None:
        if line.isdigit() and len(line) < 10:
            key = self._keys.pop(int(line), None)
            if key is not None:
                self._on_exit(key)
