"""The acceptance script of the first Pacemaker Cloud, word for word, typed into a real terminal, on real guests.

A daemon of its own (state folder, port, bridge); three LXC guests with a web server. Then a web server is killed and a guest
is forced off: both are recovered, and both are told in the shell that was left open.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.e2e.stage import Stage, missing, until
from tests.manifests import ACCEPTANCE as SCRIPT
from tests.shell.conftest import BIN

BUILD = 1500
"""Seconds: an image may have to be built from the mirror first."""


pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(2 * BUILD),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A daemon of our own, and what a terminal's programs need to know."""
    stage = Stage("sh")
    stage.environment |= {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    stage.open()
    try:
        yield stage
    finally:
        stage.close()


def guest_process(home: str, assembly: str) -> int:
    """The process id of the monitor of a guest's container, found by its own folder on its command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        line = b" ".join(words).decode(errors="replace")
        if "[lxc monitor]" in line and home in line and assembly in line:
            return int(entry.parent.name)
    raise AssertionError(f"no container of {assembly} runs under {home}")


def test_the_acceptance_script(stage: Stage) -> None:
    shell = pexpect.spawn(
        str(BIN / "pcloudsh"), env=stage.environment, encoding="utf-8", timeout=300, dimensions=(50, 180)
    )
    try:
        shell.expect("pcloudsh>")
        for line in SCRIPT.splitlines():
            shell.sendline(line)
            # What the command says when it is done, then the next prompt; an error would be printed instead.
            shell.expect(
                {"jeos_create": r": ready\r", "deployable_start": r"dep1: running\r"}.get(
                    line.split()[0], r": [a-z0-9]+ ?\w* ?\w*\r"
                ),
                timeout=BUILD,
            )
            shell.expect("pcloudsh>")
        stage.running("dep1")
        found = json.loads(stage.pcloud("status", "dep1", "-o", "json"))
        assert found["state"] == "running"
        assert [(one["name"], one["resources"][0]["state"]) for one in found["assemblies"]] == [
            ("assy1", "running"),
            ("assy2", "running"),
            ("assy3", "running"),
        ]

        # The user is typing when it happens.
        shell.send("deployable_sta")
        stage.pcloud("assembly", "exec", "-n", "dep1/assy1", "--", "pkill", "-9", "apache2")
        shell.expect("dep1/assy1/httpd  failed")
        shell.expect("dep1/assy1/httpd  recovered, running again after")

        os.kill(guest_process(str(stage.home), "assy2"), signal.SIGKILL)
        shell.expect("dep1/assy2  failed")
        shell.expect("dep1/assy2  recovered, running again after")
        shell.send("tus dep1\r")
        shell.expect("ADDRESS")
        shell.expect("pcloudsh>")

        until("the decision", lambda: "RESTART_RESOURCE" in stage.pcloud("explain", "dep1/assy1/httpd"))
        shell.sendline("deployable_delete dep1")
        shell.expect("dep1: deleted")
        shell.expect("pcloudsh>")
        shell.sendeof()
        shell.expect(pexpect.EOF)
    finally:
        shell.close(force=True)
