"""One command in a guest over an open ssh connection.

Owns the session channel from its request to its end. Concurrency: any number at once on one connection; who calls bounds
that (sshd's MaxSessions is 10 by default).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import asyncssh

from pcloud.transport.ssh_commands import RemoteExit

OUTPUT_LIMIT = 64 * 1024
"""Bytes kept of each of stdout and stderr; more is read and dropped, so that the agent never blocks on a full pipe."""

_DRAIN = 0.2
"""Seconds to wait for the end of the output after the exit status: a daemon that an agent started may hold the pipe open for
ever."""
_ROUNDS = 32
"""Questions after that at most: each brings some KiB of what was in the pipe, which holds 64 or, as a socket, some more."""


class CommandSession(asyncssh.SSHClientSession[bytes]):
    """Collects what a remote command prints and how it ends."""

    def __init__(self, limit: int = OUTPUT_LIMIT, on_line: Callable[[bytes], None] | None = None) -> None:
        self._limit = limit
        self._on_line = on_line
        self._partial = b""
        self._loop = asyncio.get_running_loop()
        self.received = 0
        """Bytes that came, also those that were not kept."""
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.returncode = -1
        self.signal = ""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the exit status is known or the channel has closed."""
        self.drained: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Keep output up to the limit."""
        self.received += len(data)
        if self._on_line is not None and datatype is None:
            *lines, self._partial = (self._partial + data).split(b"\n")
            self._partial = self._partial[-self._limit :]
            for line in lines:
                self._on_line(line)
            return
        kept = self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout
        kept += data[: max(0, self._limit - len(kept))]

    def eof_received(self) -> bool:
        """Note that no more output comes; the exit status may still follow."""
        _finish(self.drained)
        return True

    def exit_status_received(self, status: int) -> None:
        """Note the exit status."""
        self.returncode = status
        _finish(self.ended)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Note the signal that ended the command."""
        self.signal = signal
        _finish(self.ended)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the channel is gone."""
        for future in (self.ended, self.drained, self.closed):
            _finish(future)


class LinkLost(ConnectionError):
    """The connection went while a command ran: nothing is known of how it ended."""


async def run(
    connection: asyncssh.SSHClientConnection,
    command: str,
    *,
    stdin: bytes = b"",
    timeout: float,
    limit: int = OUTPUT_LIMIT,
) -> RemoteExit:
    """Run a command line and return how it ended; after `timeout` seconds its process group is killed.

    LinkLost when the connection goes before the end is known; asyncssh.ChannelOpenError when sshd grants no session.
    """
    began = time.monotonic()
    session = CommandSession(limit)
    channel: asyncssh.SSHClientChannel[bytes] | None = None
    timed_out = False
    try:
        async with asyncio.timeout(timeout):
            channel, _ = await connection.create_session(lambda: session, command, encoding=None)
            if stdin:
                channel.write(stdin)
            channel.write_eof()
            await asyncio.shield(session.ended)
            if session.returncode < 0 and not session.signal:
                raise LinkLost("the connection was lost while a command ran")
        await _drain(connection, session, timeout)
    except TimeoutError:
        timed_out = True
        if channel is not None:
            with contextlib.suppress(OSError, asyncssh.Error):
                channel.send_signal("KILL")  # sshd signals the command's whole process group
    except BrokenPipeError as error:
        raise LinkLost(str(error)) from error
    finally:
        if channel is not None:
            channel.close()
    return RemoteExit(
        returncode=session.returncode,
        signal=session.signal,
        stdout=bytes(session.stdout),
        stderr=bytes(session.stderr),
        seconds=time.monotonic() - began,
        timed_out=timed_out,
    )


async def _drain(connection: asyncssh.SSHClientConnection, session: CommandSession, timeout: float) -> None:
    """Wait for what an ended command had printed: sshd tells of the end before it has read all of it.

    While nothing says that no more comes, sshd is asked something, which it answers after what it has read until then. An
    answer with nothing before it ends the wait: how slow sshd or the link is plays no part.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN):
            await asyncio.shield(session.drained)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            for _ in range(_ROUNDS):
                before = session.received
                if session.drained.done():
                    return
                asked: asyncio.Future[Any] = asyncio.ensure_future(
                    connection._make_global_request(b"keepalive@openssh.com")
                )
                try:
                    await asyncio.wait({asked, session.closed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    asked.cancel()
                if session.received == before:
                    return


def _finish(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
