"""The spool: a record survives both processes, whole, in order, whatever the disk and the daemon do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from pcloud.dpe import spool as spooling
from pcloud.dpe.messages import Record, receive_up
from pcloud.dpe.spool import Spool
from pcloud.events.event import Event


class Daemon:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.received = bytearray()

    @property
    def transport(self) -> Daemon:
        return self

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.received += data


def connect(spool: Spool) -> Daemon:
    daemon = Daemon()
    spool.connected(cast("asyncio.StreamWriter", daemon))
    return daemon


async def records(content: bytes) -> list[int]:
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    found: list[int] = []
    while not reader.at_eof():
        record = await receive_up(reader)
        assert isinstance(record, Record)
        found.append(record.sequence)
    return found


def note(spool: Spool, reason: str = "x") -> None:
    spool.event(Event(time=1.0, type="test", deployable="shop", reason=reason))


async def test_what_was_written_before_a_kill_is_read_by_the_next_daemon(tmp_path: Path) -> None:
    path = tmp_path / "spool.bin"
    program = (
        "import os, sys, signal; from pathlib import Path; from pcloud.dpe.spool import Spool\n"
        "s = Spool(Path(sys.argv[1]))\n"
        "for i in range(100): s.state('shop', b'x' * i)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert await records(path.read_bytes()) == list(range(1, 101))
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_full_disk_leaves_no_half_record_and_keeps_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 250
    write = os.write

    def small_disk(file: int, data: bytes) -> int:
        left = room - os.fstat(file).st_size
        if left <= 0:
            raise OSError(28, "No space left on device")
        return write(file, data[:left])

    monkeypatch.setattr(spooling.os, "write", small_disk)
    spool = Spool(tmp_path / "spool.bin")
    for _ in range(10):
        note(spool)
    assert len(await records((tmp_path / "spool.bin").read_bytes())) in range(1, 10)
    assert await records(bytes(connect(spool).received)) == list(range(1, 11))
    room = 100_000
    note(spool)
    assert await records((tmp_path / "spool.bin").read_bytes()) == list(range(1, 12))
    spool.acknowledged(11)
    assert (tmp_path / "spool.bin").stat().st_size == 0
    spool.close()
    assert not (tmp_path / "spool.bin").exists()


async def test_the_daemon_went_away_before_it_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.bin")
    first = connect(spool)
    note(spool)
    note(spool)
    assert await records(bytes(first.received)) == [1, 2]
    spool.disconnected()
    note(spool)
    second = connect(spool)
    assert await records(bytes(second.received)) == [1, 2, 3]
    spool.acknowledged(2)
    spool.disconnected()
    assert (await records(bytes(connect(spool).received)))[-1] == 3
    spool.acknowledged(3)
    spool.close()


async def test_the_file_stays_small_though_there_is_always_a_newer_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.bin")
    largest = 0
    for i in range(1, 6000):
        note(spool, "y" * 1000)
        if i % 10 == 0:
            spool.acknowledged(i - 3)
        largest = max(largest, (tmp_path / "spool.bin").stat().st_size)
    assert largest < 4 * spooling.COMPACT
    found = await records(bytes(connect(spool).received))
    assert found[-1] == 5999
    assert found == sorted(found)
    spool.acknowledged(5999)
    spool.close()


async def test_an_event_and_the_state_that_it_led_to_are_one_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.bin")
    daemon = connect(spool)
    spool.event(Event(time=1.0, type="incident", deployable="shop"), b"memory")
    reader = asyncio.StreamReader()
    reader.feed_data(bytes(daemon.received))
    reader.feed_eof()
    record = await receive_up(reader)
    assert isinstance(record, Record)
    assert record.event is not None
    assert (record.deployable, record.event.type, record.state) == ("shop", "incident", b"memory")
    assert reader.at_eof()
