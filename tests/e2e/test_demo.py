"""`make demo` as a user runs it: it ends well, leaves nothing, and does so again after it was broken off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stage import CHECKOUT, ROOT, about, missing, names, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(2700),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]
HOME = Path(f"/var/tmp/pcloud-e2e-{CHECKOUT}-demo")
FAULTS = ["service-killed", "guest-killed", "escalation", "engine-killed", "daemon-killed"]


def start(output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PCLOUD_DEMO_HOME": str(HOME)}
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "demo"], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """Where a demonstration writes; when a test fails in the middle, one more run removes what it left."""
    yield tmp_path / "demo.log"
    if HOME.exists():
        script = "from demo.stage import Stage; Stage('lxc').remove()"
        environment = {**os.environ, "PCLOUD_DEMO_HOME": str(HOME)}
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=False)


def finish(running: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for the end and look at what it says and leaves."""
    code = running.wait(1500)
    text = output.read_text()
    assert code == 0, text[-4000:]
    last = json.loads(text.splitlines()[-1])
    assert last["ok"] is True
    assert [fault["name"] for fault in last["faults"]] == FAULTS
    for fault in last["faults"]:
        assert 0 < fault["detected_s"] <= fault["recovered_s"]
    assert "RESTART_RESOURCE" in text
    assert not HOME.exists()
    assert about(str(HOME)) == []
    assert not [each for each in names("mounts") if str(HOME) in each]
    assert "pcloud-demo0" not in names("links")


def test_it_passes_after_being_broken_off_and_leaves_nothing(output: Path) -> None:
    before = {*Path("/var/tmp").iterdir(), *Path("/etc").iterdir(), *Path("/run").iterdir()}
    first = start(output)
    try:
        until(
            "guests of the demonstration", lambda: any("wordpress.wordpress" in each for each in about(str(HOME))), 900
        )
        os.killpg(first.pid, signal.SIGKILL)
    finally:
        first.kill()
        first.wait()
    assert about(str(HOME)), "the broken-off run left nothing to clean up: the test tests nothing"
    finish(start(output), output)
    after = {*Path("/var/tmp").iterdir(), *Path("/etc").iterdir(), *Path("/run").iterdir()}
    left = {each.name for each in after - before if "demo" in each.name or "wordpress" in each.name}
    assert {name for name in left if "odemo" not in name} == set()  # that of the clouds' tests, beside this one


def test_an_interrupted_run_cleans_up_by_itself(output: Path) -> None:
    running = start(output)
    try:
        until("guests of the demonstration", lambda: any("wordpress.mysql" in each for each in about(str(HOME))), 900)
        os.killpg(running.pid, signal.SIGINT)
        code = running.wait(300)
    finally:
        running.kill()
        running.wait()
    text = output.read_text()
    assert code == 1, text[-3000:]
    assert json.loads(text.splitlines()[-1])["ok"] is False
    assert not HOME.exists(), text[-3000:]
    assert about(str(HOME)) == []
