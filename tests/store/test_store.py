"""The store: migrations, idempotent records, sequences, retention, errors."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

import pcloud.store.database as database_module
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.model.deployable import Deployable
from pcloud.store.database import HEAD, sqlite_url
from pcloud.store.errors import StoreError, StoreRefused
from pcloud.store.rows import Definition, DeployableRow, Entry, Job
from pcloud.store.schema import metadata
from pcloud.store.store import Store
from tests.store.conftest import Open


def event(number: int, **more: object) -> Event:
    return Event(time=time.time(), type="test", deployable="shop", reason=str(number), **more)  # type: ignore[arg-type]


async def test_migrations_make_exactly_the_schema(opened: Open, url: str) -> None:
    await (await opened()).close()
    engine = create_engine(url.replace("+aiosqlite", ""))
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []
    scripts = ScriptDirectory(str(Path(database_module.__file__).parent / "migrations"))
    assert scripts.get_current_head() == HEAD


async def test_a_store_of_the_first_schema_is_brought_up_to_date_with_what_is_in_it(opened: Open, url: str) -> None:
    engine = create_engine(url.replace("+aiosqlite", ""))
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO deployables VALUES ('shop', :definition, '[]', 'lxc', 1, 0, 'started', :no, 'active', "
                "'0', :yes, 1, 1.0, 1.0)"
            ),
            {"definition": msgspec.json.encode(Deployable(name="shop")).decode(), "yes": True, "no": False},
        )
    engine.dispose()
    store = await opened()
    (row,) = await store.deployables.rows()
    assert (row.name, row.loaded) == ("shop", True)
    assert (await found(store)).applied is None


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = await Store.open(sqlite_url(tmp_path / "pcloud.db"))
    await store.close()
    with sqlite3.connect(tmp_path / "pcloud.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(StoreError) as caught:
        await Store.open(sqlite_url(tmp_path / "pcloud.db"))
    assert caught.value.code == "STORE_NEWER"
    raw = sqlite3.connect(tmp_path / "pcloud.db")
    assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    raw.close()


async def test_something_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "pcloud.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError) as caught:
        await Store.open(sqlite_url(tmp_path / "pcloud.db"))
    assert caught.value.code == "STORE_FAILED"


async def test_records_are_committed_once(opened: Open) -> None:
    store = await opened()
    batch = [Entry(process="p", sequence=number, deployable="shop", event=event(number)) for number in range(1, 6)]
    first = await store.log.commit(batch)
    assert [one.sequence for one in first] == [1, 2, 3, 4, 5]
    again = await store.log.commit([*batch[2:], Entry(process="p", sequence=6, event=event(6))])
    assert [one.reason for one in again] == ["6"]
    await store.close()
    store = await opened()
    assert await store.log.seen("p") == 6
    assert await store.log.commit(batch) == []
    other = await store.log.commit([Entry(process="q", sequence=1, event=event(1))])
    assert [one.sequence for one in other] == [7]
    await store.close()


async def test_an_event_and_the_state_it_led_to_are_committed_together_and_once(opened: Open) -> None:
    store = await opened()
    row = DeployableRow(name="shop", infrastructure="lxc", assemblies=0, slot="0", created=1.0, updated=1.0)
    await store.deployables.put(row, Deployable(name="shop"), (), new=True)
    told = Event(time=1.0, type="incident", deployable="shop")
    entry = Entry(process="p", sequence=1, deployable="shop", event=told, state=b"after it")
    assert len(await store.log.commit([entry])) == 1
    assert await store.log.commit([entry]) == [], "an engine that sends it again doubles nothing"
    found, _ = await store.log.events(EventFilter(type="incident"))
    assert len(found) == 1
    assert (await store.deployables.definitions(["shop"], state=True))["shop"].state == b"after it"
    await store.close()


async def test_a_batch_is_committed_whole_or_not_at_all(opened: Open) -> None:
    store = await opened()
    bad = Event(time=1.0, type="test", reason="lone surrogate \udc80")
    with pytest.raises(StoreRefused):
        await store.log.commit(
            [Entry(process="p", sequence=1, event=event(1)), Entry(process="p", sequence=2, event=bad)]
        )
    assert await store.log.events(EventFilter()) == ([], 0)
    assert await store.log.seen("p") == 0
    committed = await store.log.commit([Entry(process="p", sequence=1, event=event(1))])
    assert [one.sequence for one in committed] == [1], "a failed batch leaves no gap"
    await store.close()


async def test_sequences_are_never_used_again(opened: Open) -> None:
    store = await opened()
    await store.log.commit([Entry(event=event(number)) for number in range(10)])
    assert await store.log.retain(count=1, age=0) == 9
    assert await store.log.retain(count=0, age=-1.0) == 1
    assert await store.log.events(EventFilter()) == ([], 10)
    assert [one.sequence for one in await store.log.commit([Entry(event=event(1))])] == [11]
    await store.close()


async def test_filters_and_cursor(opened: Open) -> None:
    store = await opened()
    made = [
        Event(time=1.0, type="resource.state", deployable="shop", assembly="web", resource="httpd", state="failed"),
        Event(time=2.0, type="image.progress", severity=Severity.WARNING),
        Event(time=3.0, type="resource.state", deployable="shop", assembly="db", resource="mysqld", data={"rc": 7}),
        Event(time=4.0, type="image_other"),
    ]
    await store.log.commit([Entry(event=one) for one in made])

    async def sequences(where: EventFilter, **more: object) -> list[int]:
        return [one.sequence for one in (await store.log.events(where, **more))[0]]  # type: ignore[arg-type]

    assert await sequences(EventFilter()) == [1, 2, 3, 4]
    assert await sequences(EventFilter(deployable="shop")) == [1, 3]
    assert await sequences(EventFilter(assembly="db")) == [3]
    assert await sequences(EventFilter(type="image.*")) == [2]
    assert await sequences(EventFilter(type="image_*")) == [4], "an underscore is no wildcard"
    assert await sequences(EventFilter(severity=Severity.WARNING)) == [2]
    assert await sequences(EventFilter(), newest=True, limit=2) == [3, 4]
    assert (await store.log.events(EventFilter(), limit=2))[1] == 2
    assert (await store.log.events(EventFilter(deployable="shop"), after=3))[1] == 4, (
        "the cursor skips what does not match"
    )
    found, _ = await store.log.events(EventFilter(assembly="db"))
    assert found[0] == Event(
        sequence=3, **{name: getattr(made[2], name) for name in Event.__struct_fields__ if name != "sequence"}
    )
    await store.close()


async def test_decisions_are_pruned(opened: Open) -> None:
    store = await opened(keep_decisions=10)
    for number in range(300):
        await store.log.commit([Entry(deployable="shop", decision={"number": number})])
    found = await store.log.explain("shop", limit=1000)
    assert [one["number"] for one in found[:3]] == [299, 298, 297]
    assert 10 <= len(found) <= 10 + 64
    await store.close()


async def test_deployables_and_states(opened: Open) -> None:
    store = await opened()
    row = DeployableRow(name="shop", infrastructure="lxc", assemblies=0, slot="0", created=1.0, updated=1.0)
    await store.deployables.put(row, Deployable(name="shop"), ("assy1",), new=True)
    assert await store.deployables.rows() == [row]
    assert await store.deployables.holding("assy1") == ["shop"]
    assert await store.deployables.holding("assy") == []
    await store.log.commit([Entry(deployable="shop", state=b"one"), Entry(deployable="shop", state=b"two")])
    found = await store.deployables.definitions(["shop", "none"], state=True)
    assert found["shop"].state == b"two"
    await store.deployables.remove("shop")
    assert await store.deployables.rows() == []
    await store.log.commit([Entry(deployable="shop", state=b"late")])
    await store.deployables.put(row, Deployable(name="shop"), (), new=True)
    found = await store.deployables.definitions(["shop"], state=True)
    assert found["shop"].state is None, "a new deployable inherits nothing from one of the same name"
    await store.close()


async def test_jobs(opened: Open) -> None:
    store = await opened()
    job = Job(id="a", kind="jeos.build", subject="bookworm", arguments={"name": "bookworm"}, created=1.0, updated=1.0)
    await store.jobs.put(job)
    assert await store.jobs.list(state="running") == [job]
    await store.jobs.retain(age=0)
    assert await store.jobs.get("a") == job, "a running job is never dropped"
    await store.close()


async def test_thousands_of_records_in_batches(opened: Open) -> None:
    store = await opened()
    for start in range(0, 5000, 500):
        batch = range(start, start + 500)
        await store.log.commit([Entry(process="p", sequence=number + 1, event=event(number)) for number in batch])
    assert await store.log.head() == 5000
    await store.close()


async def test_where_it_is_carried_out_is_not_taken_back_by_an_older_row(opened: Open) -> None:
    store = await opened()
    old = DeployableRow(name="shop", infrastructure="lxc", assemblies=1, slot="0")
    await store.deployables.put(old, Deployable(name="shop"), (), new=True)
    await store.deployables.given({"shop": Deployable(name="shop")})
    await store.deployables.moved("shop", "1")
    await store.deployables.put_row(msgspec.structs.replace(old, target="started"))
    (row,) = await store.deployables.rows()
    assert (row.target, row.loaded, row.slot) == ("started", True, "1")
    await store.deployables.put(msgspec.structs.replace(old, paused=True), Deployable(name="shop"), (), new=False)
    (row,) = await store.deployables.rows()
    assert (row.paused, row.loaded, row.slot) == (True, True, "1")
    await store.close()


async def test_what_runs_is_known_until_the_newest_definition_is_given(opened: Open) -> None:
    store = await opened()
    row = DeployableRow(name="shop", infrastructure="lxc", assemblies=1)
    first, second, third = (Deployable(name="shop", priority=number) for number in range(3))
    await store.deployables.put(row, first, (), new=True)
    await store.deployables.given({"shop": first})
    assert (await found(store)).applied is None
    await store.deployables.put(row, second, (), new=False, applied=first)
    assert (await found(store)).applied == first
    await store.deployables.put(row, third, (), new=False, applied=first)
    await store.deployables.given({"shop": second})  # overtaken while it was on its way
    assert ((await found(store)).deployable, (await found(store)).applied) == (third, second)
    await store.deployables.given({"shop": third})
    assert (await found(store)).applied is None
    await store.close()


async def found(store: Store) -> Definition:
    got = await store.deployables.definition("shop")
    assert got is not None
    return got
