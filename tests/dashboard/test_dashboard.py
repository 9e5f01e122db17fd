"""The dashboard in a real browser (Debian's chromium, driven by playwright-core), against the stand-in of the API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.api.dashboard import STATIC
from tests.shell.fakeapi import TOKEN, Fleet, Running

ROOT = Path(__file__).resolve().parents[2]
FRONTEND = ROOT / "frontend"
CHROMIUM = shutil.which("chromium")


def needed() -> str:
    """What is missing to run these tests, or an empty string."""
    if not STATIC.is_dir():
        return "the dashboard is not built: make dashboard"
    if shutil.which("node") is None or not (FRONTEND / "node_modules" / "playwright-core").is_dir():
        return "playwright-core is not installed: make dashboard"
    return "" if CHROMIUM else "chromium is not installed: apt-get install chromium"


pytestmark = [pytest.mark.real, pytest.mark.skipif(bool(needed()), reason=needed())]


def arrange(fleet: Fleet) -> None:
    fleet.add(
        "shop", {"db": ["mysqld"], "web": ["httpd", "php-fpm"], "cache": ["redis"], "proxy": ["nginx"]}, state="running"
    )
    fleet.deployables["shop"]["document"] = {
        "deployable": "shop",
        "assemblies": {"db": {}, "cache": {}, "web": {"after": ["db", "cache"]}, "proxy": {"after": ["web"]}},
    }
    for name, state in {"billing": "starting", "intranet": "running", "wiki": "failed", "archive": "stopped"}.items():
        fleet.add(name, {"one": ["httpd"], "two": ["postgresql"]}, state=state)
    fleet.deployables["wiki"]["reason"] = "two/postgresql failed 3 times within 60 s; nothing is left to try"
    fleet.deployables["billing"]["reason"] = "building image bookworm (40 %)"
    fleet.emit("deployable.state", "shop", "running")
    fleet.emit("resource.state", "wiki/two/postgresql", "failed", "the start ended with code 1", "warning")
    fleet.emit(
        "resource.state", "shop/web/httpd", "failed", "a process of the service ended: apache2 (signal 9)", "warning"
    )
    fleet.emit("resource.state", "shop/web/httpd", "running")
    now = time.time()
    fleet.decisions = [
        {
            "time": now - 4,
            "number": 8,
            "trigger": "a process of web/httpd ended",
            "observations": [
                {"what": "web/httpd is not running", "signal": "exit", "detail": "apache2, signal 9", "time": now}
            ],
            "rules": [
                {
                    "rule": "MONITOR_FAILED",
                    "text": "A service that failed its monitor is stopped and started.",
                    "subject": "",
                }
            ],
            "actions": [
                {"action": "stop", "subject": "web/httpd", "why": "clean up", "state": "done", "seconds": 0.05},
                {"action": "start", "subject": "web/httpd", "why": "it shall run", "state": "done", "seconds": 0.213},
            ],
            "cost": {"decide_ms": 1.4, "library_ms": 0.6},
            "outcome": "web/httpd runs again, 0.31 s after its process ended",
        },
        {
            "time": now - 90,
            "number": 7,
            "trigger": "the deployable was started",
            "actions": [],
            "outcome": "all of it runs",
        },
    ]


@pytest.fixture(scope="module")
def site() -> Iterator[Running]:
    fleet = Fleet()
    arrange(fleet)
    running = Running(fleet)
    try:
        yield running
    finally:
        running.stop()


def browse(site: Running, script: str, shots: Path, during: Any = None) -> dict[str, Any]:
    """Run a page script of frontend/test; return the JSON of its last line."""
    environment = {**os.environ, "URL": site.url, "TOKEN": TOKEN, "CHROMIUM": CHROMIUM or "", "SHOTS": str(shots)}
    if during is not None:
        helper = threading.Thread(target=during)
        helper.start()
    ended = subprocess.run(
        ["node", str(FRONTEND / "test" / script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    if during is not None:
        helper.join(700)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    chosen = Path(os.environ.get("PCLOUD_SHOTS") or tmp_path)
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def test_signing_in_fleet_and_detail(site: Running, shots: Path) -> None:
    found = browse(site, "tour.mjs", shots)
    assert found["refused"] == "The daemon does not accept this token."
    assert found["rows"][0].startswith("wiki"), "what needs attention comes first"
    assert len(found["rows"]) == 5
    assert found["filtered"] == ["intranet lxc"]
    assert found["nodes"] == 4
    assert found["edges"] == 3
    assert "web starts after db" in found["order"]
    assert "MONITOR_FAILED" in found["why"]
    assert "0.31 s after its process ended" in found["why"]
    assert found["outside"] == [], "nothing may be loaded from anywhere else"
    assert found["errors"] == []
    assert found["kept"] == {"session": True, "local": False}


def test_live_changes_and_an_outage(site: Running, shots: Path) -> None:
    """A failure arrives without a reload; the daemon goes and comes back, and nothing is missed."""
    fleet = site.fleet
    again: list[Running] = []
    (shots / "offline").unlink(missing_ok=True)

    def until(condition: Any) -> None:
        deadline = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def events() -> None:
        begun = len(fleet.calls)
        until(lambda: any(path == "/v1/events/stream" for _, path in list(fleet.calls)[begun:]))
        until(lambda: ("GET", "/ready/1") in fleet.calls)
        fleet.deployables["shop"]["states"]["web/httpd"] = "failed"
        fleet.emit("resource.state", "shop/web/httpd", "failed", "it came live", "warning")
        until(lambda: ("GET", "/ready/2") in fleet.calls)
        site.stop()
        until((shots / "offline").exists)  # it is shown only until the daemon is back
        fleet.deployables["shop"]["states"].clear()
        fleet.emit("resource.state", "shop/web/httpd", "running", "it came back")
        again.append(Running(fleet, port=site.port))

    try:
        found = browse(site, "live.mjs", shots, during=events)
    finally:
        for one in again:
            one.stop()
        site.stop()
    assert found == {"failed": True, "offline": True, "recovered": True, "once": 1}
