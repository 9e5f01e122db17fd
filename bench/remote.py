"""The agent against Pacemaker's own daemon, in one run: time from a service's end to its notification, memory, CPU; and
its start-up against what it may take.

Both daemons run the same OCF agent (a shell script), driven by the same transport. Rows are in seconds and kB.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.ports import free_port
from tests.remoted import AGENT, PYTHON, Daemon

from bench import Row
from pcloud.environment.transport import Endpoint, Operation, OperationResult
from pcloud.transport.remote import RemoteTransport
from pcloud.transport.session import RemoteConnection

SAMPLES = {1.0: (4, 50), 10.0: (2, 100)}
"""Per interval (s): rounds, and services killed in each; enough for a 99th percentile that is not the worst case."""
START_UP = 0.3
"""Seconds that the agent may take until it listens."""
STARTS = 20
MONITORS = 100
CPU_SECONDS = 15.0


def run() -> Iterator[Row]:
    """Measure both, then compare."""
    figures: dict[str, dict[str, float]] = {}
    for kind in ("pcloud", "pacemaker"):
        with tempfile.TemporaryDirectory() as folder:
            daemon = Daemon(kind, Path(folder))
            daemon.log_level = "notice"
            daemon.start()
            try:
                figures[kind] = asyncio.run(_measure(daemon))
            finally:
                daemon.stop()
    ours, theirs = figures["pcloud"], figures["pacemaker"]
    for name, seconds in _start_up().items():
        yield Row.of(f"remote.{name}", seconds, START_UP, 1.0)
    floor = _interpreter_floor()
    print(f"interpreter's own floor: {floor:.0f} kB", file=sys.stderr)
    for name in ours:
        if name == "memory":
            yield Row.of("remote.memory-beyond-interpreter-kb", max(ours[name] - floor, 1), theirs[name], 1.5)
        else:
            yield Row.of(f"remote.{name}", ours[name], theirs[name], 2.0 if name.startswith("cpu") else 0.1)


async def _measure(daemon: Daemon) -> dict[str, float]:
    assert daemon.process is not None
    figures: dict[str, float] = {}
    transport = RemoteTransport()
    changes: dict[str, tuple[float, asyncio.Event]] = {}

    def on_result(result: OperationResult) -> None:
        if result.rc == 7 and result.resource in changes:
            killed, event = changes[result.resource]
            changes[result.resource] = (time.monotonic() - killed, event)
            event.set()

    connection = await transport.connect(
        Endpoint(guest_id="bench", address="127.0.0.1", port=daemon.port, key=daemon.key),
        on_result=on_result,
        on_lost=lambda error: print(f"lost: {error}", file=sys.stderr),
        timeout=10,
    )
    figures["memory"] = float(_private(daemon.process.pid))
    for interval, (rounds, samples) in SAMPLES.items():
        took = sorted(
            [t for _ in range(rounds) for t in await _failures(daemon, connection, interval, samples, changes)]
        )
        figures[f"failure-to-notification-{interval:.0f}s-median"] = statistics.median(took)
        figures[f"failure-to-notification-{interval:.0f}s-p99"] = took[min(len(took) - 1, int(len(took) * 0.99))]
    before = _cpu(daemon.process.pid)
    for number in range(MONITORS):
        await connection.execute(_operation(daemon, f"cpu{number}", "start"))
        await connection.execute(_operation(daemon, f"cpu{number}", "monitor", 1.0))
    before = _cpu(daemon.process.pid)
    await asyncio.sleep(CPU_SECONDS)
    after = _cpu(daemon.process.pid)
    runs = MONITORS * CPU_SECONDS
    figures["cpu-seconds-per-100-monitors-daemon"] = (after[0] - before[0]) / runs * 100
    figures["cpu-seconds-per-100-monitors-with-agents"] = (sum(after) - sum(before)) / runs * 100
    for number in range(MONITORS):
        await connection.execute(_operation(daemon, f"cpu{number}", "stop"))
    await transport.close()
    return figures


def _operation(daemon: Daemon, name: str, action: str, interval: float = 0.0) -> Operation:
    folder = daemon.state / name
    folder.mkdir(exist_ok=True)
    return Operation(
        resource=name,
        resource_class="ocf",
        provider="test",
        type="service",
        action=action,
        interval=interval,
        parameters={"dir": str(folder)},
    )


async def _failures(
    daemon: Daemon,
    connection: RemoteConnection,
    interval: float,
    samples: int,
    changes: dict[str, tuple[float, asyncio.Event]],
) -> list[float]:
    """Kill one service after the other at random moments; return the times to the notification."""
    names = [f"s{interval:.0f}-{number}" for number in range(samples)]
    for name in names:
        await connection.execute(_operation(daemon, name, "start"))
        await connection.execute(_operation(daemon, name, "monitor", interval))
        changes[name] = (0.0, asyncio.Event())

    async def one(name: str) -> float:
        await asyncio.sleep(random.uniform(0.5, 0.5 + 2 * interval))
        event = changes[name][1]
        changes[name] = (time.monotonic(), event)
        os.kill(int((daemon.state / name / "pid").read_text()), signal.SIGKILL)
        await asyncio.wait_for(event.wait(), 3 * interval + 10)
        return changes[name][0]

    took = await asyncio.gather(*(one(name) for name in names))
    for name in names:
        await connection.execute(_operation(daemon, name, "stop"))
    return took


def _start_up() -> dict[str, float]:
    """Seconds until the agent listens: at its first start in a guest, whose modules it compiles, and later (median)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(AGENT[-1]).parents[1]
        tree = shutil.copytree(source, f"{folder}/pcloud", ignore=shutil.ignore_patterns("__pycache__"))
        Path(folder, "authkey").write_bytes(b"k" * 4096)
        took = []
        for _ in range(STARTS + 1):
            port = free_port()
            command = [*AGENT[:-1], f"{tree}/agent/boot.py", "--address=127.0.0.1", f"--port={port}"]
            begun = time.monotonic()
            process = subprocess.Popen([*command, f"--authkey={folder}/authkey", "--log-level=error"])
            try:
                while not _listens(port):
                    time.sleep(0.001)
                took.append(time.monotonic() - begun)
            finally:
                process.kill()
                process.wait()
    return {"first-start-seconds": took[0], "start-seconds-median": statistics.median(took[1:])}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _private(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty"))


def _cpu(pid: int) -> tuple[float, float]:
    """Seconds of CPU of the process itself, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, (int(fields[13]) + int(fields[14])) / ticks


def _interpreter_floor() -> float:
    """Private memory of the same interpreter when it does nothing."""
    process = subprocess.Popen(
        [PYTHON, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        return float(_private(process.pid))
    finally:
        process.kill()
        process.wait()
