"""A deployable as a Pacemaker CIB.

The mapping is Pacemaker's own for guests (see `docs/decisions/001-guest-nodes.md`): every place of the infrastructure is a
cluster node; an assembly is a primitive `guest_ASSEMBLY` with `remote-node=ASSEMBLY`, so that the scheduler knows the guest
as a node of its own; a resource is a primitive `rsc_ASSEMBLY_RESOURCE` that may only run on that node; its configure step
is `cfg_ASSEMBLY_RESOURCE`, ordered before it. History is written from the state, normalised: it says what is true now, not
every operation that led there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pcloud.model.deployable import Assembly, Deployable, Reference, Resource
from pcloud.policy import placement
from pcloud.policy.history import FEATURE_SET, GUEST_INTERVAL, GUEST_TIMEOUT, status_section
from pcloud.policy.identifiers import (
    PLACE,
    Names,
    boolean,
    guest_id,
    milliseconds,
    names,
    quoteattr,
    resource_id,
)
from pcloud.policy.state import Health, Power, State, configure_step, needs_configure

__all__ = ["PLACE", "Names", "guest_id", "names", "render", "resource_id"]


def render(state: State, now: float) -> bytes:
    """Return the CIB (XML, UTF-8) that asks the scheduler what to do at `now`."""
    maintenance = state.paused or bool(state.memory.gave_up)
    head = (
        f'<cib crm_feature_set="{FEATURE_SET}" validate-with="none" epoch="1" num_updates="0" admin_epoch="0" '
        f'have-quorum="1" dc-uuid="1" execution-date="{int(now)}"><configuration><crm_config><cluster_property_set id="p">'
        '<nvpair id="p1" name="symmetric-cluster" value="false"/><nvpair id="p2" name="stonith-enabled" value="false"/>'
        '<nvpair id="p3" name="no-quorum-policy" value="ignore"/>'
        '<nvpair id="p4" name="start-failure-is-fatal" value="false"/>'
        f'<nvpair id="p5" name="maintenance-mode" value="{boolean(maintenance)}"/></cluster_property_set></crm_config>'
        "<nodes>"
    )
    parts = [head]
    # A guest's place is one even while the infrastructure has not told its places: else it would not be there.
    places = tuple(dict.fromkeys((*state.places, *(g.place for g in state.guests.values() if g.place)))) or ("default",)
    parts += (f'<node id="{i}" uname={quoteattr(PLACE + place)}/>' for i, place in enumerate(places, 1))
    parts.append("</nodes><resources>")
    parts += (text for assembly in state.assemblies() for text in _primitives(state, assembly, now))
    parts.append("</resources><constraints>")
    parts.append(_static_constraints(state.deployable, state.leaving, _frozen(state.leaving_resources)))
    parts += (text for assembly in state.assemblies() for text in _locations(state, assembly, places))
    parts.append("</constraints></configuration><status>")
    parts += status_section(state, places, now)
    parts.append("</status></cib>")
    return "".join(parts).encode()


# --- configuration


def _primitives(state: State, assembly: Assembly, now: float) -> Iterator[str]:
    name = guest_id(assembly.name)
    stopped = state.target == "stopped" or state.is_leaving(assembly.name) or _held_back(state, assembly.name, now)
    yield (
        f'<primitive id="{name}" class="ocf" provider="pcloud" type="guest"><meta_attributes id="{name}-m">'
        f'<nvpair id="{name}-r" name="remote-node" value="{assembly.name}"/>{_role(name, stopped)}'
        f'</meta_attributes><operations><op id="{name}-o" name="monitor" interval="{GUEST_INTERVAL}ms" '
        f'timeout="{GUEST_TIMEOUT}ms"/></operations></primitive>'
    )
    for resource in state.resources(assembly):
        subject = f"{assembly.name}/{resource.name}"
        held = state.is_leaving(assembly.name, resource.name) or _held_back(state, subject, now)
        if needs_configure(resource):
            step = resource_id(configure_step(subject))
            yield (
                f'<primitive id="{step}" class="ocf" provider="pcloud" type="configure"><meta_attributes id="{step}-m">'
                f"{_role(step, held)}</meta_attributes></primitive>"
            )
        service = resource_id(subject)
        provider = f" provider={quoteattr(resource.provider)}" if resource.provider else ""
        monitor = ""
        if resource.monitor_interval:
            delay = milliseconds(resource.monitor_start_delay)
            delayed = f' start-delay="{delay}ms"' if delay else ""
            monitor = (
                f'<operations><op id="{service}-o" name="monitor" interval="{milliseconds(resource.monitor_interval)}ms" '
                f'timeout="{milliseconds(resource.monitor_timeout)}ms"{delayed}/></operations>'
            )
        yield (
            f'<primitive id="{service}" class={quoteattr(resource.resource_class)}{provider} '
            f'type={quoteattr(resource.type)}><meta_attributes id="{service}-m">{_role(service, held)}</meta_attributes>'
            f"{monitor}</primitive>"
        )


def _held_back(state: State, subject: str, now: float) -> bool:
    """Tell whether a subject must not be started: it waits after a failed start, or trying can not help."""
    if subject in state.memory.unrecoverable:
        return True
    backoff = state.memory.backoff.get(subject)
    if backoff is None or backoff.until <= now:
        return False
    if "/" in subject:
        return state.service(subject).health is not Health.RUNNING
    return state.guest(subject).power is not Power.ON


def _role(name: str, stopped: bool) -> str:
    return f'<nvpair id="{name}-t" name="target-role" value="Stopped"/>' if stopped else ""


def _locations(state: State, assembly: Assembly, places: tuple[str, ...]) -> Iterator[str]:
    name = guest_id(assembly.name)
    excluded, wanted = placement.excluded(state, assembly.name), placement.place_of(state, assembly.name)
    for i, place in enumerate(places):
        score = "-INFINITY" if place in excluded else "100" if place == wanted else "0"
        yield (
            f'<rsc_location id="l{i}-{name}" rsc="{name}" node={quoteattr(PLACE + place)} score="{score}" '
            'resource-discovery="exclusive"/>'
        )


def _frozen(table: dict[str, tuple[Resource, ...]]) -> tuple[tuple[str, tuple[Resource, ...]], ...]:
    return tuple(table.items())


@lru_cache(maxsize=256)
def _static_constraints(
    deployable: Deployable,
    leaving: tuple[Assembly, ...],
    leaving_resources: tuple[tuple[str, tuple[Resource, ...]], ...],
) -> str:
    """Return the constraints that depend on the definition alone: which node a resource is pinned to, and every order."""
    gone = dict(leaving_resources)
    parts: list[str] = []
    for assembly in deployable.assemblies + leaving:
        for resource in assembly.resources + gone.get(assembly.name, ()):
            subject = f"{assembly.name}/{resource.name}"
            steps = [resource_id(subject)]
            if needs_configure(resource):
                steps.insert(0, resource_id(configure_step(subject)))
                parts.append(_order(steps[0], steps[1]))
            parts += (
                f'<rsc_location id="l-{step}" rsc="{step}" node="{assembly.name}" score="INFINITY" '
                'resource-discovery="exclusive"/>'
                for step in steps
            )
    orders = dict.fromkeys(_orders(deployable, leaving))
    parts += (_order(first, then, symmetrical) for first, then, symmetrical in orders)
    return "".join(parts)


def _orders(deployable: Deployable, leaving: tuple[Assembly, ...]) -> Iterator[tuple[str, str, bool]]:
    """Yield (first, then, symmetrical) of every order between resources. An asymmetrical order waits for the first, but
    does not stop the second with it: a configure step is not done again because the other service was restarted."""
    known = {assembly.name: assembly for assembly in deployable.assemblies + leaving}

    def after(first: str, assembly: str, resource: Resource, restart: bool) -> Iterator[tuple[str, str, bool]]:
        subject = f"{assembly}/{resource.name}"
        yield first, resource_id(subject), restart
        if needs_configure(resource):
            yield first, resource_id(configure_step(subject)), False

    for assembly in known.values():
        for resource in assembly.resources:
            for name in resource.after:
                yield from after(resource_id(f"{assembly.name}/{name}"), assembly.name, resource, True)
            for parameter in resource.parameters:
                other = parameter.value.assembly if isinstance(parameter.value, Reference) else assembly.name
                if other != assembly.name and other in known:
                    step = f"{assembly.name}/{resource.name}"
                    then = configure_step(step) if needs_configure(resource) else step
                    yield guest_id(other), resource_id(then), False
            for dependency in assembly.after:
                if dependency.assembly not in known:
                    continue  # a leaving assembly may outlive what it depended on
                first = known[dependency.assembly]
                firsts = [resource_id(f"{first.name}/{r.name}") for r in first.resources] or [guest_id(first.name)]
                for each in firsts:
                    yield from after(each, assembly.name, resource, dependency.restart)
    for constraint in deployable.constraints:
        first_assembly, _, first_resource = constraint.first.partition(".")
        then_assembly, _, then_resource = constraint.then.partition(".")
        if first_assembly not in known or then_assembly not in known:
            continue
        second = known[then_assembly].resource(then_resource)
        yield from after(resource_id(f"{first_assembly}/{first_resource}"), then_assembly, second, constraint.restart)


def _order(first: str, then: str, symmetrical: bool = True) -> str:
    return (
        f'<rsc_order id="o-{first}-{then}" first="{first}" then="{then}" kind="Mandatory" '
        f'symmetrical="{boolean(symmetrical)}"/>'
    )
