"""A disk that is really full, for the store and for an engine process and its spool: nothing half written, nothing lost, and
all of it ends by itself once there is room."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcloud.cpe import processes
from pcloud.cpe import spool as reader
from pcloud.cpe.home import Home
from pcloud.cpe.ingest import Ingest
from pcloud.dpe.messages import Hello, Shutdown, Up, encode, receive_up
from pcloud.dpe.spool import Spool
from pcloud.events.broadcast import Broadcaster
from pcloud.events.event import Event
from pcloud.events.filters import EventFilter
from pcloud.model.deployable import Deployable
from pcloud.store.database import sqlite_url
from pcloud.store.errors import StoreFull
from pcloud.store.rows import DeployableRow, Entry
from pcloud.store.store import Store

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")]


class Disk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self) -> None:
        with self.filler.open("ab", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    def make_room(self) -> None:
        self.filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "pcloud-test", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def event(number: int, size: int = 10) -> Event:
    return Event(time=time.time(), type="test", deployable="shop", reason=f"{number} {'x' * size}")


def numbers(found: list[Event]) -> list[int]:
    return [int(one.reason.split()[0]) for one in found]


async def test_the_store_refuses_whole_and_goes_on(disk: Disk) -> None:
    store = await Store.open(sqlite_url(disk.folder / "pcloud.db"))
    row = DeployableRow(name="shop", infrastructure="lxc", assemblies=0)
    await store.deployables.put(row, Deployable(name="shop"), (), new=True)
    disk.fill()
    with pytest.raises(StoreFull) as caught:
        for number in range(100):
            await store.log.commit([Entry(event=event(number, 20_000)) for number in range(20)])
    assert "make room" in caught.value.problems[0].hint
    before = (await store.log.events(EventFilter(), limit=1000))[0]
    assert len(before) % 20 == 0, "a batch is there whole or not at all"
    assert await store.deployables.rows() == [row], "reading goes on"
    disk.make_room()
    made = await store.log.commit([Entry(event=event(7))])
    assert made[0].sequence == len(before) + 1, "without a gap"
    await store.close()
    again = await Store.open(sqlite_url(disk.folder / "pcloud.db"))
    assert len((await again.log.events(EventFilter(), limit=1000))[0]) == len(before) + 1
    await again.close()


async def test_records_wait_and_none_is_lost_or_doubled(disk: Disk) -> None:
    store = await Store.open(sqlite_url(disk.folder / "pcloud.db"))
    ingest = Ingest(store.log, Broadcaster())
    running = asyncio.create_task(ingest.run())
    try:
        disk.fill()
        sent = 0
        while not ingest.failing:
            if ingest.committed == sent:  # one after the other: what is sent must have room in the end
                ingest.emit(event(sent, 5_000))
                sent += 1
            await asyncio.sleep(0.002)
        for _ in range(20):
            ingest.emit(event(sent, 5_000))
            sent += 1
        disk.make_room()
        async with asyncio.timeout(300):
            await ingest.flush()
        assert not ingest.failing
        found, _ = await store.log.events(EventFilter(), limit=sent + 1)
        assert numbers(found) == list(range(sent))
        assert [one.sequence for one in found] == list(range(1, sent + 1))
    finally:
        running.cancel()
        await store.close()


async def test_an_engines_spool_keeps_whole_records_in_order(disk: Disk) -> None:
    path = disk.folder / "spool.bin"
    spool = Spool(path)
    for number in range(5):
        spool.event(event(number, 1000))
    disk.fill()
    for number in range(5, 60):
        spool.event(event(number, 1000))
    on_disk = [one.event for one in reader.records(path)]
    assert numbers([one for one in on_disk if one is not None]) == list(range(len(on_disk))), "no half record"
    assert 5 <= len(on_disk) < 60
    disk.make_room()
    spool.event(event(60, 1000))
    after = [one.event for one in reader.records(path)]
    assert numbers([one for one in after if one is not None]) == list(range(61)), "what waited in memory came first"
    spool.acknowledged(61)
    assert path.stat().st_size == 0
    spool.close()


@pytest.mark.parametrize("ran_before", [True, False])
async def test_an_engine_process_starts_on_a_full_disk(disk: Disk, tmp_path: Path, ran_before: bool) -> None:
    """What runs is watched and recovered whatever the disk does: also by an engine process that comes after."""
    home = disk.folder / "home"
    (home / "run").mkdir(parents=True)
    if ran_before:
        (home / "run" / "dped-0.lock").write_text("123456\n")
    hello: asyncio.Future[Up] = asyncio.get_running_loop().create_future()

    async def serve(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello.set_result(await receive_up(stream))
        found.append(processes.holder(Home(home), "0"))
        writer.write(encode(Shutdown()))
        await writer.drain()
        writer.close()

    found: list[int | None] = []
    server = await asyncio.start_unix_server(serve, tmp_path / "sock")
    disk.fill()
    words = ("--home", str(home), "--socket", str(tmp_path / "sock"), "--slot", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pcloud.dpe.main", *words, stderr=asyncio.subprocess.PIPE
    )
    try:
        done, _ = await asyncio.wait({hello, asyncio.ensure_future(process.wait())}, timeout=300)
        assert hello in done, (await process.communicate())[1].decode()
        assert isinstance(hello.result(), Hello)
        await process.communicate()
        assert process.returncode == 0
        assert found == [process.pid], "the daemon knows it"
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        server.close()
        await server.wait_closed()
