"""The engine process's journal: what must survive it, on its way to the daemon's store.

Every record is appended to `run/spool-SLOT-PROCESS.bin` (concatenated frames of `messages`) before it is sent, and the file
is emptied when the daemon has acknowledged all of it. So a record outlives `kill -9` of both processes: the daemon reads
the files of engine processes that no longer live. Records are delivered at least once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from pcloud.dpe.messages import Record, encode
from pcloud.events.event import Event

log = logging.getLogger(__name__)


class Spool:
    """A `Journal` that writes to a file and to whichever daemon is connected."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.path = path
        self._sequence = 0
        self._writer: asyncio.StreamWriter | None = None
        self._full = False
        self._unwritten: list[bytes] = []
        """Frames that the disk had no room for."""

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
        try:
            os.write(self._file, frame)
        except OSError as error:
            if not self._full:
                log.warning("%s can not be written, records wait in memory: %s", self.path, error)
            self._full = True
            self._unwritten.append(frame)
        if self._writer is not None:
            self._writer.write(frame)

    def connected(self, writer: asyncio.StreamWriter) -> None:
        """Send everything that is not acknowledged to a daemon that has just connected, and the rest as it comes."""
        size = os.fstat(self._file).st_size
        if size:
            writer.write(os.pread(self._file, size, 0))
        for frame in self._unwritten:
            writer.write(frame)
        self._writer = writer

    def disconnected(self) -> None:
        """The daemon went away."""
        self._writer = None

    def acknowledged(self, sequence: int) -> None:
        """The daemon has committed everything up to a sequence number."""
        if sequence == self._sequence:
            os.ftruncate(self._file, 0)
            self._unwritten.clear()
            self._full = False

    def close(self) -> None:
        """Close the file, and remove it when nothing in it waits."""
        if not os.fstat(self._file).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
