"""The engine against random deployables and random faults: what must hold whatever happens, in virtual time."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcloud.model.deployable import Deployable
from pcloud.policy.observation import Recover
from tests.dpe.random_faults import DELAYS, FAULTS, deployables, do
from tests.dpe.trial import Trial, attempt

EXAMPLES = int(os.environ.get("PCLOUD_EXAMPLES", "40"))
PLACES = ("a", "b", "c")
CONVERGED = 400.0
"""Virtual seconds after the last fault in which everything must be as it shall be; a full back-off and more."""

common = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


async def all_well(trial: Trial) -> None:
    """End every fault, ask for the normal, and let time pass."""
    world = trial.world
    world.down = ""
    world.results.clear()
    world.hanging.clear()
    world.stubborn.clear()
    world.start_errors.clear()
    for guest_id in world.guests:
        world.heal(guest_id)
    trial.configure(target="started", paused=False)
    trial.engine.post(Recover())
    await trial.settle(CONVERGED)
    if trial.state != "running" and trial.deployable.assemblies:
        trial.violations.append(f"{trial.state} in the end: {trial.statuses[-1]}")
    trial.violations += trial.world_differs()
    if trial.engine.state.blocked:
        trial.violations.append(trial.engine.state.blocked)
    if trial.engine.state.memory.incidents:
        trial.violations.append(f"the outcome was not told: {trial.engine.state.memory.incidents}")
    ends = Counter(e.data["incident"] for e in trial.journal.events if e.type == "incident" and e.state != "unresolved")
    trial.violations += [f"the outcome of {name} was told {times} times" for name, times in ends.items() if times > 1]
    if any("internal error" in e.reason for e in trial.journal.events):
        trial.violations.append("an internal error")


@common
@given(deployables(), st.lists(st.tuples(DELAYS, FAULTS), max_size=10))
def test_whatever_happens_it_ends_as_it_shall_be(deployable: Deployable, faults: list[tuple[float, Any]]) -> None:
    async def story(trial: Trial) -> None:
        for delay, fault in faults:
            await trial.settle(delay)
            await do(trial, fault, deployable)
        await all_well(trial)

    assert attempt(deployable, story, places=PLACES).violations == []


@common
@given(deployables(), st.lists(st.tuples(DELAYS, FAULTS), min_size=1, max_size=8))
def test_faults_in_what_runs(deployable: Deployable, faults: list[tuple[float, Any]]) -> None:
    async def story(trial: Trial) -> None:
        await trial.until("running")
        for delay, fault in faults:
            await do(trial, fault, deployable)
            await trial.settle(delay)
        await all_well(trial)

    assert attempt(deployable, story, places=PLACES).violations == []


@common
@given(deployables(), st.lists(DELAYS, min_size=1, max_size=4))
def test_an_engine_crash_restarts_nothing_that_runs(deployable: Deployable, delays: list[float]) -> None:
    async def story(trial: Trial) -> None:
        await trial.until("running")
        await trial.settle(1)
        trial.world.log.clear()
        for delay in delays:
            await trial.crash()
            await trial.settle(delay)
        await trial.settle(60)
        trial.violations += trial.world_differs()

    trial = attempt(deployable, story, places=PLACES)
    assert trial.violations == []
    assert trial.world.actions("boot", "destroy", "shutdown", "start", "stop") == []


@common
@given(deployables(), st.lists(DELAYS, min_size=1, max_size=3))
def test_an_engine_crash_during_the_start(deployable: Deployable, delays: list[float]) -> None:
    async def story(trial: Trial) -> None:
        for delay in delays:
            await trial.settle(delay)
            await trial.crash()
        await all_well(trial)

    trial = attempt(deployable, story, places=PLACES)
    assert trial.violations == []
    assert trial.world.actions("destroy", "shutdown", "stop") == []


@settings(max_examples=max(4, EXAMPLES // 8), deadline=None)
@given(deployables(), st.lists(st.tuples(DELAYS, FAULTS), min_size=2, max_size=6))
def test_pacemaker_finds_nothing_wrong_with_the_cibs(deployable: Deployable, faults: list[tuple[float, Any]]) -> None:
    import tempfile

    async def story(trial: Trial) -> None:
        for delay, fault in faults:
            await trial.settle(delay)
            await do(trial, fault, deployable)
        await all_well(trial)

    cibs = attempt(deployable, story, places=PLACES).cibs
    with tempfile.TemporaryDirectory() as folder:
        for document in {cibs[0], cibs[len(cibs) // 2], cibs[-1]}:
            path = Path(folder) / "cib.xml"
            path.write_bytes(document)
            done = subprocess.run(
                ["crm_verify", "--xml-file", str(path), "-V"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr + document.decode()
