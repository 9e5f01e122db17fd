"""A stand-in of the daemon for each test, and `pcloud` / `pcloudsh` run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shell.fakeapi import TOKEN, Running, serving

BIN = Path(sys.executable).parent
PATIENCE = 300.0
"""Seconds that anything may take: a busy machine is no failure."""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def api() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture
def environment(api: Running, tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {
        **kept,
        "PCLOUD_URL": api.url,
        "PCLOUD_TOKEN": TOKEN,
        "PCLOUD_HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "PYTHONWARNINGS": "error",
    }


def runner(program: str, environment: dict[str, str]) -> Run:
    def run(*words: str, given: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
        return subprocess.run(
            [str(BIN / program), *words],
            text=True,
            capture_output=True,
            env={**environment, **more},
            timeout=PATIENCE,
            check=False,
            **source,
        )

    return run


@pytest.fixture
def pcloud(environment: dict[str, str]) -> Run:
    return runner("pcloud", environment)


@pytest.fixture
def pcloudsh(environment: dict[str, str]) -> Run:
    return runner("pcloudsh", environment)


WaitFor = Callable[[Callable[[], bool]], None]


@pytest.fixture
def wait_for() -> WaitFor:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)

    return wait
