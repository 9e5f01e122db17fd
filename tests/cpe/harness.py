"""Runs the real daemon (over stand-in images and engine processes) as a process, to be killed at any moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds that anything may take: a busy machine is no failure."""


def until(check: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Return what `check` returns once that is true; fail when it does not become so."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {timeout} s: {what}")


def engines_of(home: Path) -> list[int]:
    """Return the stand-in engine processes of a home, also those that have not written down yet who they are."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if any(word.endswith(b"fake_engine.py") for word in words) and any(
                word.startswith(str(home).encode() + b"/") for word in words
            ):
                found.append(int(entry.parent.name))
    return found


def end_engines(home: Path) -> None:
    """End them."""
    for pid in engines_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class DaemonProcess:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.guests = home.with_name("guests")
        self.guests.mkdir(exist_ok=True)
        self.process: subprocess.Popen[str] | None = None
        self.client = httpx2.Client(timeout=PATIENCE)
        self.environment = {**os.environ, "FAKE_GUESTS": str(self.guests), "PCLOUD__ENGINE__SLOTS": "2"}
        self.environment.pop("PCLOUD_URL", None)

    def start(self, wait: bool = True) -> None:
        log = self.home.with_name("cped.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cpe.fake_daemon", str(self.home)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=self.environment,
        )
        log.close()
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url, self.log()
        self.client.close()
        token = (self.home / "token").read_text().strip()
        self.client = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)

    def log(self) -> str:
        return self.home.with_name("cped.log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()
        return code

    def engines(self) -> dict[str, int]:
        found = {}
        for path in (self.home / "run").glob("dped-*.lock"):
            text = path.read_text().strip()
            if text.isdigit() and Path(f"/proc/{text}/cmdline").exists():
                command = Path(f"/proc/{text}/cmdline").read_bytes()
                if b"fake_engine" in command and str(self.home).encode() in command:
                    found[path.name[5:-5]] = int(text)
        return found

    def all_engines(self) -> dict[str, int]:
        """Return the engine processes when every slot has one: what needs only the first runs before the second does."""
        slots = int(self.environment["PCLOUD__ENGINE__SLOTS"])
        return until(lambda: found if len(found := self.engines()) == slots else None, "every engine process")

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        end_engines(self.home)

    # --- what a client does

    def call(self, method: str, path: str, status: int = 0, **more: Any) -> Any:
        response = self.client.request(method, path, **more)
        assert not status or response.status_code == status, response.text
        return response.json() if response.content else None

    def apply(self, text: str, **query: Any) -> Any:
        return self.call(
            "POST", "/v1/deployables", 200, content=text, headers={"Content-Type": "application/yaml"}, params=query
        )

    def state(self, name: str) -> str:
        response = self.client.get(f"/v1/deployables/{name}")
        return response.json()["state"] if response.status_code == 200 else ""

    def running(self, name: str, timeout: float = PATIENCE) -> None:
        until(lambda: self.state(name) == "running", f"{name} runs", timeout)

    def guest_files(self, name: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(self.guests.glob(f"{name}.*"))}

    def events(self, **query: Any) -> list[dict[str, Any]]:
        return self.call("GET", "/v1/events", 200, params={"limit": 1000, **query})["events"]


def manifest(
    name: str, *, image: str = "bookworm", assemblies: tuple[str, ...] = ("db", "web"), extra: str = ""
) -> str:
    lines = [f"deployable: {name}", "infrastructure: lxc", *([extra] if extra else []), "assemblies:"]
    for assembly in assemblies:
        lines += [
            f"  {assembly}:",
            f"    image: {image}",
            "    resources:",
            "      httpd: {template: httpd, monitor: 10s}",
        ]
    return "\n".join(lines) + "\n"
