"""The log: events, decisions and engine states, committed in batches, each record exactly once.

Concurrency: `commit` is called by one task (the daemon's ingest); readers come and go beside it. Sequences are given
inside the transaction from a counter row, so that on any database they become visible in order: a reader who has seen
sequence N has seen everything below it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.store.database import Database
from pcloud.store.rows import Entry
from pcloud.store.schema import counters, cursors, decisions, deployables, engine_state, events

_PRUNE_EVERY = 64
_CHUNK = 10_000


class Log:
    """Events, decisions and engine states."""

    def __init__(self, database: Database, *, keep_decisions: int = 500) -> None:
        self._database = database
        self.keep_decisions = keep_decisions
        self._seen: dict[str, int] = {}
        self._since_prune: dict[str, int] = {}

    async def commit(self, batch: Sequence[Entry]) -> list[Event]:
        """Commit records in one transaction; return the new events in order, with their sequences.

        Records of an engine process that were committed before are dropped. When it raises, nothing was committed.
        """
        async with self._database.write() as connection:
            fresh, seen = await self._fresh(connection, batch)
            new = [entry.event for entry in fresh if entry.event is not None]
            numbered = await _insert_events(connection, new)
            judged = [entry for entry in fresh if entry.decision is not None]
            if judged:
                await connection.execute(insert(decisions), [_decision(entry) for entry in judged])
            prune = await self._prune(connection, judged)
            states = {entry.deployable: entry.state for entry in fresh if entry.state is not None}
            now = time.time()
            if states:
                put = self._database.upsert(engine_state, key="deployable", columns=("state", "updated"))
                rows = [{"deployable": name, "state": state, "updated": now} for name, state in states.items()]
                await connection.execute(put, rows)
            if seen:
                await self._put_cursors(connection, seen, now)
        self._seen.update(seen)
        self._since_prune.update(prune)
        return numbered

    async def _fresh(self, connection: AsyncConnection, batch: Sequence[Entry]) -> tuple[list[Entry], dict[str, int]]:
        """Return the entries not committed before, and the new cursor of each engine process among them."""
        unknown = {entry.process for entry in batch if entry.process} - self._seen.keys()
        if unknown:
            query = select(cursors.c.name, cursors.c.sequence).where(cursors.c.name.in_(map(_engine, unknown)))
            found = {row.name: row.sequence for row in await connection.execute(query)}
            self._seen.update({process: found.get(_engine(process), 0) for process in unknown})
        seen: dict[str, int] = {}
        fresh: list[Entry] = []
        for entry in batch:
            if entry.process:
                if entry.sequence <= seen.get(entry.process, self._seen[entry.process]):
                    continue
                seen[entry.process] = entry.sequence
            fresh.append(entry)
        return fresh, seen

    async def _put_cursors(self, connection: AsyncConnection, seen: dict[str, int], now: float) -> None:
        put = self._database.upsert(cursors, key="name", columns=("sequence", "updated"))
        rows = [{"name": _engine(name), "sequence": sequence, "updated": now} for name, sequence in seen.items()]
        await connection.execute(put, rows)

    async def _prune(self, connection: AsyncConnection, judged: Sequence[Entry]) -> dict[str, int]:
        """Every so many decisions of a deployable, drop its oldest."""
        counts: dict[str, int] = {}
        for entry in judged:
            counts[entry.deployable] = counts.get(entry.deployable, self._since_prune.get(entry.deployable, 0)) + 1
        for name, count in counts.items():
            if count < _PRUNE_EVERY:
                continue
            newest = select(decisions.c.id).where(decisions.c.deployable == name).order_by(decisions.c.id.desc())
            last = (await connection.execute(newest.offset(self.keep_decisions).limit(1))).scalar()
            if last is not None:
                await connection.execute(
                    delete(decisions).where(decisions.c.deployable == name, decisions.c.id <= last)
                )
            counts[name] = 0
        return counts

    async def seen(self, process: str) -> int:
        """Return the highest record of an engine process that was committed."""
        if process not in self._seen:
            self._seen[process] = await self.cursor(_engine(process))
        return self._seen[process]

    def forget(self, process: str) -> None:
        """Drop what is remembered in memory of an engine process that has ended."""
        self._seen.pop(process, None)

    async def cursor(self, name: str) -> int:
        """Return a named cursor, 0 when it was never set."""
        async with self._database.read() as connection:
            found = await connection.execute(select(cursors.c.sequence).where(cursors.c.name == name))
            return int(found.scalar() or 0)

    async def put_cursor(self, name: str, sequence: int) -> None:
        """Set a named cursor (of a sink)."""
        put = self._database.upsert(cursors, key="name", columns=("sequence", "updated"))
        async with self._database.write() as connection:
            await connection.execute(put, [{"name": name, "sequence": sequence, "updated": time.time()}])

    async def head(self) -> int:
        """Return the sequence of the newest event ever committed."""
        async with self._database.read() as connection:
            return await _head(connection)

    async def events(
        self, where: EventFilter, *, after: int = 0, limit: int = 100, newest: bool = False
    ) -> tuple[list[Event], int]:
        """Return events after a sequence in ascending order, and the cursor to go on from.

        `newest` returns the last `limit` ones instead of the first.
        """
        query = select(events).where(events.c.sequence > after, *_conditions(where))
        order = events.c.sequence.desc() if newest else events.c.sequence.asc()
        async with self._database.read() as connection:
            head = await _head(connection)
            found = [_event(row) for row in await connection.execute(query.order_by(order).limit(limit))]
        if newest:
            found.reverse()
        complete = newest or len(found) < limit
        last = found[-1].sequence if found else after
        return found, max(last, head) if complete else last

    async def explain(self, deployable: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest decision records of a deployable, newest first."""
        query = select(decisions.c.record).where(decisions.c.deployable == deployable)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(decisions.c.id.desc()).limit(limit))
            return [msgspec.json.decode(row.record) for row in rows]

    async def retain(self, *, count: int, age: float) -> int:
        """Drop events beyond the newest `count` or older than `age` seconds (0 keeps all); return how many went.

        Works in small transactions, so that records are committed in between. Also forgets the cursors of engine
        processes that ended a month ago and states of deployables that are gone.
        """
        now = time.time()
        async with self._database.read() as connection:
            limit = await _head(connection) - count if count else 0
            if age:
                old = select(func.max(events.c.sequence)).where(events.c.time < now - age)
                limit = max(limit, (await connection.execute(old)).scalar() or 0)
            first = (await connection.execute(select(func.min(events.c.sequence)))).scalar() or 0
        gone = 0
        while first and first <= limit:
            last = min(first + _CHUNK - 1, limit)
            async with self._database.write() as connection:
                result = await connection.execute(delete(events).where(events.c.sequence <= last))
            gone += result.rowcount
            first = last + 1
        async with self._database.write() as connection:
            month = now - 30 * 86400
            stale = cursors.c.name.startswith("engine:", autoescape=True) & (cursors.c.updated < month)
            await connection.execute(delete(cursors).where(stale))
            names = select(deployables.c.name)
            await connection.execute(delete(engine_state).where(engine_state.c.deployable.not_in(names)))
            await connection.execute(delete(decisions).where(decisions.c.deployable.not_in(names)))
        return gone


