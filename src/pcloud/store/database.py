"""The connection to the database: opening, migrating, and one writer at a time.

Concurrency: any number of readers beside one writer (SQLite's WAL; on PostgreSQL the same discipline is merely
harmless). Whoever writes holds `write()` for as short as one transaction; a transaction is done wholly or not at all.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Insert, Table, event, inspect, text
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from pcloud.model.errors import Problem
from pcloud.store.errors import StoreError, StoreFull, StoreRefused

HEAD = "0004"
"""The newest migration; a test compares it with the scripts. Kept here so that a start does not import Alembic."""


class Fence(Protocol):
    """What every transaction that writes must pass."""

    async def check(self, connection: AsyncConnection) -> None:
        """Let the transaction go on, and hold off to its end what would forbid it; else StoreFenced."""
        ...


class Database:
    """An open database with the newest schema."""

    def __init__(self, engine: AsyncEngine, fence: Fence | None = None) -> None:
        self._engine = engine
        self._fence = fence
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, url: str, *, fence: Fence | None = None) -> Database:
        """Connect and bring the schema up to date.

        `url` is SQLAlchemy's: `sqlite+aiosqlite:///path` or `postgresql+psycopg://…`. With a `fence` nothing is written, the
        schema neither, once another owns the store. StoreError when it can not be opened or was made by a newer version of
        this program.
        """
        if url.startswith("sqlite"):
            engine = create_engine(url, pool_size=3, max_overflow=2)
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        else:
            engine = create_engine(url, pool_size=4, max_overflow=4, pool_pre_ping=True)
        database = cls(engine, fence)
        try:
            async with database.write() as connection:
                await connection.run_sync(_migrate)
        except BaseException:  # cancelled, too: no connection may stay open
            await engine.dispose()
            raise
        return database

    async def close(self) -> None:
        """Wait for the transaction in progress, then close every connection."""
        async with self._writing:
            await self._engine.dispose()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write; committed at the end, rolled back when the block raises."""
        async with self._writing:
            with translated():
                async with self._engine.begin() as connection:
                    if self._fence is not None:
                        await self._fence.check(connection)
                    yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view for reading; does not wait for the writer."""
        with translated():
            async with self._engine.connect() as connection:
                yield connection

    def upsert(self, table: Table, *, key: str, columns: Sequence[str]) -> Insert:
        """Return an insert that, where a row with this key exists, sets these columns in it instead."""
        if self.dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as postgresql_insert

            new = postgresql_insert(table)
            return new.on_conflict_do_update(index_elements=[key], set_={name: new.excluded[name] for name in columns})
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        statement = sqlite_insert(table)
        return statement.on_conflict_do_update(
            index_elements=[key], set_={name: statement.excluded[name] for name in columns}
        )


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """Return SQLAlchemy's engine for a URL; StoreError when its driver is not installed."""
    try:
        return create_async_engine(url, **options)
    except ModuleNotFoundError as error:
        raise StoreError(
            Problem(
                code="STORE_DRIVER_MISSING",
                message=f"the driver for this database is not installed ({error.name})",
                hint="pip install 'psycopg[binary]' (`make setup` and the Debian package bring it)",
            )
        ) from error


@contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors, and those of values that it can not take, into ours."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OverflowError, UnicodeError, TypeError, ValueError) as error:
        raise explain(error) from error


def explain(error: Exception) -> StoreError | StoreFull:
    """Return our error for a driver's."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    message = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    if "disk is full" in message or "No space left" in message or "disk I/O error" in message:
        return StoreFull(
            Problem(
                code="STORE_FULL",
                message=f"the store could not be written: {message}",
                hint="make room on the file system of $PCLOUD_HOME; the daemon goes on by itself",
            )
        )
    refused = (DataError, IntegrityError, ProgrammingError, InterfaceError, OverflowError, UnicodeError)
    if isinstance(error, (*refused, TypeError, ValueError)):
        return StoreRefused(Problem(code="STORE_REFUSED", message=f"the store can not keep this: {message}"))
    return StoreError(Problem(code="STORE_FAILED", message=f"the store did not do it: {message}"))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "cache_size=-2000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    """Bring the schema to HEAD. Runs inside one transaction: an interrupted migration leaves the old schema."""
    current = None
    if inspect(connection).has_table("alembic_version"):
        current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if current == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(
            Problem(
                code="STORE_NEWER",
                message=f"the store has schema {current}, made by a newer version; this one knows up to {HEAD}",
                hint="start the newer version again, or restore a backup from before the upgrade",
            )
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"
