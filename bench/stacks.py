"""Stacks of resources that do nothing: ours, through our daemon's Heat endpoint, and real Heat's legacy engine, in one run.

Both are driven by the same client over HTTP: seconds from the POST to the first answer that says CREATE_COMPLETE, and
seconds a stack when eight clients create one after the other. Both store durably: our SQLite and Heat's MariaDB flush at
each commit.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.stacks.daemon import Daemon

from bench import Row

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "tests/peers/heat.sh"
SIZES = {1: 9, 10: 9, 100: 5, 500: 3}
"""Resources a stack → repetitions; the median counts."""
PEER_SIZES = {1: 5, 10: 5, 100: 3, 500: 1}
AT_A_TIME = 8
STACKS = 200
PEER_STACKS = 40
POLL = 0.005
BUDGETS = {"stacks-1": 0.2, "stacks-10": 0.2, "stacks-100": 0.1, "stacks-500": 0.05, "stacks-rate": 0.05}
"""500 and the rate are what the design promises; the small ones are mostly the client's own round trips."""


def run() -> Iterator[Row]:
    """Measure ours, then the peer, then compare."""
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder)) as daemon:
        ours = _measure(f"{daemon.heat}/v1/admin", daemon.token, SIZES, STACKS)
        print(f"ours: {ours}", file=sys.stderr)
    subprocess.run([PEER, "install"], check=True)
    try:
        subprocess.run([PEER, "start"], check=True, stdout=sys.stderr)
        url = subprocess.run([PEER, "url"], check=True, capture_output=True, text=True).stdout.strip()
        theirs = _measure(url, "x", PEER_SIZES, PEER_STACKS)
        print(f"Heat: {theirs}", file=sys.stderr)
    finally:
        subprocess.run([PEER, "stop"], check=True)
    for name, seconds in ours.items():
        yield Row.of(name, seconds, theirs[name], BUDGETS[name])


def template(size: int) -> dict[str, Any]:
    """Return a template of so many resources that do nothing."""
    resources = {f"r{n}": {"type": "OS::Heat::TestResource", "properties": {"value": f"v{n}"}} for n in range(size)}
    return {"heat_template_version": "2018-08-31", "resources": resources}


class Client:
    """One connection to a Heat API."""

    def __init__(self, url: str, token: str) -> None:
        self._base = urlsplit(url)
        self._headers = {"X-Auth-Token": token, "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(self._base.netloc, timeout=600)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request; return status and body."""
        self._connection.request(method, self._base.path + path, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def create(self, body: dict[str, Any]) -> float:
        """Create a stack, wait for its completion, return the seconds it took."""
        name = f"b{uuid.uuid4().hex[:10]}"
        text = json.dumps({"stack_name": name, "template": body, "timeout_mins": 30}).encode()
        begun = time.perf_counter()
        status, answer = self.ask("POST", "/stacks", text)
        if status != 201:
            raise RuntimeError(f"the stack was not taken: {status} {answer[:300]!r}")
        path = f"/stacks/{name}/{json.loads(answer)['stack']['id']}"
        while True:
            _, answer = self.ask("GET", f"{path}?resolve_outputs=False")
            state = json.loads(answer)["stack"]["stack_status"]
            if state == "CREATE_COMPLETE":
                return time.perf_counter() - begun
            if not state.endswith("IN_PROGRESS"):
                raise RuntimeError(f"the stack became {state}: {answer[:300]!r}")
            time.sleep(POLL)


def _measure(url: str, token: str, sizes: dict[int, int], stacks: int) -> dict[str, float]:
    client = Client(url, token)
    client.create(template(1))  # whatever is read or compiled once
    figures: dict[str, float] = {}
    for size, times in sizes.items():
        figures[f"stacks-{size}"] = statistics.median(client.create(template(size)) for _ in range(times))
    figures["stacks-rate"] = _rate(url, token, stacks)
    return figures


def _rate(url: str, token: str, stacks: int) -> float:
    """Return the seconds a stack takes when several clients create stacks of one resource, one after the other."""
    share = stacks // AT_A_TIME
    problems: list[BaseException] = []

    def work() -> None:
        client = Client(url, token)
        try:
            for _ in range(share):
                client.create(template(1))
        except (RuntimeError, OSError) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(AT_A_TIME)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return (time.perf_counter() - begun) / (share * AT_A_TIME)
