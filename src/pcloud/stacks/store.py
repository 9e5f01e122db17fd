"""Where stacks are kept: the Protocol, and an SQLite file with group commit.

Concurrency: `put` and friends are called on the event loop and only queue; one writer thread takes all that is queued
and commits it in one transaction, in order. `flush` returns when all that was queued before it is on disk (WAL,
synchronous=FULL: it survives a power cut). A write that fails is not forgotten: `flush` raises from then on.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from pcloud.model.errors import Unavailable
from pcloud.stacks.records import AccessKey, ChangeSet, ResourceRecord, StackEvent, StackRecord

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stack (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS resource (id TEXT PRIMARY KEY, stack TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS resource_stack ON resource (stack);
CREATE TABLE IF NOT EXISTS event (stack TEXT NOT NULL, sequence INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (stack, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS thing (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""
SCHEMA_VERSION = 1

_encoder = msgspec.msgpack.Encoder()
_NAMES: dict[type[Any], str] = {StackRecord: "stack", ResourceRecord: "resource"}
_R = TypeVar("_R", StackRecord, ResourceRecord, ChangeSet, AccessKey)
_event = msgspec.msgpack.Decoder(StackEvent)


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is in the store and can not be read."""

    kind: str
    """`stack`, `resource`, `ChangeSet` or `AccessKey`."""
    id: str
    stack: str = ""
    """Id of the stack that a resource belongs to."""
    why: str
    told: dict[str, Any] = {}
    """What the record says as far as it can be taken apart at all."""


_PUT = {
    StackRecord: "INSERT INTO stack VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    ResourceRecord: "INSERT INTO resource VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    StackEvent: "INSERT OR REPLACE INTO event VALUES (?, ?, ?)",
}
_THING = "INSERT OR REPLACE INTO thing VALUES (?, ?, ?)"


class StackStore(Protocol):
    """What the engine asks of its store."""

    def put(self, record: StackRecord | ResourceRecord | StackEvent | ChangeSet | AccessKey) -> None:
        """Queue a record; the newest one of an id counts."""
        ...

    def remove(self, record: ResourceRecord | ChangeSet | AccessKey) -> None:
        """Queue the removal of a record."""
        ...

    def forget(self, stack: str) -> None:
        """Queue the removal of a deleted stack with its events."""
        ...

    def set(self, kind: str, key: str, value: Any) -> None:
        """Queue a small value of any kind; None removes it."""
        ...

    async def flush(self) -> None:
        """Return when everything queued so far is durable; Unavailable when it can not be written."""
        ...

    unreadable: list[Unreadable]
    """What the reading methods met and could not read, and therefore left out."""

    def stacks(self) -> list[StackRecord]:
        """Return all stacks."""
        ...

    def resources(self) -> list[ResourceRecord]:
        """Return all resources of live stacks."""
        ...

    def events(self, stack: str, after: int = 0, limit: int = 100_000) -> list[StackEvent]:
        """Return a stack's events in order."""
        ...

    def last_event(self, stack: str) -> int:
        """Return the sequence of a stack's newest event; 0 when there is none."""
        ...

    def things(self, kind: str) -> dict[str, Any]:
        """Return all small values of a kind."""
        ...

    def change_sets(self) -> list[ChangeSet]:
        """Return all change sets."""
        ...

    def access_keys(self) -> list[AccessKey]:
        """Return all access keys."""
        ...

    async def close(self) -> None:
        """Write what is queued and close."""
        ...


