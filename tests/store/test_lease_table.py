"""The lease and the fence on a real PostgreSQL server: races, an owner that stops in a transaction, old tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text, update

from pcloud.events.event import Event
from pcloud.events.filters import EventFilter
from pcloud.store.database import Database
from pcloud.store.errors import StoreError, StoreFenced
from pcloud.store.lease import Grant, Holder, Tenure
from pcloud.store.lease_table import TableLease, TokenFence, leases
from pcloud.store.rows import Entry
from pcloud.store.store import Store
from tests.cpe.harness import PATIENCE
from tests.store.postgres import Server

LENGTH = 3600.0


@pytest.fixture
async def pair(server: Server) -> AsyncIterator[tuple[str, TableLease, TableLease]]:
    url = server.database()
    made = [TableLease(url, Holder(id=name, host=f"host-{name}"), LENGTH) for name in ("a", "b")]
    yield url, made[0], made[1]
    for each in made:
        await each.close()


async def expire(url: str) -> None:
    """Let the lease be over, by the database's clock."""
    database = await Database.open(url)
    async with database.write() as connection:
        await connection.execute(update(leases).values(expires=text("extract(epoch FROM clock_timestamp())")))
    await database.close()


def event(number: int) -> Entry:
    return Entry(event=Event(time=1.0, type="test", reason=str(number)))


async def test_of_many_that_begin_at_once_one_owns_it(server: Server) -> None:
    url = server.database()
    many = [TableLease(url, Holder(id=str(number), host="x"), LENGTH) for number in range(6)]
    found = await asyncio.gather(*(each.claim() for each in many))
    owners = [index for index, each in enumerate(found) if isinstance(each, Grant)]
    assert len(owners) == 1
    others = {each.holder for each in found if isinstance(each, Tenure)}
    assert others == {str(owners[0])}
    for each in many:
        await each.close()


async def test_claim_renew_take_over_release(pair: tuple[str, TableLease, TableLease]) -> None:
    url, a, b = pair
    assert await a.look() is None
    mine = await a.claim()
    assert isinstance(mine, Grant)
    assert (mine.token, mine.former) == (1, "")
    there = await b.claim()
    assert isinstance(there, Tenure)
    assert (there.host, there.token) == ("host-a", 1)
    longer = await a.renew(mine)
    assert longer is not None
    assert longer.until > mine.until
    await expire(url)
    theirs = await b.claim()
    assert isinstance(theirs, Grant)
    assert (theirs.token, theirs.former) == (2, "a")
    assert await a.renew(mine) is None
    await a.release(mine)
    assert isinstance(await a.claim(), Tenure), "it could not release what it no longer had"
    await b.release(theirs)
    again = await a.claim()
    assert isinstance(again, Grant)
    assert again.token == 3


async def test_an_old_token_writes_nothing(pair: tuple[str, TableLease, TableLease]) -> None:
    url, a, b = pair
    mine = await a.claim()
    assert isinstance(mine, Grant)
    told: list[str] = []
    store = await Store.open(url, fence=TokenFence(mine.token, LENGTH, lambda: told.append("lost")))
    await store.log.commit([event(1)])
    await expire(url)
    await store.log.commit([event(2)])  # over, but nobody took it: nobody else writes
    theirs = await b.claim()
    assert isinstance(theirs, Grant)
    assert not told
    with pytest.raises(StoreFenced, match="token 1 is old"):
        await store.log.commit([event(3)])
    with pytest.raises(StoreFenced):
        await store.log.put_cursor("sink", 7)
    assert told
    found, _ = await store.log.events(EventFilter())
    assert [one.reason for one in found] == ["1", "2"]
    await store.close()


async def test_a_takeover_waits_for_a_write_and_no_write_for_a_renewal(
    pair: tuple[str, TableLease, TableLease],
) -> None:
    url, a, b = pair
    mine = await a.claim()
    assert isinstance(mine, Grant)
    await expire(url)
    database = await Database.open(url, fence=TokenFence(mine.token, LENGTH))
    async with database.write() as connection:
        taking = asyncio.create_task(b.claim())
        async with asyncio.timeout(PATIENCE):
            while not taking.done() and not await waits(url):
                await asyncio.sleep(0.02)
        assert not taking.done(), "not before the write is committed"
        await connection.execute(text("SELECT 1"))
    taken = await taking
    assert isinstance(taken, Grant)
    await database.close()
    own = await Database.open(url, fence=TokenFence(taken.token, LENGTH))
    async with own.write():
        assert await b.renew(taken) is not None, "a renewal does not wait for what its owner writes"
    await own.close()


async def waits(url: str) -> bool:
    """Tell whether somebody waits for a lock."""
    database = await Database.open(url)
    async with database.read() as connection:
        here = "datname = current_database()"
        found = await connection.execute(
            text(f"SELECT 1 FROM pg_stat_activity WHERE {here} AND wait_event_type = 'Lock'")
        )
        waiting = found.first() is not None
    await database.close()
    return waiting


async def test_an_owner_that_stops_in_a_transaction_does_not_hold_up_the_next(
    pair: tuple[str, TableLease, TableLease],
) -> None:
    url, a, b = pair
    mine = await a.claim()
    assert isinstance(mine, Grant)
    await expire(url)
    database = await Database.open(url, fence=TokenFence(mine.token, 2.0))
    with pytest.raises(StoreError):
        async with database.write() as connection:
            async with asyncio.timeout(PATIENCE):
                while not isinstance(await claims(b), Grant):
                    await asyncio.sleep(0.05)
            await connection.execute(text("SELECT 1"))
    await database.close()


async def claims(lease: TableLease) -> Grant | Tenure | None:
    """Try once; None while a lock was waited for in vain."""
    try:
        return await lease.claim()
    except StoreError as error:
        assert "lock timeout" in str(error)
        return None
