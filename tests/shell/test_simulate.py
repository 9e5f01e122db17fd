"""`pcloud simulate` and `pcloud replay` against the stand-in API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pcloud.shell.simulate_command import _lines

Run = Any


def test_simulate_tells_a_timeline(pcloud: Run, api: Any) -> None:
    ended = pcloud("simulate", "shop", "kill guest web")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["0.000", "s", "==", "kill", "guest", "web"]
    assert lines[1].endswith("-> start guest web: it died")
    assert lines[2].endswith("web running: it answers")
    assert lines[3] == "after 0.6 s: running; started again: web"


def test_what_a_newer_decision_replaced_is_not_told() -> None:
    moment = {
        "seconds": 0.0,
        "kind": "action",
        "subject": "web",
        "text": "start guest",
        "state": "cancelled",
        "why": "x",
    }
    assert _lines(moment) == []
    assert "(failed)" in _lines({**moment, "state": "failed"})[0][0]
    told = _lines({"seconds": 0.0, "kind": "state", "subject": "", "text": "running", "state": "", "why": ""})
    assert told[0][0].rstrip().endswith("all of it running")


def test_simulate_sends_the_file_along(pcloud: Run, api: Any, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("deployable: shop\n")
    ended = pcloud("simulate", "shop", f"apply {file}", "-o", "json")
    assert json.loads(ended.stdout)["files"] == {str(file): "deployable: shop\n"}
    assert pcloud("simulate", "shop", f"apply {tmp_path}/gone.yaml").returncode == 2
    assert pcloud("simulate", "shop").returncode == 2


def test_replay_fails_when_something_comes_out_otherwise(pcloud: Run, api: Any) -> None:
    same = {"number": 1, "time": 1.0, "result": "same", "actions": 2, "missing": [], "added": [], "detail": ""}
    api.fleet.decisions = [same]
    ended = pcloud("replay", "shop")
    assert (ended.returncode, ended.stdout) == (0, "1 of 1 decisions come out the same\n")
    api.fleet.decisions = [same, {**same, "number": 2, "result": "different", "missing": ["start web: x"]}]
    ended = pcloud("replay", "shop")
    assert ended.returncode == 1
    assert "decision 2: different\n  - start web: x\n1 of 2" in ended.stdout
