"""Why each action is taken, in plain words: from the state the decision was made from and the action's subject."""

from __future__ import annotations

from pcloud.model.deployable import Reference
from pcloud.policy import placement
from pcloud.policy.definition import guest_changed, service_changed
from pcloud.policy.state import Fault, Health, Link, State

_FAULTS = {
    Fault.GONE: "died",
    Fault.HUNG: "hangs: two independent signals agree",
    Fault.UNSTOPPABLE: "holds a service that could not be stopped",
    Fault.UNREACHABLE: "can not be reached",
    Fault.ESCALATED: "is restarted by escalation",
}


def why_guest(state: State, name: str, action: str) -> str:
    """Return why a guest is started or stopped, and why it is started where it is."""
    reason = _why_guest(state, name, action)
    where = placement.why(state, name) if action == "start" else ""
    return f"{reason}; {where}" if where else reason


def _why_guest(state: State, name: str, action: str) -> str:
    guest = state.guest(name)
    if action == "monitor":
        return "nothing is known of it yet: ask the infrastructure before anything is started"
    if state.is_leaving(name):
        return "it is no longer part of the deployable"
    if state.target == "stopped":
        return "the deployable shall be stopped"
    if guest.fault is not Fault.NONE:
        return f"the guest {_FAULTS[guest.fault]}: {guest.reason}"
    if guest_changed(state, name):
        return "what the guest is made from changed: it is made anew"
    if action == "connect":
        return "its services are reached through this connection"
    if action == "stop":
        return f"it may not run at {guest.place}" if guest.place else "it shall not run"
    return "it shall run and does not"


def why_service(state: State, subject: str, action: str) -> str:
    """Return why an operation on a service (or its configure step) is carried out; `watch` is a monitor that recurs."""
    assembly, _, name = subject.removesuffix("!configure").partition("/")
    guest, service = state.guest(assembly), state.service(subject)
    if action == "monitor":
        return "find out what runs before anything is started"
    if action == "watch":
        delay = _start_delay(state, assembly, name)
        return f"keep watching it, from {delay:g} s after this on (its start delay)" if delay else "keep watching it"
    if state.is_leaving(assembly, name):
        return "it is no longer part of the deployable"
    if state.target == "stopped":
        return "the deployable shall be stopped"
    if guest.fault is not Fault.NONE:
        return f"its guest {_FAULTS[guest.fault]}"
    if service.health is Health.FAILED:
        seen = {"exit": "seen at once by the watch on its process", "interval": "seen by its monitor"}
        told = seen.get(service.signal, "")
        return f"{name} failed: {service.reason}{f' ({told})' if told else ''}"
    if service.health is Health.START_FAILED:
        return f"its start failed: {service.reason}"
    if service_changed(state, subject):
        return "its parameters changed, or an address they refer to did"
    if service.failed_at:
        return f"{name} failed: {service.reason}"
    first = _cause(state, assembly, name)
    if first and (service.health is Health.RUNNING or action == "stop"):
        return f"it depends on {first}, which is restarted"
    if guest.link is not Link.CONNECTED:
        return f"its guest {assembly} is started"
    if subject.endswith("!configure"):
        return f"{name} is configured before it starts"
    return "it shall run and does not"


def _start_delay(state: State, assembly: str, name: str) -> float:
    try:
        return state.deployable.assembly(assembly).resource(name).monitor_start_delay
    except KeyError:
        return 0.0


def _cause(state: State, assembly: str, name: str) -> str:
    """Return the failed or faulty thing that this service is ordered after, if there is one."""
    for subject in ordered_after(state, assembly, name):
        guest = state.guest(subject.partition("/")[0])
        service = state.service(subject)
        failed = service.health in (Health.FAILED, Health.START_FAILED) or bool(service.failed_at)
        if failed or guest.fault is not Fault.NONE or service_changed(state, subject):
            return subject
    return ""


def ordered_after(state: State, assembly: str, name: str) -> tuple[str, ...]:
    """Return the services (`db/mysqld`), and the assemblies whose address it takes, that must be there before a service."""
    deployable = state.deployable
    try:
        own = deployable.assembly(assembly)
        resource = own.resource(name)
    except KeyError:
        return ()
    before = [f"{assembly}/{other}" for other in resource.after]
    for dependency in own.after:
        before += [f"{dependency.assembly}/{r.name}" for r in deployable.assembly(dependency.assembly).resources]
    before += [c.first.replace(".", "/") for c in deployable.constraints if c.then == f"{assembly}.{name}"]
    for parameter in resource.parameters:
        if isinstance(parameter.value, Reference):
            before.append(parameter.value.assembly)
    return tuple(dict.fromkeys(before))
