"""The command line as the fallback, and the choice between the two."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pcloud.environment.scheduler import SchedulerCrash, SchedulerError
from pcloud.policy.graph import parse_graph
from pcloud.scheduler import opening
from pcloud.scheduler.client import WorkerScheduler, binding_available
from pcloud.scheduler.fallback import CrmSimulateScheduler, Score

CIB = b"""<cib crm_feature_set="3.16.2" validate-with="pacemaker-3.8" epoch="1" num_updates="0" admin_epoch="0"
  have-quorum="1" dc-uuid="1" execution-date="1700000000"><configuration><crm_config><cluster_property_set id="o">
  <nvpair id="o-f" name="stonith-enabled" value="false"/></cluster_property_set></crm_config>
  <nodes><node id="1" uname="web"/><node id="2" uname="db"/></nodes>
  <resources><primitive id="httpd" class="ocf" provider="pacemaker" type="Dummy"/></resources>
  <constraints><rsc_location id="l" rsc="httpd" node="db" score="-INFINITY"/></constraints></configuration>
  <status><node_state id="1" uname="web" in_ccm="true" crmd="online" join="member" expected="member"/></status></cib>"""

needs_command = pytest.mark.skipif(
    shutil.which("crm_simulate") is None, reason="crm_simulate is missing (Debian: pacemaker-cli-utils)"
)


@pytest.mark.real
@needs_command
@pytest.mark.skipif(not binding_available(), reason="the binding is not built")
async def test_both_ways_decide_the_same() -> None:
    worker, command = WorkerScheduler(), CrmSimulateScheduler()
    try:
        answers = [parse_graph(await scheduler.schedule(CIB)) for scheduler in (worker, command)]
    finally:
        await worker.close()
        await command.close()
    first, second = (Counter((a.kind, a.key, a.node, a.inputs) for a in graph.actions) for graph in answers)
    assert first == second
    assert first


@pytest.mark.real
@needs_command
async def test_scores() -> None:
    scores = await CrmSimulateScheduler().scores(CIB)
    assert Score("httpd", "db", -1_000_000) in scores
    assert Score("httpd", "web", 0) in scores


@pytest.mark.real
@needs_command
@pytest.mark.parametrize(
    "text", [b"", b"rubbish", b"<cib/>", b"<!DOCTYPE cib [<!ENTITY a 'a'>]><cib><configuration/></cib>"]
)
async def test_rubbish_is_refused(text: bytes) -> None:
    with pytest.raises(SchedulerError):
        await CrmSimulateScheduler().schedule(text)


ENDLESS = CIB.replace(b"<primitive", b'<bundle id="b"><docker image="i" replicas="100000"/></bundle><primitive', 1)
"""The program would take minutes for it."""


def children() -> set[str]:
    """Process ids of our children."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@pytest.mark.real
@needs_command
async def test_no_process_is_left_when_the_caller_goes_away() -> None:
    before = children()
    task = asyncio.create_task(CrmSimulateScheduler().schedule(ENDLESS))
    async with asyncio.timeout(60):
        while not children() - before:
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() <= before


@pytest.mark.real
@needs_command
async def test_time_out() -> None:
    before = children()
    with pytest.raises(SchedulerCrash, match="longer than"):
        await CrmSimulateScheduler(timeout=0.5).schedule(ENDLESS)
    assert children() <= before


async def test_a_machine_that_can_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="can not be run"):
        await CrmSimulateScheduler().schedule(CIB)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(SchedulerError, match="can not be run"):
        await CrmSimulateScheduler().schedule(CIB)


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "binding_available", lambda: True)
    assert opening.open_scheduler().name == "library"
    monkeypatch.setattr(opening, "binding_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")
    assert opening.open_scheduler().name == "crm_simulate"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SchedulerError, match="make setup"):
        opening.open_scheduler()
