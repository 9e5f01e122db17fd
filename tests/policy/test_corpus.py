"""Every recorded input goes through binding, worker and graph reader unharmed, and every graph comes to its end."""

from __future__ import annotations

import asyncio
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from pcloud.policy.graph import Graph, parse_graph
from pcloud.policy.walk import Outcome, Walk
from pcloud.scheduler.client import WorkerScheduler, binding_available
from pcloud.scheduler.fallback import CrmSimulateScheduler

EXCEPTIONS = tomllib.loads(Path(__file__).with_name("corpus_exceptions.toml").read_text())


def what(graph: Graph) -> Counter[tuple[str, str, str, str]]:
    """Return the actions of a graph, without the numbers that a run gives them."""
    return Counter((action.kind.value, action.task, action.key, action.node) for action in graph.actions)


def order(graph: Graph) -> set[tuple[str, str, str, str]]:
    """Return who waits for whom in a graph, by key and node."""
    name = {action.id: (action.key or action.task, action.node) for action in graph.actions}
    return {(*name[cause], *name[action.id]) for action in graph.actions for cause in action.inputs}


def walk_through(graph: Graph) -> Walk:
    """Walk a graph with everything succeeding; check the order on the way."""
    walk = Walk(graph)
    while not walk.done:
        walk.pass_milestones()
        for action in walk.ready():
            assert all(walk.confirmed.get(cause) for cause in action.inputs)
            walk.started(action.id)
            walk.finished(action.id, ok=True)
    return walk


@pytest.mark.real
async def test_recorded_inputs_give_the_recorded_actions(corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if not binding_available():
        pytest.skip("the scheduler binding is not built: pacemaker-dev and a C compiler are missing")
    scheduler = WorkerScheduler(sanitized=True)  # as upstream's own runner does with recorded inputs
    names = sorted(path.stem for path in (corpus / "xml").glob("*.xml"))
    assert len(names) == 603
    try:
        answers = await asyncio.gather(*(scheduler.schedule((corpus / "xml" / f"{n}.xml").read_bytes()) for n in names))
        version, restarts = scheduler.version, scheduler.restarts
    finally:
        await scheduler.close()
    assert restarts == 0
    differing = []
    for name, answer in zip(names, answers, strict=True):
        ours, recorded = parse_graph(answer), parse_graph((corpus / "exp" / f"{name}.exp").read_bytes())
        assert walk_through(ours).outcome is Outcome.COMPLETE, name
        if what(ours) != what(recorded) or order(ours) != order(recorded):
            differing.append(name)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", ""), "the library must not write to our outputs"
    if version != "2.1.5":
        pytest.skip(f"all {len(names)} inputs were answered; the recorded graphs are of 2.1.5, this is {version}")
    assert differing == sorted(EXCEPTIONS)


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name, entry in EXCEPTIONS.items() if entry.get("same_as_crm_simulate")])
async def test_exceptions_that_are_the_libraries_own(corpus: Path, name: str) -> None:
    if not binding_available() or shutil.which("crm_simulate") is None:
        pytest.skip("needs both the binding and crm_simulate (Debian: pacemaker-dev, pacemaker-cli-utils)")
    cib = (corpus / "xml" / f"{name}.xml").read_bytes()
    scheduler = WorkerScheduler(sanitized=True)
    try:
        ours = parse_graph(await scheduler.schedule(cib))
    finally:
        await scheduler.close()
    theirs = parse_graph(await CrmSimulateScheduler().schedule(cib))
    assert what(ours) == what(theirs)
    assert order(ours) == order(theirs)


def test_recorded_graphs_come_to_their_end(corpus: Path) -> None:
    paths = sorted((corpus / "exp").glob("*.exp"))
    assert len(paths) == 603
    for path in paths:
        graph = parse_graph(path.read_bytes())
        walk = walk_through(graph)
        assert walk.outcome is Outcome.COMPLETE, path.name
        assert list(walk.confirmed) != [] or not graph.actions
        assert len(walk.confirmed) == len(graph.actions)
