"""Private memory of a deployable, in all our processes: daemon, engines, scheduler workers.

1,000 deployables of 3 guests with a monitored resource each, over real TLS connections to stand-in agents; against the C
engine, which is one process a deployable.

`BENCH_DEPLOYABLES=5000` asks for another number.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.ports import free_port

from bench import Row, peer_memory, standin
from pcloud.client.api import Client
from pcloud.client.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = """
deployable: d{number}
assemblies:
  a: {{image: bookworm, resources: {{r: {{template: dummy, monitor: 10s}}}}}}
  b: {{image: bookworm, after: [a], resources: {{r: {{template: dummy, monitor: 10s}}}}}}
  c: {{image: bookworm, after: [b], resources: {{r: {{template: dummy, monitor: 10s}}}}}}
"""


class Fleet:
    """The daemon, its engine processes, and the stand-in agents, with a number of running deployables."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.home = folder / "home"
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(256))
        self._standin, port = standin.start(key)
        listen = f"127.0.0.1:{free_port()}"
        environment = {**os.environ, "BENCH_STANDIN": f"{port}:{key}", "PYTHONPATH": str(ROOT)}
        self.log = (folder / "daemon.log").open("wb")
        command = [sys.executable, "-m", "bench.fleet", str(self.home), listen]
        self.daemon = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.daemon.stdout is not None
        if self.daemon.stdout.readline().strip() != "ready":
            raise RuntimeError((folder / "daemon.log").read_text()[-2000:])
        self.client = Client(Settings(url=f"http://{listen}", token=(self.home / "token").read_text().strip()))

    def start(self, patience: float = 1800.0) -> None:
        """Apply every deployable and wait until all of them run."""
        for number in range(self.number):
            self.client.apply(MANIFEST.format(number=number).encode(), form="yaml")
        end = time.monotonic() + patience
        while True:
            running = sum(1 for each in self.client.deployables() if each.state == "running")
            if running == self.number:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"only {running} of {self.number} deployables run")
            time.sleep(1)

    def processes(self) -> list[int]:
        """Return the ids of all our processes: the daemon, its engines, their scheduler workers."""
        engines = [int(lock.read_text()) for lock in (self.home / "run").glob("dped-*.lock")]
        return [self.daemon.pid, *engines, *(child for engine in engines for child in _children(engine))]

    def close(self) -> None:
        """End everything."""
        engines = self.processes()[1:]
        self.daemon.kill()  # first, or it would start them again
        for pid in engines:
            with contextlib.suppress(ProcessLookupError):  # a worker ends with its engine
                os.kill(pid, signal.SIGKILL)
        self.daemon.wait()
        assert self.daemon.stdout is not None
        self.daemon.stdout.close()
        self.log.close()
        assert self._standin.stdin is not None
        assert self._standin.stdout is not None
        self._standin.stdin.close()
        self._standin.wait()
        self._standin.stdout.close()
        self.client.close()


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def run() -> Iterator[Row]:
    """Yield the row `memory`, in bytes a deployable."""
    number = int(os.environ.get("BENCH_DEPLOYABLES", "1000"))
    with tempfile.TemporaryDirectory(prefix="pcloud-bench-") as folder:
        fleet = Fleet(Path(folder), number)
        try:
            fleet.start()
            time.sleep(5)  # what was only needed for the start is given back
            ours = sum(peer_memory.private(pid) for pid in fleet.processes()) / number
        finally:
            fleet.close()
    yield Row.of("memory", ours, float(peer_memory.measure()), 0.1)
