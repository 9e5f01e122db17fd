"""The engine process's journal: what must survive it, on its way to the daemon's store.

Every record is appended to `run/spool-SLOT-PROCESS.bin` (concatenated frames of `messages`) before it is sent, and the file
is emptied when the daemon has acknowledged all of it. So a record outlives `kill -9` of both processes: the daemon reads
the files of engine processes that no longer live. Records are delivered at least once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

from pcloud.dpe.messages import Record, encode
from pcloud.events.event import Event

log = logging.getLogger(__name__)

MOST_UNSENT = 16 * 1024 * 1024
"""Bytes on their way to a daemon that does not read, at which the connection is given up."""
COMPACT = 4 * 1024 * 1024
"""Bytes of acknowledged records at which the file is written anew."""


class Spool:
    """A `Journal` that writes to a file and to whichever daemon is connected."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = path
        self._sequence = 0
        self._writer: asyncio.StreamWriter | None = None
        self._full = False
        self._waiting: deque[tuple[int, int]] = deque()
        """(sequence, size) of the frames in the file that are not acknowledged, oldest first."""
        self._done = 0
        """Bytes at the file's beginning that are acknowledged."""
        self._unwritten: deque[tuple[int, bytes]] = deque()
        """Frames that the disk had no room for."""

    def event(self, event: Event, state: bytes | None = None) -> None:
        """Record an event, and in the same frame the engine state that it led to."""
        self._record(Record(sequence=self._next(), deployable=event.deployable, event=event, state=state))

    def decision(self, deployable: str, record: dict[str, Any]) -> None:
        """Record a decision."""
        self._record(Record(sequence=self._next(), deployable=deployable, decision=record))

    def state(self, deployable: str, state: bytes) -> None:
        """Record a deployable's persistent engine state."""
        self._record(Record(sequence=self._next(), deployable=deployable, state=state))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _record(self, record: Record) -> None:
        frame = encode(record)
        self._unwritten.append((record.sequence, frame))
        while self._unwritten and self._write(self._unwritten[0][1]):  # in order: the daemon drops what comes late
            sequence, written = self._unwritten.popleft()
            self._waiting.append((sequence, len(written)))
        if self._writer is not None:
            self._writer.write(frame)
            if self._writer.transport.get_write_buffer_size() > MOST_UNSENT:
                # The daemon does not read: let it go. What it has not acknowledged is sent when it connects again.
                log.warning("the daemon does not take records; disconnecting")
                self._writer.transport.abort()
                self._writer = None

    def _write(self, frame: bytes) -> bool:
        """Append a frame, or leave the file as it was: a part of one would spoil all that follows."""
        try:
            written = os.write(self._file, frame)
        except OSError as error:
            if not self._full:
                log.warning("%s can not be written, records wait in memory: %s", self.path, error)
            self._full = True
            return False
        if written < len(frame):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            self._full = True
            return False
        return True

    def connected(self, writer: asyncio.StreamWriter) -> None:
        """Send everything that is not acknowledged to a daemon that has just connected, and the rest as it comes."""
        writer.write(self._tail())
        for _, frame in self._unwritten:
            writer.write(frame)
        self._writer = writer

    def _tail(self) -> bytes:
        size = os.fstat(self._file).st_size - self._done
        return os.pread(self._file, size, self._done) if size > 0 else b""

    def disconnected(self) -> None:
        """The daemon went away."""
        self._writer = None

    def acknowledged(self, sequence: int) -> None:
        """The daemon has committed everything up to a sequence number."""
        while self._waiting and self._waiting[0][0] <= sequence:
            self._done += self._waiting.popleft()[1]
        while self._unwritten and self._unwritten[0][0] <= sequence:
            self._unwritten.popleft()
        if not self._waiting:
            os.ftruncate(self._file, 0)
            self._done = 0
            self._full = False
        elif self._done > COMPACT:
            self._compact()

    def _compact(self) -> None:
        """Write the file anew without what is acknowledged: under constant load it is never empty."""
        fresh = self.path.with_suffix(".new")
        tail = self._tail()
        try:
            file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("%s can not be written anew, it stays as it is: %s", self.path, error)
            return
        try:
            if os.write(file, tail) < len(tail):
                raise OSError("no room for the rest")
            fresh.replace(self.path)
        except OSError as error:
            log.warning("%s can not be written anew, it stays as it is: %s", self.path, error)
            os.close(file)
            fresh.unlink(missing_ok=True)
            return
        os.close(self._file)
        self._file, self._done = file, 0

    def close(self) -> None:
        """Close the file, and remove it when nothing in it waits."""
        if not os.fstat(self._file).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
