"""`python -m bench`: names, rows, and the rule that a row is judged by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench import Row
from bench.__main__ import benchmarks, main
from bench.cibs import three_assemblies

from pcloud.policy.graph import parse_graph
from pcloud.scheduler.client import WorkerScheduler, binding_available

ROOT = Path(__file__).resolve().parents[2]


def test_rows_are_judged_before_they_are_rounded() -> None:
    assert Row.of("a", 1.0, 4.0, 0.25) == Row("a", 1.0, 4.0, 0.25, 0.25, True)
    assert Row.of("a", 0.250049, 1.0, 0.25) == Row("a", 0.25, 1.0, 0.25, 0.25, False)


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decision", "nope"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "", "nothing runs when a name is wrong"
    assert "no benchmark named nope" in captured.err
    assert "decision" in captured.err
    assert "decision" in benchmarks()


@pytest.mark.real
@pytest.mark.skipif(not binding_available(), reason="the scheduler binding is not built")
def test_decision_prints_one_row() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "bench", "decision"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = asked.stdout.splitlines()
    row = json.loads(line)
    assert list(row) == ["name", "ours", "peer", "ratio", "budget", "met"]
    assert row["name"] == "decision"
    assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=0.01)


@pytest.mark.real
@pytest.mark.skipif(not binding_available(), reason="the scheduler binding is not built")
async def test_the_shared_input_starts_three_resources_in_order() -> None:
    scheduler = WorkerScheduler()
    try:
        graph = parse_graph(await scheduler.schedule(three_assemblies()))
    finally:
        await scheduler.close()
    starts = {action.resource: action for action in graph.actions if action.task == "start"}
    assert set(starts) == {"rsc_db", "rsc_app", "rsc_web"}
    assert starts["rsc_db"].id in starts["rsc_app"].inputs
    assert starts["rsc_app"].id in starts["rsc_web"].inputs
    assert {action.node for action in starts.values()} == {"db", "app", "web"}
