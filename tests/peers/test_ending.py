"""How the peers of tests are ended: what belongs to another folder runs on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.remoted import wait_for

pytestmark = [pytest.mark.real, pytest.mark.skipif(not shutil.which("epmd"), reason="Erlang's epmd is not installed")]
ENDING = Path(__file__).with_name("ending.sh")


@pytest.fixture
def mappers(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Erlang's port mapper as each of two peers has one, by the peer's folder: a daemon that tells nobody its process id."""
    made = {}
    try:
        for name in ("one", "two"):
            folder, port = tmp_path / name, free_port()
            folder.mkdir()
            environment = {"PATH": os.environ["PATH"], "HOME": f"{folder}/rabbit", "ERL_EPMD_ADDRESS": "127.0.0.1"}
            subprocess.run(["epmd", "-daemon", "-port", str(port)], env=environment, check=True)
            wait_for(lambda port=port: listens(port), what="the port mapper")
            # The process that made it may not have ended yet.
            wait_for(lambda folder=folder: len(those_of(folder)) == 1, what="one port mapper")
            (made[str(folder)],) = those_of(folder)
        yield made
    finally:
        for pid in made.values():
            if pid in processes():
                os.kill(pid, signal.SIGKILL)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes() -> list[int]:
    found = subprocess.run(["pidof", "epmd"], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in found.split()]


def those_of(folder: Path) -> list[int]:
    return [pid for pid in processes() if f"HOME={folder}/rabbit" in environ(pid)]


def environ(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:  # another peer's, that ended in this moment
        return []


def test_one_peers_port_mapper_ends_and_the_others_runs_on(mappers: dict[str, int]) -> None:
    (one, ended), (_, other) = mappers.items()
    script = 'peer=$1; . "$2"; end_peer "$peer/none.pid"'
    subprocess.run(["bash", "-euo", "pipefail", "-c", script, "bash", one, str(ENDING)], check=True)
    wait_for(lambda: ended not in processes(), what="the end of its own")
    assert other in processes()
