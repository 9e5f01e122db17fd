"""The table of deployables and their engines' newest states."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, Text, Update, bindparam, case, delete, insert, null, select, update

from pcloud.model.deployable import Deployable
from pcloud.store.database import Database
from pcloud.store.lease import Holder
from pcloud.store.rows import Definition, DeployableRow
from pcloud.store.schema import decisions, deployables, engine_state

_definition = msgspec.json.Decoder(Deployable)
_names = msgspec.json.Decoder(tuple[str, ...])
_images = msgspec.json.Decoder(dict[str, tuple[str, str]])
_FIELDS = DeployableRow.__struct_fields__
_APART = frozenset({"loaded", "slot", "holder", "host"})
"""Columns that only `given`, `moved` and `taken` write after a row was made: whoever wants something else of a deployable
holds a row that may be older than they are, and taking `loaded` back would leave guests that nobody knows of."""


class Deployables:
    """Desired state: which deployables there are, what they are and what they shall do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self) -> list[DeployableRow]:
        """Return every deployable without its definition, by name."""
        columns = [deployables.c[name] for name in _FIELDS]
        async with self._database.read() as connection:
            found = await connection.execute(select(*columns).order_by(deployables.c.name))
            return [_row(row) for row in found]

    async def definitions(self, names: Iterable[str], *, state: bool = False) -> dict[str, Definition]:
        """Return the definitions of those that exist, by name; with the engines' newest states when `state`."""
        wanted = list(names)
        kinds = ("name", "definition", "applied", "images", "library", "revision")
        columns = [deployables.c[kind] for kind in kinds]
        query = select(*columns).where(deployables.c.name.in_(wanted))
        async with self._database.read() as connection:
            states: dict[str, bytes] = {}
            if state:
                kept = select(engine_state.c.deployable, engine_state.c.state)
                rows = await connection.execute(kept.where(engine_state.c.deployable.in_(wanted)))
                states = {row.deployable: bytes(row.state) for row in rows}
            return {
                row.name: Definition(
                    deployable=_definition.decode(row.definition),
                    applied=_definition.decode(row.applied) if row.applied else None,
                    images=_images.decode(row.images) if row.images else {},
                    library=_names.decode(row.library),
                    revision=row.revision,
                    state=states.get(row.name),
                )
                for row in await connection.execute(query)
            }

    async def definition(self, name: str) -> Definition | None:
        """Return one definition, or None."""
        return (await self.definitions([name])).get(name)

    async def put(
        self,
        row: DeployableRow,
        deployable: Deployable,
        library: Sequence[str],
        *,
        new: bool,
        applied: Deployable | None = None,
    ) -> None:
        """Store a deployable whole: row and definition in one transaction. `applied` is what runs where that is another."""
        values: dict[str, Any] = msgspec.structs.asdict(row)
        values["definition"] = msgspec.json.encode(deployable).decode()
        values["applied"] = msgspec.json.encode(applied).decode() if applied is not None else None
        values["library"] = msgspec.json.encode(list(library)).decode()
        async with self._database.write() as connection:
            if new:
                # What is left of an earlier deployable of that name must not leak into this one.
                await connection.execute(delete(engine_state).where(engine_state.c.deployable == row.name))
                await connection.execute(delete(decisions).where(decisions.c.deployable == row.name))
                await connection.execute(insert(deployables).values(**values))
            else:
                await connection.execute(_update(row.name, values))

    async def put_row(self, row: DeployableRow) -> None:
        """Store what changed beside the definition."""
        await self.put_rows([row])

    async def put_rows(self, rows: Sequence[DeployableRow]) -> None:
        """Store what changed beside the definitions, all in one transaction."""
        async with self._database.write() as connection:
            for row in rows:
                await connection.execute(_update(row.name, msgspec.structs.asdict(row)))

    async def given(
        self,
        definitions: Mapping[str, Deployable],
        images: Mapping[str, Mapping[str, tuple[str, str]]] | None = None,
        *,
        who: Holder | None = None,
    ) -> None:
        """Store that engines are given these definitions and images, by name, by the daemon `who`: from now on guests can
        exist. Where another definition was stored in the meantime, these stay known as what runs."""
        if not definitions:
            return
        text = bindparam("text", type_=Text())
        applied = case((deployables.c.definition == text, null()), else_=text)
        change = update(deployables).where(deployables.c.name == bindparam("of")).values(
            loaded=True, applied=applied, images=bindparam("made_from", type_=Text()), **_held(who)
        )  # fmt: skip
        async with self._database.write() as connection:
            await connection.execute(
                change,
                [
                    {
                        "of": name,
                        "text": msgspec.json.encode(given).decode(),
                        "made_from": msgspec.json.encode((images or {}).get(name, {})).decode(),
                    }
                    for name, given in definitions.items()
                ],
            )

    async def taken(self, name: str, who: Holder) -> None:
        """Store that a deployable's guests are that daemon's from now on."""
        async with self._database.write() as connection:
            await connection.execute(update(deployables).where(deployables.c.name == name).values(**_held(who)))

    async def moved(self, name: str, slot: str) -> None:
        """Store which engine process carries a deployable out; nothing else of its row is touched."""
        async with self._database.write() as connection:
            await connection.execute(update(deployables).where(deployables.c.name == name).values(slot=slot))

    async def remove(self, name: str) -> None:
        """Remove a deployable, its engine state and its decisions. Its events stay: they are history."""
        async with self._database.write() as connection:
            await connection.execute(delete(engine_state).where(engine_state.c.deployable == name))
            await connection.execute(delete(decisions).where(decisions.c.deployable == name))
            await connection.execute(delete(deployables).where(deployables.c.name == name))

    async def holding(self, assembly: str) -> list[str]:
        """Return the names of the deployables that hold a library assembly."""
        mark = msgspec.json.encode(assembly).decode()
        query = select(deployables.c.name, deployables.c.library).where(deployables.c.library.contains(mark))
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(deployables.c.name))
            return [row.name for row in rows if assembly in _names.decode(row.library)]


def _held(who: Holder | None) -> dict[str, str | None]:
    return {"holder": who.id if who else None, "host": who.host if who else None}


def _update(name: str, values: dict[str, Any]) -> Update:
    kept = {key: value for key, value in values.items() if key not in _APART}
    return update(deployables).where(deployables.c.name == name).values(**kept)


def _row(row: Row[Any]) -> DeployableRow:
    return DeployableRow(**dict(zip(_FIELDS, row, strict=True)))


def touched(row: DeployableRow, **changes: Any) -> DeployableRow:
    """Return the row with changes, one revision later."""
    return msgspec.structs.replace(row, revision=row.revision + 1, updated=time.time(), **changes)
