"""A deployable as a Pacemaker CIB.

The mapping is Pacemaker's own for guests (see `docs/decisions/001-guest-nodes.md`): every place of the infrastructure is a
cluster node; an assembly is a primitive `guest_ASSEMBLY` with `remote-node=ASSEMBLY`, so that the scheduler knows the guest
as a node of its own; a resource is a primitive `rsc_ASSEMBLY_RESOURCE` that may only run on that node; its configure step
is `cfg_ASSEMBLY_RESOURCE`, ordered before it. History is written from the state, normalised: it says what is true now, not
every operation that led there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from xml.sax import saxutils

import msgspec

from pcloud.model.deployable import Assembly, Deployable, Reference, Resource
from pcloud.policy.definition import configure_digest, service_digest
from pcloud.policy.state import Fault, Health, Link, Power, Service, State, configure_step, needs_configure

GUEST_INTERVAL = 60_000
"""Milliseconds of the guests' recurring monitor. It never runs: the infrastructure's watch tells of guests."""
GUEST_TIMEOUT = 20_000
CONNECTION_INTERVAL = 30_000
"""Milliseconds of the connections' recurring monitor, which the scheduler adds by itself for guest nodes."""
FEATURE_SET = "3.16.2"
CHANGED = "0" * 32
"""A digest of nothing: the scheduler restarts the resource because its definition changed."""
PLACE = "place."
"""Prefix of the node name of a place, which keeps it apart from assemblies' names."""


@lru_cache(maxsize=4096)
def quoteattr(text: str) -> str:
    """Return a value as a quoted XML attribute; the same few names are written over and over."""
    return saxutils.quoteattr(text)


@lru_cache(maxsize=1024)
def _digest(timeout: int = 0) -> str:
    """Return the digest that Pacemaker gives an operation without parameters, and with a time-out (milliseconds) if it is
    a recurring one: MD5 of the parameters' XML, as in the history entries of its recorded scheduler cases."""
    inside = f' CRM_meta_timeout="{timeout}"' if timeout else ""
    return hashlib.md5(f" <parameters{inside}/>\n".encode(), usedforsecurity=False).hexdigest()


class Names(msgspec.Struct, frozen=True):
    """What the ids in a CIB stand for."""

    guests: dict[str, str]
    """`guest_web` → `web`."""
    connections: dict[str, str]
    """`web` → `web`."""
    services: dict[str, str]
    """`rsc_web_httpd` → `web/httpd`, `cfg_web_httpd` → `web/httpd!configure`."""


def guest_id(assembly: str) -> str:
    """Return the id of an assembly's guest."""
    return f"guest_{assembly}"


def resource_id(subject: str) -> str:
    """Return the id of a service or configure step, which is also its name in the guest's executor."""
    assembly, _, resource = subject.partition("/")
    if resource.endswith("!configure"):
        return f"cfg_{assembly}_{resource.removesuffix('!configure')}"
    return f"rsc_{assembly}_{resource}"


def names(state: State) -> Names:
    """Return what the ids in this state's CIB stand for."""
    services: dict[str, str] = {}
    for assembly in state.assemblies():
        for resource in state.resources(assembly):
            subject = f"{assembly.name}/{resource.name}"
            services[resource_id(subject)] = subject
            services[resource_id(configure_step(subject))] = configure_step(subject)
    return Names(
        {guest_id(a.name): a.name for a in state.assemblies()}, {a.name: a.name for a in state.assemblies()}, services
    )


