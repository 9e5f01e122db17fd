"""What a decision costs end to end (snapshot, CIB, worker, library, graph), against the bare call of Pacemaker's library
on the same CIB in a process that does nothing else.

Both sides work on the same input, in turns, so that a busy machine is busy for both; the median of the turns counts.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from bench import Row
from bench.cibs import three_guests
from pcloud.policy import cib
from pcloud.policy.graph import parse_graph
from pcloud.scheduler.client import WorkerScheduler

TURNS = 11
DECISIONS = 200
"""Per turn."""

BUDGET = 2.0


def run() -> Iterator[Row]:
    """Yield one row: milliseconds a decision."""
    yield asyncio.run(_measure())


async def _measure() -> Row:
    state = three_guests()
    now = 1_700_000_000.0
    bare = subprocess.Popen(
        [sys.executable, "-m", "bench.decision"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    scheduler = WorkerScheduler()
    try:
        if len(parse_graph(await scheduler.schedule(cib.render(state, now))).actions) < 9:
            raise RuntimeError("the input does not lead to the decision that is to be measured")
        ours, theirs = [], []
        for _ in range(TURNS):
            theirs.append(_bare_turn(bare))
            begun = time.perf_counter()
            for _ in range(DECISIONS):
                parse_graph(await scheduler.schedule(cib.render(state, now)))
            ours.append(time.perf_counter() - begun)
    finally:
        await scheduler.close()
        bare.communicate()
    per_decision = 1000 / DECISIONS
    return Row.of("decision", statistics.median(ours) * per_decision, statistics.median(theirs) * per_decision, BUDGET)


def _bare_turn(process: subprocess.Popen[str]) -> float:
    """Have the other process make its turn; seconds."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    process.stdin.write("turn\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def bare() -> None:
    """For each line on stdin, call the library `DECISIONS` times and print how many seconds that took."""
    from pcloud.scheduler._pacemaker import ffi, lib

    document = cib.render(three_guests(), 1_700_000_000.0)
    answer, size = ffi.new("char **"), ffi.new("size_t *")
    if lib.pcloud_init() != 0:
        raise RuntimeError("the library could not be set up")
    for _ in sys.stdin:
        begun = time.perf_counter()
        for _ in range(DECISIONS):
            lib.pcloud_schedule(document, len(document), 0, answer, size)
            lib.pcloud_free(answer[0])
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    bare()
