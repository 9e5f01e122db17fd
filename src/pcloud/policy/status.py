"""What users are told: a `State` as a `DeployableStatus`."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from pcloud.model.deployable import Assembly, Resource, ResourceState
from pcloud.model.status import AssemblyStatus, DeployableStatus, ResourceStatus
from pcloud.policy import escalation
from pcloud.policy.definition import guest_changed, service_changed
from pcloud.policy.state import Fault, Health, Link, Power, State, configure_step

_ORDER = (
    ResourceState.FAILED,
    ResourceState.UNRECOVERABLE,
    ResourceState.SUSPECT,
    ResourceState.UNKNOWN,
    ResourceState.STARTING,
)
"""Of several states, the first of these is the one of the whole."""


def status(state: State, now: float, restarting: AbstractSet[str] = frozenset()) -> DeployableStatus:
    """Return what users are told about a deployable at `now`. `restarting`: the services that are being
    stopped, or will be by the newest decision."""
    deployable = state.deployable
    assemblies = tuple(_assembly(state, assembly, now, restarting) for assembly in deployable.assemblies)
    overall, reason = _overall(state, assemblies)
    return DeployableStatus(
        name=deployable.name,
        state=overall,
        reason=reason,
        infrastructure=deployable.infrastructure,
        target=state.target,
        paused=state.paused,
        revision=state.revision,
        since=max((a.since for a in assemblies), default=0.0),
        assemblies=assemblies,
    )


def _overall(state: State, assemblies: tuple[AssemblyStatus, ...]) -> tuple[ResourceState, str]:
    if state.memory.gave_up:
        return ResourceState.FAILED, state.memory.gave_up
    if state.blocked:
        return ResourceState.BLOCKED, f"{state.blocked}; nothing is done until `pcloud recover {state.deployable.name}`"
    if state.paused:
        return ResourceState.PAUSED, "recovery is paused"
    if state.infrastructure_down:
        return ResourceState.UNKNOWN, f"the infrastructure does not answer: {state.infrastructure_down}"
    # A failure that is being recovered from is no end: only what was given up is `failed` as a whole.
    found = {ResourceState.STARTING if a.state is ResourceState.FAILED else a.state for a in assemblies}
    if state.target == "stopped":
        if found <= {ResourceState.STOPPED} and not state.leaving:
            return ResourceState.STOPPED, ""
        return ResourceState.STARTING if ResourceState.STARTING in found else ResourceState.RUNNING, "being stopped"
    for worst in _ORDER:
        if worst in found:
            matching = (worst, ResourceState.FAILED) if worst is ResourceState.STARTING else (worst,)
            reason = next((f"{a.name}: {a.reason}" for a in assemblies if a.state in matching and a.reason), "")
            return worst, reason
    return (ResourceState.RUNNING, "") if found <= {ResourceState.RUNNING} else (ResourceState.STARTING, "")


def _assembly(state: State, assembly: Assembly, now: float, restarting: AbstractSet[str]) -> AssemblyStatus:
    guest = state.guest(assembly.name)
    resources = tuple(_resource(state, assembly, resource, now, restarting) for resource in assembly.resources)
    own, reason = _guest(state, assembly.name)
    if own is ResourceState.RUNNING:
        found = {r.state for r in resources}
        for worst in _ORDER:
            if worst in found:
                own, reason = (
                    worst,
                    next((f"{r.name}: {r.reason}" for r in resources if r.state is worst and r.reason), ""),
                )
                break
    return AssemblyStatus(
        name=assembly.name,
        state=own,
        address=guest.address,
        place=guest.place,
        reason=reason,
        failures=escalation.recent(state.memory, assembly.name, assembly.escalation, now),
        since=max((guest.since, *(r.since for r in resources))),
        resources=resources,
        answers=guest.power is Power.ON and guest.link is Link.CONNECTED,
    )


def _guest(state: State, name: str) -> tuple[ResourceState, str]:
    guest = state.guest(name)
    if state.target == "stopped" and guest.probed and guest.power is not Power.ON:
        return ResourceState.STOPPED, ""
    if name in state.memory.unrecoverable:
        return ResourceState.UNRECOVERABLE, state.memory.unrecoverable[name]
    if not guest.probed:
        return ResourceState.UNKNOWN if state.infrastructure_down else ResourceState.STARTING, ""
    if guest.fault is not Fault.NONE:
        return ResourceState.FAILED, guest.reason
    if guest.link is Link.LOST:
        return ResourceState.SUSPECT, guest.reason or "its transport is silent"
    if guest.power is Power.ON and guest.link is Link.CONNECTED:
        # What runs is not what shall run: it does not count as running any more, although it still may for a moment.
        if guest_changed(state, name) and not state.paused:
            return ResourceState.STARTING, "it is made anew: what it is made from changed"
        return ResourceState.RUNNING, ""
    waits = state.memory.backoff.get(name)
    return ResourceState.STARTING, f"attempt {waits.attempts} failed" if waits and guest.failed_at else ""


def _resource(
    state: State, assembly: Assembly, resource: Resource, now: float, restarting: AbstractSet[str]
) -> ResourceStatus:
    subject = f"{assembly.name}/{resource.name}"
    service = state.service(subject)
    value, reason = _service(state, assembly.name, subject)
    if value is ResourceState.RUNNING and subject in restarting and state.target == "started":
        # It may run still, but not for long: whoever waits for all of it to run would be told so too early.
        value, reason = ResourceState.STARTING, "it is to be restarted"
    return ResourceStatus(
        name=resource.name,
        state=value,
        reason=reason,
        failures=escalation.recent(state.memory, subject, resource.escalation, now),
        since=service.since,
    )


def _service(state: State, assembly: str, subject: str) -> tuple[ResourceState, str]:
    service, guest = state.service(subject), state.guest(assembly)
    stopped = ResourceState.STOPPED if state.target == "stopped" else ResourceState.STARTING
    off = guest.probed and guest.power is not Power.ON
    if off and state.target == "stopped":
        return ResourceState.STOPPED, ""
    if subject in state.memory.unrecoverable:
        return ResourceState.UNRECOVERABLE, state.memory.unrecoverable[subject]
    if off:
        return stopped, ""
    if guest.link is Link.LOST and guest.fault is Fault.NONE:
        return ResourceState.SUSPECT, "its guest is silent"
    step = state.service(configure_step(subject))
    match service.health:
        case Health.RUNNING:
            if service_changed(state, subject) and not state.paused and state.target == "started":
                return ResourceState.STARTING, "it is restarted: its parameters changed, or an address they refer to"
            return ResourceState.RUNNING, ""
        case Health.FAILED | Health.START_FAILED:
            return ResourceState.FAILED, service.reason
        case _ if step.health is Health.START_FAILED:
            return ResourceState.FAILED, f"configure: {step.reason}"
        case Health.STOPPED if service.failed_at and state.target == "started":
            return ResourceState.STARTING, service.reason
        case _:
            return stopped, ""
