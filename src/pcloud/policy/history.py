"""What is known of a deployable as the status section of a CIB: the history of operations, normalised.

It says what is true now, not every operation that led there. The configuration is `pcloud.policy.cib`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

from pcloud.model.deployable import Assembly
from pcloud.policy.definition import configure_digest, guest_changed, service_digest
from pcloud.policy.identifiers import PLACE, guest_id, milliseconds, quoteattr, resource_id
from pcloud.policy.state import Fault, Health, Link, Power, Service, State, configure_step, needs_configure

GUEST_INTERVAL = 60_000
"""Milliseconds of the guests' recurring monitor. It never runs: the infrastructure's watch tells of guests."""
GUEST_TIMEOUT = 20_000
CONNECTION_INTERVAL = 30_000
"""Milliseconds of the connections' recurring monitor, which the scheduler adds by itself for guest nodes."""
FEATURE_SET = "3.16.2"
_NOT_DONE = Service(health=Health.STOPPED)
CHANGED = "0" * 32
"""A digest of nothing: the scheduler restarts the resource because its definition changed."""


@lru_cache(maxsize=1024)
def _digest(timeout: int = 0) -> str:
    """Return the digest that Pacemaker gives an operation without parameters, and with a time-out (milliseconds) if it is
    a recurring one: MD5 of the parameters' XML, as in the history entries of its recorded scheduler cases."""
    inside = f' CRM_meta_timeout="{timeout}"' if timeout else ""
    return hashlib.md5(f" <parameters{inside}/>\n".encode(), usedforsecurity=False).hexdigest()


def status_section(state: State, places: tuple[str, ...], now: float) -> Iterator[str]:
    """Yield the parts of the status section: of every place, then of every guest that can be or could be reached."""
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
    # A node that failed is fenced before anything else starts, and whatever stops with it is asked for first: neither would
    # come, where what is to be asked is in guests that are not connected either. Nothing runs in a guest that nobody is
    # connected with as far as the scheduler knows: it is made anew as one that changed.
    unknown = guest.fault is not Fault.NONE and guest.link is Link.NONE
    start = CHANGED if unknown or guest_changed(state, assembly) else _digest()
    operations = _operation(name, "start", 0, 0, node, guest.since, start)
    if unknown or guest.fault is Fault.NONE:
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
    # A configure step is asked about before its service stops. In a guest that is made anew it would be asked afterwards,
    # and the guest does not end before its services do.
    anew = guest_changed(state, node)
    yield (
        f'<node_state id="{node}" uname="{node}" remote_node="true" in_ccm="true" crmd="online" join="member" '
        f'node_fenced="0"><lrm id="{node}"><lrm_resources>'
    )
    for resource in state.resources(assembly):
        subject = f"{node}/{resource.name}"
        if needs_configure(resource):
            step = configure_step(subject)
            service = state.service(step)
            if anew and service.health is Health.UNKNOWN:
                service = _NOT_DONE
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
    interval = milliseconds(service.monitored)
    match service.health:
        case Health.UNKNOWN:
            return ""
        case Health.STOPPED:
            return _operation(name, "stop", 0, 0, node, service.since)
        case Health.RUNNING:
            watched = _digest(milliseconds(service.monitor_timeout))
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
