"""Stores to try: the same contract on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pcloud.store.database import sqlite_url
from pcloud.store.store import Store
from tests.store.postgres import Server, missing

Open = Callable[..., Awaitable[Store]]
"""Opens the store of this test, or opens it again."""


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all tests."""
    if lacking := missing():
        pytest.skip(lacking)
    made = Server()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "pcloud.db")
    server: Server = request.getfixturevalue("server")
    return server.database()


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Open]:
    """Opens the store; what a test left open is closed."""
    stores: list[Store] = []

    async def open_it(**more: int) -> Store:
        store = await Store.open(url, **more)
        stores.append(store)
        return store

    yield open_it
    for store in stores:
        await store.close()