class SqliteStore:
    """The embedded store."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._reader = self._open()
        self._reader.executescript(_SCHEMA)
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise Unavailable.of("STORE_TOO_NEW", f"{self._path} was written by a newer version ({version})")
        if version != SCHEMA_VERSION:  # nothing is written where nothing has to be: the disk may be full
            self._reader.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if self._path != ":memory:":
            Path(self._path).chmod(0o600)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self.unreadable: list[Unreadable] = []
        self._thread = threading.Thread(target=self._write, name="stack-store", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    # --- writing

    def put(self, record: StackRecord | ResourceRecord | StackEvent | ChangeSet | AccessKey) -> None:
        """Queue a record."""
        body = _encoder.encode(record)
        if isinstance(record, ResourceRecord):
            self._queue.put((_PUT[ResourceRecord], (record.id, record.stack, body)))
        elif isinstance(record, StackEvent):
            self._queue.put((_PUT[StackEvent], (record.stack, record.sequence, body)))
        elif isinstance(record, StackRecord):
            self._queue.put((_PUT[StackRecord], (record.id, body)))
        else:
            self._queue.put((_THING, (type(record).__name__, record.id, body)))

    def remove(self, record: ResourceRecord | ChangeSet | AccessKey) -> None:
        """Queue the removal of a record."""
        if isinstance(record, ResourceRecord):
            self._queue.put(("DELETE FROM resource WHERE id = ?", (record.id,)))
        else:
            self._queue.put(("DELETE FROM thing WHERE kind = ? AND key = ?", (type(record).__name__, record.id)))

    def forget(self, stack: str) -> None:
        """Queue the removal of a deleted stack with its events."""
        self._queue.put(("DELETE FROM event WHERE stack = ?", (stack,)))
        self._queue.put(("DELETE FROM stack WHERE id = ?", (stack,)))

    def set(self, kind: str, key: str, value: Any) -> None:
        """Queue a small value."""
        if value is None:
            self._queue.put(("DELETE FROM thing WHERE kind = ? AND key = ?", (kind, key)))
        else:
            self._queue.put((_THING, (kind, key, _encoder.encode(value))))

    async def flush(self) -> None:
        """Return when everything queued so far is durable."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put((loop, done))
        await done

    def _write(self) -> None:
        connection = self._open()
        while True:
            batch = [self._queue.get()]
            while True:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stop = batch[-1] is None
            waiting = [item for item in batch if item is not None and not isinstance(item[0], str)]
            writes = [item for item in batch if item is not None and isinstance(item[0], str)]
            if writes and self._failure is None:
                try:
                    self._commit(connection, writes)
                except sqlite3.Error as problem:
                    self._failure = problem
            for loop, done in waiting:
                loop.call_soon_threadsafe(self._answer, done)
            if stop:
                connection.close()
                return

    @staticmethod
    def _commit(connection: sqlite3.Connection, writes: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in writes:
                connection.execute(statement, values)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _answer(self, done: asyncio.Future[None]) -> None:
        if done.done():
            return
        if self._failure is not None:
            done.set_exception(Unavailable.of("STORE_FAILED", f"stacks can not be stored: {self._failure}"))
        else:
            done.set_result(None)

    # --- reading

    def _read(self, kind: type[_R], rows: Iterable[tuple[str, str, bytes]]) -> list[_R]:
        """Return the records of rows (id, stack, body); those that can not be read are noted."""
        decoder, found = msgspec.msgpack.Decoder(kind), []
        for identity, stack, body in rows:
            try:
                found.append(decoder.decode(body))
            except (msgspec.DecodeError, UnicodeDecodeError) as problem:
                name = _NAMES.get(kind, kind.__name__)
                told = _told(body)
                self.unreadable.append(Unreadable(kind=name, id=identity, stack=stack, why=str(problem), told=told))
        return found

    def stacks(self) -> list[StackRecord]:
        """Return all stacks."""
        return self._read(StackRecord, self._reader.execute("SELECT id, '', body FROM stack"))

    def resources(self) -> list[ResourceRecord]:
        """Return all resources of live stacks."""
        return self._read(ResourceRecord, self._reader.execute("SELECT id, stack, body FROM resource"))

    def events(self, stack: str, after: int = 0, limit: int = 100_000) -> list[StackEvent]:
        """Return a stack's events in order."""
        rows = self._reader.execute(
            "SELECT body FROM event WHERE stack = ? AND sequence > ? ORDER BY sequence LIMIT ?", (stack, after, limit)
        )
        return [_event.decode(body) for (body,) in rows]

    def last_event(self, stack: str) -> int:
        """Return the sequence of a stack's newest event."""
        row = self._reader.execute("SELECT max(sequence) FROM event WHERE stack = ?", (stack,)).fetchone()
        return int(row[0] or 0)

    def things(self, kind: str) -> dict[str, Any]:
        """Return all small values of a kind."""
        rows = self._reader.execute("SELECT key, body FROM thing WHERE kind = ?", (kind,))
        return {key: msgspec.msgpack.decode(body) for key, body in rows}

    def change_sets(self) -> list[ChangeSet]:
        """Return all change sets."""
        rows = self._reader.execute("SELECT key, '', body FROM thing WHERE kind = 'ChangeSet'")
        return self._read(ChangeSet, rows)

    def access_keys(self) -> list[AccessKey]:
        """Return all access keys."""
        return self._read(AccessKey, self._reader.execute("SELECT key, '', body FROM thing WHERE kind = 'AccessKey'"))

    async def close(self) -> None:
        """Write what is queued and close."""
        if self._thread.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        self._reader.close()


def _told(body: bytes) -> dict[str, Any]:
    """Return what stands in a record that is not of its form; empty when nothing can be made of it."""
    try:
        found = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
