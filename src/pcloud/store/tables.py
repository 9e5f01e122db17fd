"""The small tables: library assemblies, jobs, tokens."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from sqlalchemy import Row, delete, insert, select

from pcloud.model.deployable import Assembly
from pcloud.model.errors import Problem
from pcloud.store.database import Database
from pcloud.store.rows import Job, Token
from pcloud.store.schema import jobs, library, tokens

_assembly = msgspec.json.Decoder(Assembly)
_problems = msgspec.json.Decoder(tuple[Problem, ...])


class Library:
    """Assemblies that exist outside any deployable, made with pcloudsh."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> list[Assembly]:
        """Return all, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(library.c.definition).order_by(library.c.name))
            return [_assembly.decode(row.definition) for row in rows]

    async def get(self, name: str) -> Assembly | None:
        """Return one, or None."""
        async with self._database.read() as connection:
            found = await connection.execute(select(library.c.definition).where(library.c.name == name))
            definition = found.scalar()
            return None if definition is None else _assembly.decode(definition)

    async def put(self, assembly: Assembly) -> None:
        """Store one, new or changed."""
        statement = self._database.upsert(library, key="name", columns=("definition",))
        text = msgspec.json.encode(assembly).decode()
        async with self._database.write() as connection:
            await connection.execute(statement, [{"name": assembly.name, "definition": text, "created": time.time()}])

    async def remove(self, name: str) -> None:
        """Remove one."""
        async with self._database.write() as connection:
            await connection.execute(delete(library).where(library.c.name == name))


class Jobs:
    """Work in progress, and what came of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, job: Job) -> None:
        """Store one, new or changed."""
        values: dict[str, Any] = msgspec.structs.asdict(job)
        values["arguments"] = msgspec.json.encode(job.arguments).decode()
        values["errors"] = msgspec.json.encode(job.errors).decode()
        columns = ("state", "progress", "message", "errors", "updated")
        async with self._database.write() as connection:
            await connection.execute(self._database.upsert(jobs, key="id", columns=columns), [values])

    async def get(self, identifier: str) -> Job | None:
        """Return one, or None."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(jobs).where(jobs.c.id == identifier))).first()
            return None if row is None else _job(row)

    async def list(self, *, state: str = "", limit: int = 200) -> list[Job]:
        """Return the newest, newest first."""
        query = select(jobs).order_by(jobs.c.created.desc()).limit(limit)
        if state:
            query = query.where(jobs.c.state == state)
        async with self._database.read() as connection:
            return [_job(row) for row in await connection.execute(query)]

    async def retain(self, *, age: float) -> None:
        """Drop jobs that ended `age` seconds ago."""
        ended = (jobs.c.state != "running") & (jobs.c.updated < time.time() - age)
        async with self._database.write() as connection:
            await connection.execute(delete(jobs).where(ended))


class Tokens:
    """API tokens, by digest."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> list[Token]:
        """Return all, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(tokens).order_by(tokens.c.name))
            return [Token(**row._mapping) for row in rows]

    async def put(self, token: Token) -> None:
        """Store a new one; StoreError when its name or digest exists."""
        async with self._database.write() as connection:
            await connection.execute(insert(tokens).values(**msgspec.structs.asdict(token)))

    async def remove(self, name: str) -> None:
        """Remove one."""
        async with self._database.write() as connection:
            await connection.execute(delete(tokens).where(tokens.c.name == name))


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    values["arguments"] = msgspec.json.decode(row.arguments)
    values["errors"] = _problems.decode(row.errors)
    return Job(**values)
