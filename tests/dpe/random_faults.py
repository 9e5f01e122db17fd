"""Deployables of many shapes and faults of every kind, drawn at random, and what lets a fault happen in a trial."""

from __future__ import annotations

from typing import Any

import msgspec
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
from tests.dpe.trial import Trial


@st.composite
def deployables(draw: st.DrawFn) -> Deployable:
    """Up to five assemblies that refer to earlier ones only, and the order between their resources."""
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
                    monitor_start_delay=draw(st.sampled_from([0.0, 0.0, 0.0, 5.0, 45.0])),
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
