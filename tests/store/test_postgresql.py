"""A PostgreSQL server that crashes under the daemon, and the daemon that crashes over it: no record lost, none twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from pcloud.cpe.ingest import Ingest
from pcloud.events.broadcast import Broadcaster
from pcloud.events.event import Event
from pcloud.events.filters import EventFilter
from pcloud.store.rows import Entry
from pcloud.store.store import Store
from tests.cpe.harness import PATIENCE, DaemonProcess, manifest, until
from tests.store.postgres import Server


class Engine:
    """An engine process: sends what is not acknowledged over one connection after the other."""

    def __init__(self) -> None:
        self.made = 0
        self.acknowledged = 0


class Connection:
    """One of its connections; the daemon closes it when records were left out."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.closed = asyncio.Event()

    def acknowledge(self, sequence: int) -> None:
        self.engine.acknowledged = max(self.engine.acknowledged, sequence)

    def resend(self) -> None:
        self.closed.set()


def entry(number: int) -> Entry:
    event = Event(time=time.time(), type="test", deployable="shop", reason=str(number))
    return Entry(process="p", sequence=number, deployable="shop", event=event)


async def test_a_server_that_crashes_and_comes_back(server: Server) -> None:
    store = await Store.open(server.database())
    ingest = Ingest(store.log, Broadcaster(), limit=50, batch=20)
    running = asyncio.create_task(ingest.run())
    source, enough = Engine(), asyncio.Event()

    async def send() -> None:
        """Send on for as long as the server is to crash under it, however long that takes."""
        while source.acknowledged < source.made or not enough.is_set():
            connection, number, late = Connection(source), source.acknowledged, 0
            # Also after it was closed: what was sent before that is read to its end.
            while late < 50 and (number < source.made or not enough.is_set()):
                late += connection.closed.is_set()
                number += 1
                source.made = max(source.made, number)
                await ingest.put(entry(number), connection)
                await asyncio.sleep(0.001)
            if not late:
                await ingest.flush()
            if source.acknowledged < source.made:
                await asyncio.wait_for(connection.closed.wait(), PATIENCE)

    sending = asyncio.create_task(send())
    try:
        for _ in range(2):
            target = source.acknowledged + 60
            while source.acknowledged < target:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(server.kill)
            while not ingest.failing:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.start)
        enough.set()
        await asyncio.wait_for(sending, PATIENCE)
    finally:
        sending.cancel()
        running.cancel()
    total = source.made
    found, cursor = await store.log.events(EventFilter(), limit=total + 1)
    assert [int(one.reason) for one in found] == list(range(1, total + 1)), "each once, in order"
    assert [one.sequence for one in found] == list(range(1, total + 1)), "without a gap"
    assert cursor == total
    assert ingest.refused == 0
    await store.close()


@pytest.fixture
def daemon(tmp_path: Path, server: Server):  # type: ignore[no-untyped-def]
    made = DaemonProcess(tmp_path / "home")
    made.environment["PCLOUD__STORE__URL"] = server.database()
    made.environment["PCLOUD__STORE__LEASE"] = "0"  # what this daemon does while the server is away, however long
    try:
        yield made
    finally:
        made.close()
        made.client.close()


def flood(daemon: DaemonProcess) -> list[str]:
    return [one["data"]["reason"] for one in daemon.events(type="flood")]


def test_the_daemon_and_its_engines_killed_over_it(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    guests = {name: text for name, text in daemon.guest_files("shop").items() if not name.startswith("loads")}
    daemon.call("POST", "/v1/deployables/shop/assemblies/web/exec", 200, json={"argv": ["flood", "900"]})
    engines = daemon.all_engines()
    daemon.kill()
    for pid in engines.values():
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    daemon.running("shop")
    until(lambda: len(flood(daemon)) >= 900, "all records are there")
    assert flood(daemon) == [str(number) for number in range(900)]
    assert {k: v for k, v in daemon.guest_files("shop").items() if not k.startswith("loads")} == guests
    assert not (daemon.home / "pcloud.db").exists() or (daemon.home / "pcloud.db").stat().st_size == 0
    job = daemon.call("DELETE", "/v1/deployables/shop", 202)["job"]
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "it is deleted")


def test_the_server_away_is_told_and_recovers(daemon: DaemonProcess, server: Server) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    engines = daemon.all_engines()
    server.kill()
    try:
        answer = daemon.client.post("/v1/deployables/shop/pause")
        assert answer.status_code == 503, answer.text
        assert answer.json()["errors"][0]["code"].startswith("STORE_")
        os.kill(engines["1"], signal.SIGKILL)  # and its end is told
        until(lambda: daemon.client.get("/healthz").status_code == 503, "it says that it can not write")
    finally:
        server.start()
    until(lambda: daemon.client.get("/healthz").status_code == 200, "it writes again")
    until(lambda: [one["data"]["slot"] for one in daemon.events(type="engine.ended")] == ["1"], "what waited is there")
    daemon.call("POST", "/v1/deployables/shop/pause", 202)
