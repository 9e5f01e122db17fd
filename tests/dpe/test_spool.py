"""The engine process's journal: what is written survives, what is acknowledged goes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from pcloud.dpe import spool as module
from pcloud.dpe.messages import Record, receive_up
from pcloud.dpe.spool import Spool


class Line:
    """A writer that keeps what it is given; also its own transport."""

    def __init__(self) -> None:
        self.data = b""
        self.transport = self
        self.unsent = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.data += data


async def records(data: bytes) -> list[int]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while not reader.at_eof():
        message = await receive_up(reader)
        assert isinstance(message, Record)
        found.append(message.sequence)
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool-0-x.bin")


async def test_what_was_written_before_and_while_connected_arrives_once(spool: Spool) -> None:
    spool.state("a", b"1")
    line = Line()
    spool.connected(line)  # type: ignore[arg-type]
    spool.state("a", b"2")
    assert await records(line.data) == [1, 2]


async def test_what_is_not_acknowledged_is_sent_again(spool: Spool) -> None:
    for _ in range(5):
        spool.state("a", b"x")
    spool.acknowledged(3)
    line = Line()
    spool.connected(line)  # type: ignore[arg-type]
    assert await records(line.data) == [4, 5]
    spool.acknowledged(5)
    assert spool.path.stat().st_size == 0


async def test_a_dead_engines_file_holds_whole_records(spool: Spool) -> None:
    for _ in range(3):
        spool.state("a", b"x")
    assert await records(spool.path.read_bytes()) == [1, 2, 3]


async def test_under_constant_load_the_file_does_not_grow(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT", 1000)
    largest = 0
    for number in range(1, 2000):
        spool.state("a", b"x" * 50)
        spool.acknowledged(number - 3)
        largest = max(largest, spool.path.stat().st_size)
    assert largest < 2500
    line = Line()
    spool.connected(line)  # type: ignore[arg-type]
    assert await records(line.data) == [1997, 1998, 1999]


async def test_a_full_disk_keeps_records_in_memory(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.state("a", b"1")
    real = os.write

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    spool.state("a", b"2")
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[: len(data) // 2]))
    spool.state("a", b"3")
    monkeypatch.setattr(os, "write", real)
    assert await records(spool.path.read_bytes()) == [1]
    line = Line()
    spool.connected(line)  # type: ignore[arg-type]
    assert await records(line.data) == [1, 2, 3]
    spool.state("a", b"4")
    assert await records(spool.path.read_bytes()) == [1, 2, 3, 4]


async def test_an_empty_file_is_removed_at_the_end(spool: Spool) -> None:
    spool.state("a", b"1")
    spool.acknowledged(1)
    spool.close()
    assert not spool.path.exists()


async def test_a_daemon_that_does_not_read_is_let_go(spool: Spool) -> None:
    line = Line()
    spool.connected(line)  # type: ignore[arg-type]
    line.unsent = module.MOST_UNSENT + 1
    spool.state("a", b"1")
    assert line.aborted
    spool.state("a", b"2")
    again = Line()
    spool.connected(again)  # type: ignore[arg-type]
    assert await records(again.data) == [1, 2]
