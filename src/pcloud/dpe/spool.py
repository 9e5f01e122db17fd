"""The engine process's journal: what must survive it, on its way to the daemon's store.

Every record is appended to `run/spool-SLOT-PROCESS.bin` (concatenated frames of `messages`) before it is sent, and the file
is emptied when the daemon has acknowledged all of it. So a record outlives `kill -9` of both processes: the daemon reads
the files of engine processes that no longer live. Records are delivered at least once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

from pcloud.dpe.messages import Record, encode
from pcloud.events.event import Event

log = logging.getLogger(__name__)

COMPACT_BYTES = 1024 * 1024
"""An acknowledged beginning of this length is dropped from the file, when it is the larger part."""


class Spool:
    """A `Journal` that writes to a file and to whichever daemon is connected."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = path
        self._sequence = 0
        self._writer: asyncio.StreamWriter | None = None
        self._full = False
        self._size = os.fstat(self._file).st_size
        self._ends: deque[tuple[int, int]] = deque()
        """(sequence, offset in the file at which the record ends) of what is in the file and not acknowledged."""
        self._unwritten: deque[tuple[int, bytes]] = deque()
        """Records that the disk had no room for, in order; newer ones wait behind them."""

    def event(self, event: Event) -> None:
        """Record an event."""
        self._record(Record(sequence=self._next(), deployable=event.deployable, event=event))

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
        self._write()
        if self._writer is not None:
            self._writer.write(frame)

    def _write(self) -> None:
        """Write what waits. A record is in the file as a whole or not at all: the daemon reads what a dead process left."""
        while self._unwritten:
            sequence, frame = self._unwritten[0]
            try:
                written = os.write(self._file, frame)
                if written != len(frame):
                    os.ftruncate(self._file, self._size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                if not self._full:
                    log.warning("%s can not be written, records wait in memory: %s", self.path, error)
                self._full = True
                return
            self._size += len(frame)
            self._ends.append((sequence, self._size))
            self._unwritten.popleft()
        self._full = False

    def connected(self, writer: asyncio.StreamWriter) -> None:
        """Send everything that is not acknowledged to a daemon that has just connected, and the rest as it comes."""
        if self._size:
            writer.write(os.pread(self._file, self._size, 0))
        for _, frame in self._unwritten:
            writer.write(frame)
        self._writer = writer

    def disconnected(self) -> None:
        """The daemon went away."""
        self._writer = None

    def acknowledged(self, sequence: int) -> None:
        """The daemon has committed everything up to a sequence number."""
        done = 0
        while self._ends and self._ends[0][0] <= sequence:
            done = self._ends.popleft()[1]
        while self._unwritten and self._unwritten[0][0] <= sequence:
            self._unwritten.popleft()
        if not self._ends:
            os.ftruncate(self._file, 0)
            self._size = 0
        elif done > COMPACT_BYTES and done > self._size - done:
            self._compact(done)
        self._write()

    def _compact(self, done: int) -> None:
        """Drop the acknowledged beginning of the file: on a busy host there is hardly a moment without a newer record."""
        new = self.path.with_suffix(".new")
        try:
            file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            rest = os.pread(self._file, self._size - done, done)
            if os.write(file, rest) != len(rest):
                os.close(file)
                new.unlink()
                return
            new.replace(self.path)
        except OSError as error:
            log.warning("%s can not be made shorter: %s", self.path, error)
            return
        os.close(self._file)
        self._file = file
        self._size -= done
        self._ends = deque((number, end - done) for number, end in self._ends)

    def close(self) -> None:
        """Close the file, and remove it when nothing in it waits."""
        if not os.fstat(self._file).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
