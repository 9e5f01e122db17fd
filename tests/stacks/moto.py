"""Moto's S3, which has all of S3 and checks no signatures."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

SERVER = Path(__file__).resolve().parents[2] / ".tools/moto/bin/moto_server"


@contextlib.contextmanager
def running(log: Path) -> Iterator[str]:
    """Run it on a port of its own; gives its URL."""
    if not SERVER.exists():
        pytest.skip("moto is not installed: tools/setup-tests does that")
    port = free_port()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [SERVER, "-H", "127.0.0.1", "-p", str(port)], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except OSError:
                assert time.monotonic() < deadline, "moto does not answer"
                time.sleep(0.1)
            else:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(30)
