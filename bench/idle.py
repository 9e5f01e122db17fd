"""What 5,000 deployables cost when nothing happens: processor time and memory of all our processes.

The fleet is that of the `memory` benchmark: three guests a deployable, a monitored resource each, over real TLS connections
to stand-in agents. Processor time is compared with one core, memory with the C engine, which is one process a deployable.

`BENCH_DEPLOYABLES=500` asks for another number; the rows' names say which it was.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench import Row, peer_memory
from bench.memory import Fleet

SETTLE = 20.0
"""Seconds after the last start: what was only needed for starting is done and given back."""
WINDOW = 60.0
"""Seconds of doing nothing that are measured."""


def run() -> Iterator[Row]:
    """Yield `idle-N`, in cores, and `memory-N`, in bytes a deployable."""
    number = int(os.environ.get("BENCH_DEPLOYABLES", "5000"))
    with tempfile.TemporaryDirectory(prefix="pcloud-bench-") as folder:
        fleet = Fleet(Path(folder), number)
        try:
            begun = time.monotonic()
            fleet.start()
            print(f"{number} deployables run after {time.monotonic() - begun:.0f} s", file=sys.stderr)
            time.sleep(SETTLE)
            processes = fleet.processes()
            before, begun = cpu(processes), time.monotonic()
            time.sleep(WINDOW)
            after, ended = cpu(processes), time.monotonic()
            for pid in processes:
                spent = (after[pid] - before[pid]) / (ended - begun)
                print(f"{_name(pid)}: {spent:.2%} of a core, {peer_memory.private(pid) >> 10} kB", file=sys.stderr)
            cores = (sum(after.values()) - sum(before.values())) / (ended - begun)
            memory = sum(peer_memory.private(pid) for pid in processes) / number
        finally:
            fleet.close()
    yield Row.of(f"idle-{number}", cores, 1.0, 0.1)
    yield Row.of(f"memory-{number}", memory, float(peer_memory.measure()), 0.1)


def cpu(processes: Iterable[int]) -> dict[int, float]:
    """Return the seconds of processor time that each process has used."""
    tick = os.sysconf("SC_CLK_TCK")
    spent = {}
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        spent[pid] = (int(fields[11]) + int(fields[12])) / tick
    return spent


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index("-m") + 1] if "-m" in words else words[0]
