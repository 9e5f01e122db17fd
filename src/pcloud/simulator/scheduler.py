"""Pacemaker's scheduler for virtual time: the same worker process, asked with a blocking call, so that no time passes."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

from pcloud.environment.scheduler import SchedulerError

_LENGTH = struct.Struct(">I")


class InlineScheduler:
    """`Scheduler` that blocks the loop while the worker decides (about a millisecond)."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self.decisions = 0

    async def schedule(self, cib: bytes) -> bytes:
        """Return the transition graph for a CIB; SchedulerError when it is refused or kills the worker."""
        connection = self._open()
        self.decisions += 1
        try:
            connection.sendall(_LENGTH.pack(len(cib)) + cib)
            kind, body = self._read(connection)
        except (ConnectionError, EOFError) as error:
            self._end()
            raise SchedulerError(f"the scheduler died on this input: {error}") from error
        if kind != b"G":
            raise SchedulerError(body.decode(errors="replace"))
        return body

    def _open(self) -> socket.socket:
        if self._connection is None:
            self._connection, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "pcloud.scheduler.worker", str(theirs.fileno()), str(os.getpid())]
                self._worker = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
            self._read(self._connection)  # its word that it is ready
        return self._connection

    def _read(self, connection: socket.socket) -> tuple[bytes, bytes]:
        (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
        answer = _exactly(connection, size)
        return answer[:1], answer[1:]

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            self._worker = None

    def pardon(self, cib: bytes) -> None:
        """Nothing is ever set aside here."""

    async def close(self) -> None:
        """End the worker."""
        self._end()


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = connection.recv(size)
        if not part:
            raise EOFError("it closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
