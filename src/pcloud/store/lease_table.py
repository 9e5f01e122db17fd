"""The lease as a row of a PostgreSQL table, and the fence that compares the token in every transaction that writes.

Locks: whoever writes holds the row `FOR KEY SHARE` to the end of its transaction, whoever takes over `FOR UPDATE`: so no
write of an older token is committed after a takeover. A renewal changes no key and waits for neither.
Concurrency: every call has a connection of its own, so that one that got stuck on a dead network spoils no other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import BigInteger, Column, Float, MetaData, String, Table, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from pcloud.store.database import create_engine, translated
from pcloud.store.errors import StoreFenced
from pcloud.store.lease import (
    SCOPE,
    Grant,
    Holder,
    Tenure,
    boot_time,
    claimed,
    released,
    renewed,
    until,
)

_metadata = MetaData()
leases = Table(
    # Beside the schema: who may migrate that is decided here.
    "leases",
    _metadata,
    Column("scope", String(255), primary_key=True),
    Column("holder", String(1024), nullable=False),
    Column("host", String(255), nullable=False),
    Column("url", String(1024), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires", Float),
)
_MAKING = 0x70636C6F7564
"""Advisory lock of whoever makes the table."""
CONNECT = 10
"""Seconds that a connection may take to open."""
_FIELDS = Tenure.__struct_fields__


class TableLease:
    """A scope's row."""

    def __init__(self, url: str, who: Holder, length: float) -> None:
        self.length = length
        self.who = who
        self._engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT})
        self._made = False

    async def look(self) -> Tenure | None:
        """See `Lease`."""
        async with self._transaction() as connection:
            return await _row(connection, lock=False)

    async def claim(self) -> Grant | Tenure:
        """See `Lease`."""
        asked = boot_time()
        async with self._transaction() as connection:
            # The common case of one that stands by must not wait for the owner's writes.
            row, now = await _row(connection, lock=False), await _now(connection)
            if row is not None and claimed(row, now, self.who, self.length) is None:
                return row
            row, now = await _row(connection, lock=True), await _now(connection)
            new = claimed(row, now, self.who, self.length)
            if new is None:
                assert row is not None, "only another's tenure stands in the way"
                return row
            if not await _put(connection, new):
                there = await _row(connection, lock=False)
                assert there is not None, "somebody made the row first"
                return there
        return Grant(token=new.token, until=until(asked, self.length), former=row.holder if row else "")

    async def renew(self, grant: Grant) -> Grant | None:
        """See `Lease`."""
        asked = boot_time()
        async with self._transaction() as connection:
            row = await _row(connection, lock=False)
            new = renewed(row, await _now(connection), grant.token, self.length)
            if new is None or not await _extend(connection, new):
                return None
        return Grant(token=grant.token, until=until(asked, self.length), former=grant.former)

    async def release(self, grant: Grant) -> None:
        """See `Lease`."""
        async with self._transaction() as connection:
            new = released(await _row(connection, lock=False), await _now(connection), grant.token)
            if new is not None:
                await _extend(connection, new)

    async def close(self) -> None:
        """See `Lease`."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with translated():
            async with self._engine.begin() as connection:
                await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
                if not self._made:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MAKING})"))
                    await connection.run_sync(_metadata.create_all)
                yield connection
            self._made = True


async def _row(connection: AsyncConnection, *, lock: bool) -> Tenure | None:
    query = select(*(leases.c[name] for name in _FIELDS)).where(leases.c.scope == SCOPE)
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    return Tenure(**row._mapping) if row is not None else None


async def _now(connection: AsyncConnection) -> float:
    found = await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
    return float(found.scalar_one())


async def _put(connection: AsyncConnection, new: Tenure) -> bool:
    """Write a new tenure; False when another made the row in this moment (one that is not there can not be locked)."""
    values = {name: getattr(new, name) for name in _FIELDS}
    statement = insert(leases).values(scope=SCOPE, **values)
    put = statement.on_conflict_do_update(
        index_elements=["scope"], set_=values, where=leases.c.token < new.token
    ).returning(leases.c.token)
    return (await connection.execute(put)).first() is not None


async def _extend(connection: AsyncConnection, new: Tenure) -> bool:
    """Write when a tenure ends; False when its token is old by now."""
    change = leases.update().where(leases.c.scope == SCOPE, leases.c.token == new.token)
    return bool((await connection.execute(change.values(expires=new.expires))).rowcount)


class TokenFence:
    """Lets no transaction write whose owner's token is old."""

    def __init__(self, token: int, length: float, lost: Callable[[], None] = lambda: None) -> None:
        """`lost` is called when a token was found to be old."""
        self._token = token
        self._lost = lost
        # An owner that stops in the midst of a transaction must not hold up whoever takes over.
        self._idle = f"{max(1, round(length / 2))}s" if length else "60s"

    async def check(self, connection: AsyncConnection) -> None:
        """Keep the token valid to the end of this transaction; StoreFenced when it no longer is."""
        limit = text("SELECT set_config('idle_in_transaction_session_timeout', :limit, true)")
        await connection.execute(limit, {"limit": self._idle})
        query = select(leases.c.token).where(leases.c.scope == SCOPE, leases.c.token == self._token)
        if (await connection.execute(query.with_for_update(read=True, key_share=True))).first() is None:
            self._lost()
            raise StoreFenced.older(self._token)