def render(state: State, now: float) -> bytes:
    """Return the CIB (XML, UTF-8) that asks the scheduler what to do at `now`."""
    maintenance = state.paused or bool(state.memory.gave_up)
    head = (
        f'<cib crm_feature_set="{FEATURE_SET}" validate-with="none" epoch="1" num_updates="0" admin_epoch="0" '
        f'have-quorum="1" dc-uuid="1" execution-date="{int(now)}"><configuration><crm_config><cluster_property_set id="p">'
        '<nvpair id="p1" name="symmetric-cluster" value="false"/><nvpair id="p2" name="stonith-enabled" value="false"/>'
        '<nvpair id="p3" name="no-quorum-policy" value="ignore"/>'
        '<nvpair id="p4" name="start-failure-is-fatal" value="false"/>'
        f'<nvpair id="p5" name="maintenance-mode" value="{_bool(maintenance)}"/></cluster_property_set></crm_config><nodes>'
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
    parts += _status(state, places, now)
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
            monitor = (
                f'<operations><op id="{service}-o" name="monitor" interval="{_milliseconds(resource.monitor_interval)}ms" '
                f'timeout="{_milliseconds(resource.monitor_timeout)}ms"/></operations>'
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
    excluded = state.memory.excluded.get(assembly.name, ())
    for i, place in enumerate(places):
        score = "-INFINITY" if place in excluded else "100" if state.guest(assembly.name).place == place else "0"
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
        f'symmetrical="{_bool(symmetrical)}"/>'
    )


# --- history


def _status(state: State, places: tuple[str, ...], now: float) -> Iterator[str]:
    for i, place in enumerate(places, 1):
        node = PLACE + place
        yield (
            f'<node_state id="{i}" uname={quoteattr(node)} in_ccm="true" crmd="online" join="member" expected="member">'
            f'<lrm id="{i}"><lrm_resources>'
        )
        for assembly in state.assemblies():
            guest = state.guest(assembly.name)
            here = guest.place == place or (not guest.place and i == 1)
            yield from _guest_history(state, assembly.name, node, now) if here else _absent(assembly.name, node)
        yield "</lrm_resources></lrm></node_state>"
    for assembly in state.assemblies():
        if state.guest(assembly.name).link is not Link.NONE:
            yield from _node_history(state, assembly, now)


def _absent(assembly: str, node: str) -> Iterator[str]:
    name = guest_id(assembly)
    yield _resource(name, "ocf", "pcloud", "guest", _operation(name, "monitor", 0, 7, node, 0))
    yield _resource(
        assembly, "ocf", "pacemaker", "remote", _operation(assembly, "monitor", 0, 7, node, 0), container=name
    )


def _guest_history(state: State, assembly: str, node: str, now: float) -> Iterator[str]:
    guest = state.guest(assembly)
    name = guest_id(assembly)
    if not guest.probed:
        return
    if guest.power is not Power.ON:
        yield from _absent(assembly, node)
        return
    wanted = state.images.get(assembly, "")
    changed = bool(guest.digest and wanted and guest.digest != wanted)
    operations = _operation(name, "start", 0, 0, node, guest.since, CHANGED if changed else _digest())
    if guest.fault is Fault.NONE:
        operations += _operation(name, "monitor", GUEST_INTERVAL, 0, node, guest.since, _digest(GUEST_TIMEOUT))
    else:
        operations += _operation(name, "monitor", GUEST_INTERVAL, 7, node, now)
    yield _resource(name, "ocf", "pcloud", "guest", operations)
    if guest.link is Link.NONE:
        operations = _operation(assembly, "monitor", 0, 7, node, guest.since)
    else:
        operations = _operation(assembly, "start", 0, 0, node, guest.since, _digest())
        operations += _operation(
            assembly, "monitor", CONNECTION_INTERVAL, 0, node, guest.since, _digest(CONNECTION_INTERVAL)
        )
    yield _resource(assembly, "ocf", "pacemaker", "remote", operations, container=name)


def _node_history(state: State, assembly: Assembly, now: float) -> Iterator[str]:
    node = assembly.name
    yield (
        f'<node_state id="{node}" uname="{node}" remote_node="true" in_ccm="true" crmd="online" join="member" '
        f'node_fenced="0"><lrm id="{node}"><lrm_resources>'
    )
    for resource in state.resources(assembly):
        subject = f"{node}/{resource.name}"
        if needs_configure(resource):
            step = configure_step(subject)
            service = state.service(step)
            if operations := _service_history(step, service, configure_digest(state, resource), node, now):
                yield _resource(resource_id(step), "ocf", "pcloud", "configure", operations)
        service = state.service(subject)
        if operations := _service_history(subject, service, service_digest(state, resource), node, now):
            yield _resource(resource_id(subject), resource.resource_class, resource.provider, resource.type, operations)
    yield "</lrm_resources></lrm></node_state>"


def _service_history(subject: str, service: Service, wanted: str | None, node: str, now: float) -> str:
    name = resource_id(subject)
    changed = bool(service.digest and wanted and service.digest != wanted)
    start = _operation(name, "start", 0, 0, node, service.since, CHANGED if changed else _digest())
    interval = _milliseconds(service.monitored)
    match service.health:
        case Health.UNKNOWN:
            return ""
        case Health.STOPPED:
            return _operation(name, "stop", 0, 0, node, service.since)
        case Health.RUNNING:
            watched = _digest(_milliseconds(service.monitor_timeout))
            return start + (_operation(name, "monitor", interval, 0, node, service.since, watched) if interval else "")
        case Health.FAILED if interval:
            return start + _operation(name, "monitor", interval, service.rc or 1, node, service.failed_at or now)
        case Health.FAILED:
            return _operation(name, "monitor", 0, service.rc if service.rc != 7 else 1, node, service.failed_at or now)
        case Health.START_FAILED:
            return _operation(name, "start", 0, 1, node, service.failed_at or now)


def _resource(name: str, rclass: str, provider: str, kind: str, operations: str, *, container: str = "") -> str:
    inside = f' container="{container}"' if container else ""
    provided = f" provider={quoteattr(provider)}" if provider else ""
    return (
        f'<lrm_resource id="{name}" class={quoteattr(rclass)}{provided} type={quoteattr(kind)}{inside}>'
        f"{operations}</lrm_resource>"
    )


_CALL = {("monitor", False): 1, ("stop", False): 2, ("start", False): 3, ("monitor", True): 4}
"""Call ids only say which operation came later, which is the same for every resource here."""


def _operation(name: str, task: str, interval: int, rc: int, node: str, when: float, digest: str = "") -> str:
    call = _CALL[task, bool(interval)]
    entry = (
        f"{name}_last_failure_0" if interval and rc else f"{name}_{task}_{interval}" if interval else f"{name}_last_0"
    )
    expected = 7 if task == "monitor" and not interval and rc == 7 else 0
    key = f"{call}:1:{expected}:pcloud"
    checked = f' op-digest="{digest}"' if digest else ""
    return (
        f'<lrm_rsc_op id="{entry}" operation_key="{name}_{task}_{interval}" operation="{task}" '
        f'crm_feature_set="{FEATURE_SET}" transition-key="{key}" transition-magic="0:{rc};{key}" '
        f'on_node={quoteattr(node)} call-id="{call}" rc-code="{rc}" op-status="0" interval="{interval}" '
        f'last-rc-change="{int(when)}" exec-time="0" queue-time="0"{checked}/>'
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
