"""A whole daemon in a process of its own, with its stack endpoints on free ports: for real clients, and to be killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.ports import free_port

BIN = Path(sys.executable).parent
_ANY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Daemon:
    """`pcloud-cped` over a state folder, which survives its end so that another one can carry on. `images` is a store of
    its own, for tests that might remove some of the shared one."""

    def __init__(self, home: Path, *, bridge: str = "pcsc0", images: Path | None = None, settings: str = "") -> None:
        self.home = home / "home"
        self.home.mkdir(mode=0o700, exist_ok=True)
        self._ports = ports = {name: free_port() for name in ("api", "cloudformation", "cloudwatch", "heat")}
        self.url, self.cloudformation, self.cloudwatch, self.heat = (
            f"http://127.0.0.1:{port}" for port in ports.values()
        )
        places = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        (self.home / "pcloud.toml").write_text(
            f'[api]\nlisten = "{places["api"]}"\n'
            f'[stacks]\ncloudformation = "{places["cloudformation"]}"\ncloudwatch = "{places["cloudwatch"]}"\n'
            f'heat = "{places["heat"]}"\n'
            f'[infrastructures.lxc]\nbridge = "{bridge}"\n'
            + (f'[images]\nfolder = "{images}"\n' if images else "")
            + settings
        )
        self.environment = {
            **{key: value for key, value in os.environ.items() if key in {"PATH", "LANG", "HOME"}},
            "PCLOUD_HOME": str(self.home),
            "PCLOUD_URL": self.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "COLUMNS": "200",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> str:
        """The token that the daemon made at its first start."""
        return (self.home / "token").read_text().strip()

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.run("down")
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def start(self) -> None:
        """Start it and return when it answers."""
        with (self.home / "cped.out").open("ab") as log:
            self._process = subprocess.Popen(
                [BIN / "pcloud-cped"], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 300
        while True:
            assert self._process.poll() is None, (self.home / "cped.out").read_text()[-3000:]
            assert time.monotonic() < deadline, "the daemon does not answer"
            try:
                self.call("GET", "/v1/stacks")
                for port in self._ports.values():  # the native one is the first
                    socket.create_connection(("127.0.0.1", port), 5).close()
            except (OSError, ValueError):
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the native API; HTTPError when it refuses."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        with _ANY.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def run(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `pcloud` and return what came of it."""
        return subprocess.run(
            [BIN / "pcloud", *words], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout,
        )  # fmt: skip

    def pcloud(self, *words: str, code: int = 0) -> str:
        """Run `pcloud`, which must end with an exit code, and return its output."""
        done = self.run(*words)
        assert done.returncode == code, f"pcloud {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def until(what: str, happened: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for something; AssertionError when it does not happen."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


def status(daemon: Daemon, name: str) -> str:
    """What a stack is."""
    return str(daemon.call("GET", f"/v1/stacks/{name}")["StackStatus"])


def outputs(daemon: Daemon, name: str) -> dict[str, Any]:
    """What a stack tells."""
    return {item["OutputKey"]: item["OutputValue"] for item in daemon.call("GET", f"/v1/stacks/{name}")["Outputs"]}
