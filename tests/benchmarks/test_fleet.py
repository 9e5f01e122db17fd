"""The fleet without guests that `memory` and `idle` measure: it runs, all its processes are counted, it leaves nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from bench import peer_memory
from bench.memory import Fleet

from pcloud.scheduler.client import binding_available


@pytest.mark.real
@pytest.mark.skipif(not binding_available(), reason="the scheduler binding is not built")
def test_two_deployables(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 2)
    try:
        fleet.start(patience=600)
        processes = fleet.processes()
        assert len(processes) >= 3, "daemon, engine, scheduler worker"
        assert all(peer_memory.private(pid) > 1_000_000 for pid in processes)
    finally:
        fleet.close()
    deadline = time.monotonic() + 60
    while left := [pid for pid in processes if _lives(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
