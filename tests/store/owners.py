"""Several daemons on one PostgreSQL store, and a way to cut one of them off from it without a word."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TextIO

import httpx2

from tests.cpe.harness import PATIENCE, DaemonProcess, until

LEASE = 12
"""Seconds."""


class Proxy:
    """A way to the server's socket. Once cut it passes nothing on, in neither direction, and closes nothing: half open."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._server = str(server / ".s.PGSQL.5432")
        self._open = threading.Event()
        self._open.set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen(64)
        self._sockets: list[socket.socket] = [self._listening]
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        self._open.wait()
        far = socket.socket(socket.AF_UNIX)
        self._sockets += [near, far]
        with contextlib.suppress(OSError, ValueError), near, far, selectors.DefaultSelector() as ready:
            far.connect(self._server)
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            while not self._ended:
                for key, _ in ready.select(1):
                    self._open.wait()
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    self._open.wait()
                    key.data.sendall(data)

    def close(self) -> None:
        self._ended = True
        self._open.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Member(DaemonProcess):
    """One of several daemons. Its addresses are read as they come: it has another after it stood by."""

    def __init__(self, home: Path, url: str) -> None:
        super().__init__(home)
        self.environment["PCLOUD__STORE__URL"] = url
        self.environment["PCLOUD__STORE__LEASE"] = str(LEASE)
        self.environment["FAKE_ACTS"] = str(home.with_name("acts"))
        self.url = ""
        self._reader: threading.Thread | None = None

    def start(self, wait: bool = True) -> None:
        self.url = ""
        super().start(wait=False)
        assert self.process is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()
        if wait:
            until(lambda: self.url, "it answers")

    def _read(self, lines: TextIO) -> None:
        with lines:
            for line in lines:
                self.url = line.strip()

    def ended(self) -> int:
        """Wait for the daemon's end and return its exit status."""
        assert self.process is not None
        assert self._reader is not None
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.ended()

    def log(self) -> str:
        return self.home.with_name("cped.log").read_text()

    def answer(self, method: str = "GET", path: str = "/healthz", **more: object) -> httpx2.Response | None:
        """What it answers now, None when nothing does."""
        token = self.home / "token"
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}
        headers.update(more.pop("headers", {}))  # type: ignore[call-overload]
        try:
            with httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE) as client:
                return client.request(method, path, **more)  # type: ignore[arg-type]
        except httpx2.TransportError:
            return None

    def owns(self) -> bool:
        answer = self.answer()
        return answer is not None and answer.status_code == 200

    def stands_by(self) -> str:
        """Why it stands by; empty when it does not."""
        answer = self.answer(path="/v1/deployables")
        if answer is None or answer.status_code != 503:
            return ""
        problem = answer.json()["errors"][0]
        return problem["message"] if problem["code"] == "STANDBY" else ""

    def send(self, number: int, *, engines: bool = False) -> None:
        """Send a signal to the daemon, and to its engine processes first if asked to."""
        assert self.process is not None
        for pid in self.engines().values() if engines else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        self.process.send_signal(number)

    def shows(self, name: str) -> str:
        answer = self.answer(path=f"/v1/deployables/{name}")
        return answer.json()["state"] if answer is not None and answer.status_code == 200 else ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT, engines=True)
        super().close()


def acted(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return from when to when each engine process acted, by the name of its home."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in path.read_text().splitlines():
        moment, home, process = line.split()
        times[home, process].append(float(moment))
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (home, _), moments in times.items():
        found[home].append((min(moments), max(moments)))
    return found


def assert_never_two(path: Path) -> None:
    """Fail when engine processes of two homes ever acted at one time."""
    found = acted(path)
    for home, spans in found.items():
        for other, theirs in found.items():
            for first, last in spans:
                for begin, end in theirs:
                    assert home == other or last < begin or end < first, (home, other, found)


def wait_past(path: Path, moment: float) -> None:
    """Wait until somebody acted after a moment."""
    until(lambda: any(last > moment for spans in acted(path).values() for _, last in spans), "somebody acts")


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
