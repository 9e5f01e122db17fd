"""Limits of single services: whose are to be brought about now, and what follows from that.

As `pcloud.policy.limits` does for guests: level-triggered, told once when they can not be had, tried again later. That a
service may have limits of ours is remembered before it gets any, so that they are taken away when it shall have none any
more, whoever died meanwhile. They are no part of what a service is: a change restarts nothing. Pure.
"""

from __future__ import annotations

from msgspec.structs import replace

from pcloud.events.event import Severity
from pcloud.model.deployable import NO_LIMITS, Deployable, Resource, ResourceLimits
from pcloud.policy.limits import RETRY
from pcloud.policy.observation import Operated
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Health, Link, Service, State


def concerns(state: State, subject: str, resource: Resource) -> bool:
    """Tell whether a service has or may have limits of ours."""
    return resource.limits != NO_LIMITS or subject in state.memory.limited


def due(state: State, now: float) -> list[tuple[str, Resource]]:
    """Return the services (subject and definition) whose limits are to be brought about now."""
    if state.paused or state.target != "started":
        return []
    return [
        (subject, resource)
        for assembly in state.deployable.assemblies
        if state.guest(assembly.name).link is Link.CONNECTED
        for resource in assembly.resources
        if concerns(state, subject := f"{assembly.name}/{resource.name}", resource)
        and _differs(state.service(subject), resource.limits, now)
    ]


def next_wake(state: State, now: float) -> float | None:
    """Return when limits that could not be had are tried again; None when there are none."""
    if not state.memory.limited:
        return None
    times = (state.service(subject).retry for subject in state.memory.limited)
    return min((time for time in times if time > now), default=None)


def _differs(service: Service, wanted: ResourceLimits, now: float) -> bool:
    if service.health is not Health.RUNNING or service.limits == wanted:
        return False
    return service.refused != wanted or service.retry <= now


def intend(state: State, deployable: Deployable) -> State:
    """Return the state in which all services that a deployable limits are known to be limited, or to be so soon."""
    fresh = {
        f"{assembly.name}/{resource.name}"
        for assembly in deployable.assemblies
        for resource in assembly.resources
        if resource.limits != NO_LIMITS
    } - set(state.memory.limited)
    if not fresh:
        return state
    free = {subject: replace(state.services[subject], limits=NO_LIMITS) for subject in fresh & state.services.keys()}
    memory = replace(state.memory, limited=tuple(sorted(fresh.union(state.memory.limited))))
    return replace(state, memory=memory, services={**state.services, **free})


def given(outcome: Outcome, subject: str, limits: ResourceLimits) -> None:
    """Note what a service is limited to."""
    outcome.service(subject, limits=limits, refused=None, retry=0.0)
    if limits == NO_LIMITS and subject in outcome.state.memory.limited:
        outcome.memory(limited=tuple(one for one in outcome.state.memory.limited if one != subject))


def limited(outcome: Outcome, seen: Operated, resource: Resource) -> None:
    """A service's limits were brought about while it runs, or could not be."""
    wanted = seen.definition.limits if seen.definition is not None else resource.limits
    service = outcome.state.service(seen.subject)
    if not seen.error and seen.rc == 0 and not seen.not_connected:
        if service.limits not in (None, wanted):
            outcome.tell("resource.limits", seen.subject, "running", f"{_told(wanted)}, without a restart")
        given(outcome, seen.subject, wanted)
        return
    if service.refused != wanted and not seen.not_connected:
        why = seen.reason or seen.error or f"exit code {seen.rc}"
        reason = f"its limits stay as they were: {why}"
        outcome.tell("resource.limits", seen.subject, "running", reason, severity=Severity.WARNING)
    outcome.service(seen.subject, refused=wanted, retry=outcome.now + RETRY)


def _told(limits: ResourceLimits) -> str:
    parts = [f"{limits.memory} MiB of memory"] if limits.memory else []
    parts += [f"{limits.cpus:g} processors"] if limits.cpus else []
    parts += [f"{limits.tasks} tasks"] if limits.tasks else []
    return f"it may use {', '.join(parts)} now" if parts else "it has no limits of ours any more"