def _engine(process: str) -> str:
    return f"engine:{process}"


async def _head(connection: AsyncConnection) -> int:
    found = await connection.execute(select(counters.c.value).where(counters.c.name == "events"))
    return int(found.scalar_one())


async def _insert_events(connection: AsyncConnection, new: Sequence[Event]) -> list[Event]:
    if not new:
        return []
    count = update(counters).where(counters.c.name == "events").values(value=counters.c.value + len(new))
    last = int((await connection.execute(count.returning(counters.c.value))).scalar_one())
    first = last - len(new) + 1
    numbered = [msgspec.structs.replace(event, sequence=first + index) for index, event in enumerate(new)]
    await connection.execute(insert(events), [_values(event) for event in numbered])
    return numbered


def _values(event: Event) -> dict[str, Any]:
    values = msgspec.structs.asdict(event)
    values["severity"] = event.severity.value
    values["data"] = msgspec.json.encode(event.data).decode()
    return values


def _decision(entry: Entry) -> dict[str, Any]:
    record = entry.decision or {}
    when = record.get("time")
    stamp = float(when) if isinstance(when, (int, float)) else time.time()
    return {"deployable": entry.deployable, "time": stamp, "record": msgspec.json.encode(record).decode()}


def _event(row: Row[Any]) -> Event:
    values = dict(row._mapping)
    values["severity"] = Severity(row.severity)
    values["data"] = msgspec.json.decode(row.data)
    return Event(**values)


def _conditions(where: EventFilter) -> list[Any]:
    conditions: list[Any] = []
    for name in ("deployable", "assembly", "resource"):
        value = getattr(where, name)
        if value:
            conditions.append(events.c[name] == value)
    if where.type.endswith("*"):
        conditions.append(events.c.type.startswith(where.type[:-1], autoescape=True))
    elif where.type:
        conditions.append(events.c.type == where.type)
    if where.severity:
        conditions.append(events.c.severity.in_([severity.value for severity in where.severities()]))
    return conditions
