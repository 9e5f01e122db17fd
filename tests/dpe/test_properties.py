"""The engine against random deployables and random faults: what must hold whatever happens, in virtual time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcloud.model.deployable import (
    Assembly,
    Dependency,
    Deployable,
    Escalation,
    Parameter,
    Reference,
    Resource,
    ServiceDependency,
)
from pcloud.policy.observation import Recover
from tests.dpe.trial import Trial, attempt

EXAMPLES = int(os.environ.get("PCLOUD_EXAMPLES", "40"))
CONVERGED = 400.0
"""Virtual seconds after the last fault in which everything must be as it shall be; a full back-off and more."""

common = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def deployables(draw: st.DrawFn) -> Deployable:
    names = ["a", "b", "c", "d", "e"][: draw(st.integers(1, 5))]
    assemblies: list[Assembly] = []
    constraints: list[ServiceDependency] = []
    for i, name in enumerate(names):
        resources: list[Resource] = []
        for k in range(draw(st.integers(0, 3))):
            own = f"r{k}"
            parameters: tuple[Parameter, ...] = ()
            if i and draw(st.booleans()):
                other = draw(st.sampled_from(names[:i]))
                parameters = (Parameter(name="peer", value=Reference(assembly=other, attribute="ipaddress")),)
            elif draw(st.integers(0, 3)) == 0:
                parameters = (Parameter(name="size", value=draw(st.sampled_from(["1", "2"]))),)
            resources.append(
                Resource(
                    name=own,
                    resource_class=draw(st.sampled_from(["systemd", "ocf"])),
                    type="dummy",
                    parameters=parameters,
                    after=tuple(r.name for r in resources if draw(st.booleans())),
                    escalation=Escalation(failures=draw(st.integers(1, 4)), period=60.0),
                )
            )
            earlier = [f"{a.name}.{r.name}" for a in assemblies for r in a.resources]
            if earlier and draw(st.integers(0, 2)) == 0:
                first = draw(st.sampled_from(earlier))
                constraints.append(
                    ServiceDependency(
                        id=f"c-{name}-{own}", first=first, then=f"{name}.{own}", restart=draw(st.booleans())
                    )
                )
        after = tuple(
            Dependency(assembly=n, restart=draw(st.booleans())) for n in names[:i] if draw(st.integers(0, 2)) == 0
        )
        assemblies.append(
            Assembly(
                name=name, image="bookworm", resources=tuple(resources), after=after, start_timeout=20.0,
                escalation=Escalation(failures=draw(st.integers(1, 5)), period=600.0),
            )
        )  # fmt: skip
    rule = Escalation(failures=draw(st.integers(1, 4)), period=600.0)
    return Deployable(name="shop", assemblies=tuple(assemblies), constraints=tuple(constraints), escalation=rule)


DELAYS = st.sampled_from([0.0, 0.001, 0.004, 0.05, 0.11, 0.3, 0.7, 1.0, 3.0, 11.0, 40.0])
INDEX = st.integers(0, 4)
PLACES = ("a", "b", "c")
FAULTS = st.one_of(
    st.tuples(st.just("kill service"), INDEX, INDEX, st.booleans()),
    st.tuples(st.just("kill guest"), INDEX),
    st.tuples(st.just("hang guest"), INDEX),
    st.tuples(st.just("cut off"), INDEX),
    st.tuples(st.just("heal"), INDEX),
    st.tuples(st.just("stop fails"), INDEX, INDEX),
    st.tuples(st.just("start fails"), INDEX, INDEX, st.integers(1, 4)),
    st.tuples(st.just("stubborn"), INDEX),
    st.tuples(st.just("guest does not start"), INDEX),
    st.tuples(st.just("infrastructure down"),),
    st.tuples(st.just("infrastructure back"),),
    st.tuples(st.just("crash"),),
    st.tuples(st.just("pause"),),
    st.tuples(st.just("resume"),),
    st.tuples(st.just("stop"),),
    st.tuples(st.just("start"),),
    st.tuples(st.just("parameter"), INDEX, INDEX),
    st.tuples(st.just("remove resource"), INDEX, INDEX),
    st.tuples(st.just("remove assembly"), INDEX),
    st.tuples(st.just("new image"), INDEX),
    st.tuples(st.just("immovable"),),
    st.tuples(st.just("movable"),),
    st.tuples(st.just("original"),),
)  # fmt: skip


async def do(trial: Trial, fault: tuple[Any, ...], original: Deployable) -> None:
    """Let one fault or change happen."""
    from pcloud.environment.infrastructure import InfrastructureError

    kind, *where = fault
    assemblies = trial.deployable.assemblies
    assembly = assemblies[where[0] % len(assemblies)] if where and assemblies else None
    guest_id = f"shop.{assembly.name}" if assembly else ""
    guest = trial.world.guests.get(guest_id)
    resource = None
    if assembly is not None and assembly.resources and len(where) > 1:
        resource = assembly.resources[where[1] % len(assembly.resources)]
    rid = f"rsc_{assembly.name}_{resource.name}" if assembly and resource else ""
    match kind:
        case "kill service" if guest and resource and guest.services.get(rid):
            trial.world.kill_service(guest_id, rid, seen=where[2])
        case "kill guest" if guest and guest.running:
            trial.world.kill_guest(guest_id)
        case "hang guest" if guest and guest.running:
            trial.world.freeze(guest_id)
        case "cut off" if guest and guest.running:
            trial.world.cut_off(guest_id)
        case "heal" if guest:
            trial.world.heal(guest_id)
        case "stop fails" if resource:
            trial.world.results[rid, "stop"] = [1]
        case "start fails" if resource:
            trial.world.results[rid, "start"] = [1] * where[2]
        case "stubborn":
            trial.world.stubborn.add(guest_id)
        case "guest does not start":
            trial.world.start_errors[guest_id] = [InfrastructureError("no memory")]
        case "infrastructure down":
            trial.world.down = "connection refused"
        case "infrastructure back":
            trial.world.down = ""
        case "crash":
            await trial.crash()
        case "pause":
            trial.configure(paused=True)
        case "resume":
            trial.configure(paused=False)
        case "stop":
            trial.configure(target="stopped")
        case "start":
            trial.configure(target="started")
        case "parameter" if assembly and resource:
            changed = msgspec.structs.replace(resource, parameters=(Parameter(name="size", value="9"),))
            resources = tuple(changed if r.name == resource.name else r for r in assembly.resources)
            trial.configure(_with(trial.deployable, msgspec.structs.replace(assembly, resources=resources)))
        case "remove resource" if assembly and resource:
            resources = tuple(
                msgspec.structs.replace(r, after=tuple(x for x in r.after if x != resource.name))
                for r in assembly.resources if r.name != resource.name
            )  # fmt: skip
            trial.configure(_with(trial.deployable, msgspec.structs.replace(assembly, resources=resources)))
        case "remove assembly" if assembly and len(assemblies) > 1:
            trial.configure(_without(trial.deployable, assembly.name))
        case "new image" if assembly:
            trial.configure(_with(trial.deployable, msgspec.structs.replace(assembly, image=assembly.image + "x")))
        case "immovable":
            trial.world.immovable = True
        case "movable":
            trial.world.immovable = False
        case "original":
            trial.configure(original)


def _with(deployable: Deployable, assembly: Assembly) -> Deployable:
    new = msgspec.structs.replace(
        deployable, assemblies=tuple(assembly if a.name == assembly.name else a for a in deployable.assemblies)
    )
    return _valid(new)


def _without(deployable: Deployable, name: str) -> Deployable:
    left: list[Assembly] = []
    for assembly in deployable.assemblies:
        if assembly.name == name:
            continue
        resources = tuple(
            msgspec.structs.replace(
                r,
                parameters=tuple(
                    p for p in r.parameters if not isinstance(p.value, Reference) or p.value.assembly != name
                ),
            )
            for r in assembly.resources
        )
        after = tuple(d for d in assembly.after if d.assembly != name)
        left.append(msgspec.structs.replace(assembly, resources=resources, after=after))
    return _valid(msgspec.structs.replace(deployable, assemblies=tuple(left)))


def _valid(deployable: Deployable) -> Deployable:
    known = {f"{a.name}.{r.name}" for a in deployable.assemblies for r in a.resources}
    constraints = tuple(c for c in deployable.constraints if c.first in known and c.then in known)
    return msgspec.structs.replace(deployable, constraints=constraints)


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
