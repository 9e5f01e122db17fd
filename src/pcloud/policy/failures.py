"""What follows from a failure: restart, wait, escalate, give up. The escalation ladder is here and nowhere else."""

from __future__ import annotations

import math

from msgspec.structs import replace

from pcloud.events.event import Severity
from pcloud.model.deployable import Escalation
from pcloud.policy import escalation, incidents, placement
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Fault, Health, Power, State


def service_failed(outcome: Outcome, subject: str, rule: Escalation, what: str, *, since: float = math.inf) -> None:
    """Count a failure of a service; escalate to its guest when it was one too many. All failures from `since` on count."""
    assembly = subject.partition("/")[0]
    shown = subject.removesuffix("!configure")
    memory, escalates, number = escalation.count(outcome.state.memory, shown, rule, outcome.now, since=since)
    outcome.state = replace(outcome.state, memory=memory)
    if not escalates:
        outcome.apply(
            "RESTART_RESOURCE",
            shown,
            f"failure {number} of {rule.failures} {_span(rule, since)}: restart it where it is",
        )
        return
    why = f"{shown} failed {number} times {_span(rule, since)} ({what})"
    outcome.apply("ESCALATE_TO_ASSEMBLY", shown, f"{why}: the guest {assembly} is restarted, counting starts afresh")
    outcome.tell(
        "escalation", shown, "failed", f"{why}; escalated to its guest {assembly}",
        severity=Severity.WARNING, level="assembly", failures=number, period=rule.period,
    )  # fmt: skip
    guest_failed(outcome, assembly, Fault.ESCALATED, why, signal="escalation", since=since)


def guest_failed(
    outcome: Outcome, assembly: str, fault: Fault, why: str, *, signal: str, since: float = math.inf
) -> None:
    """Count a failure of a guest and mark it for a restart; escalate to the deployable when it was one too many. All
    failures from `since` on count."""
    state = outcome.state
    if state.guest(assembly).fault is not Fault.NONE:
        mark(outcome, assembly, max(fault, state.guest(assembly).fault, key=_gravity), why, signal=signal)
        return
    mark(outcome, assembly, fault, why, signal=signal)
    _count_guest(outcome, assembly, why, since)


def guest_not_started(outcome: Outcome, assembly: str, what: str, *, took: float) -> None:
    """Note that a guest did not start, after so many seconds: wait; escalate to the deployable when it was one too many."""
    must_wait(outcome, assembly, what, took=took)
    _count_guest(outcome, assembly, what, outcome.state.memory.backoff[assembly].began)


def guest_not_reached(outcome: Outcome, assembly: str, what: str, *, took: float) -> None:
    """Note that a guest that was started never answered within so many seconds: it is isolated and started again at once."""
    memory, _ = escalation.wait(outcome.state.memory, assembly, outcome.now, took=took, at_once=True)
    outcome.state = replace(outcome.state, memory=memory)
    since = memory.backoff[assembly].began
    guest_failed(outcome, assembly, Fault.UNREACHABLE, what, signal="transport", since=since)


def _count_guest(outcome: Outcome, assembly: str, why: str, since: float) -> None:
    state = outcome.state
    if state.is_leaving(assembly):
        return
    rule = state.deployable.assembly(assembly).escalation
    memory, escalates, number = escalation.count(state.memory, assembly, rule, outcome.now, since=since)
    outcome.state = replace(state, memory=memory)
    if not escalates:
        outcome.apply(
            "RESTART_ASSEMBLY",
            assembly,
            f"failure {number} of {rule.failures} {_span(rule, since)}: restart the guest",
        )
        return
    reason = f"the guest {assembly} failed {number} times {_span(rule, since)} ({why})"
    outcome.apply("ESCALATE_TO_DEPLOYABLE", assembly, f"{reason}: all of the deployable is restarted in order")
    outcome.tell(
        "escalation", assembly, "failed", f"{reason}; escalated to the deployable",
        severity=Severity.WARNING, level="deployable", failures=number, period=rule.period,
    )  # fmt: skip
    deployable_failed(outcome, assembly, reason, since=since)


def deployable_failed(outcome: Outcome, assembly: str, why: str, *, since: float = math.inf) -> None:
    """Restart everything in order; when that was one too many, move the guest elsewhere, or give up and say so once."""
    deployable = outcome.state.deployable
    rule = deployable.escalation
    memory, exhausted, number = escalation.count(outcome.state.memory, "", rule, outcome.now, since=since)
    outcome.state = replace(outcome.state, memory=memory)
    if exhausted:
        before = placement.place_of(outcome.state, assembly)
        if not _relocate(outcome, assembly):
            reason = f"restarted as a whole {number - 1} times {_span(rule, since)} and still failing: {why}"
            outcome.memory(gave_up=reason)
            outcome.apply("GIVE_UP", "", f"{reason}; no other place to run it, so recovery stops until `recover`")
            outcome.tell("deployable.state", "", "failed", reason, severity=Severity.CRITICAL, final=True)
            return
        moved, now = f"{why}; moved away from {before}", placement.place_of(outcome.state, assembly)
        back = f"{before} is not used for it for {rule.period:g} s, or until `recover`"
        outcome.apply("RELOCATE", assembly, f"{moved}; as things are now, it goes to {now}; {back}")
        outcome.tell("escalation", assembly, "failed", moved, severity=Severity.WARNING, level="place")
    for other in deployable.assemblies:
        mark(outcome, other.name, Fault.ESCALATED, why, signal="escalation")


def _relocate(outcome: Outcome, assembly: str) -> bool:
    """Exclude the place where a guest is; False, and nothing is changed, when it was the last."""
    state = outcome.state
    gone = {*state.memory.excluded.get(assembly, ()), placement.place_of(state, assembly)}
    if gone.issuperset(state.places):
        return False
    outcome.state = replace(state, memory=placement.exclude(state.memory, assembly, gone - {""}, outcome.now))
    return True


def readmit(outcome: Outcome) -> None:
    """Let guests be again at places that they were moved away from as long ago as failures of the deployable count, unless
    that is not over yet: an incident of theirs is open, so that what starts nowhere is given up however long its tries take.
    Nothing is moved for it: a guest stays where it is until it is moved away from there."""
    memory = outcome.state.memory
    if memory.gave_up:
        return  # `recover` allows all of them
    period = outcome.state.deployable.escalation.period
    for name, places in memory.excluded.items():
        memory = placement.exclude(memory, name, places, outcome.now)  # a former version noted no times
        at = memory.excluded_at[name]
        left = tuple(place for place in places if at[place] + period > outcome.now)
        if len(left) == len(places) or incidents.concerned(outcome.state, name):
            continue
        memory = placement.exclude(memory, name, left, outcome.now)
        again = ", ".join(place for place in places if place not in left)
        why = (
            f"it was moved away from {again} {period:g} s ago or longer, and what failed is over: it may be there again"
        )
        outcome.apply("PLACE_ALLOWED", name, f"{why}, but is not moved for it")
    if memory != outcome.state.memory:
        outcome.state = replace(outcome.state, memory=memory)


def next_wake(state: State, now: float) -> float | None:
    """Return the earliest time at which a place may be used again, or None; what waits for an incident's end wakes by it."""
    period = state.deployable.escalation.period
    times = (at + period for places in state.memory.excluded_at.values() for at in places.values())
    return min((time for time in times if time > now), default=None)


def not_moved(outcome: Outcome, assembly: str) -> None:
    """Note that a guest runs where it may not be though nothing is being done about it: its infrastructure did not bring it
    elsewhere. It goes on there, else it would be stopped and started for ever; where it could not be brought is not tried
    again, so that the next escalation tries yet another place or gives up."""
    state = outcome.state
    guest, shunned = state.guest(assembly), placement.excluded(state, assembly)
    if guest.power is not Power.ON or guest.fault is not Fault.NONE or guest.place not in shunned:
        return
    wanted = placement.place_of(state, assembly)
    places = {*shunned, wanted} - {guest.place, ""}
    outcome.state = replace(state, memory=placement.exclude(state.memory, assembly, places, outcome.now))
    why = (
        f"the guest {assembly} was not moved to {wanted}: its infrastructure has it at {guest.place}; it goes on there"
    )
    period = state.deployable.escalation.period
    outcome.apply("NOT_MOVED", assembly, f"{why}, and {wanted} is not tried again for {period:g} s, or until `recover`")
    outcome.tell("escalation", assembly, "failed", why, severity=Severity.WARNING, level="place")


def mark(outcome: Outcome, assembly: str, fault: Fault, why: str, *, signal: str) -> None:
    """Mark a guest for being stopped and started; remembered, so that a crash of the engine does not lose it."""
    guest = outcome.state.guest(assembly)
    if _gravity(guest.fault) >= _gravity(fault):
        fault = guest.fault
    outcome.guest(assembly, fault=fault, reason=why, signal=signal, failed_at=guest.failed_at or outcome.now)
    outcome.memory(faults={**outcome.state.memory.faults, assembly: (fault, why)})
    outcome.decide = True


def must_wait(outcome: Outcome, subject: str, what: str, *, took: float = 0.0) -> None:
    """Note that a start failed after so many seconds, and how long nothing is tried."""
    shown = subject.removesuffix("!configure")
    memory, seconds = escalation.wait(outcome.state.memory, shown, outcome.now, took=took)
    outcome.state = replace(outcome.state, memory=memory)
    attempts = memory.backoff[shown].attempts
    outcome.apply("BACK_OFF", shown, f"{what}: attempt {attempts} failed, the next one in {seconds:g} s")


def unrecoverable(outcome: Outcome, subject: str, why: str) -> None:
    """Note that trying again can not help; one clear event, no loop."""
    shown = subject.removesuffix("!configure")
    if shown in outcome.state.memory.unrecoverable:
        return
    outcome.memory(unrecoverable={**outcome.state.memory.unrecoverable, shown: why})
    outcome.apply("UNRECOVERABLE", shown, f"{why}: trying again can not help; mend it, then `recover`")
    kind = "resource.state" if "/" in shown else "assembly.state"
    outcome.tell(kind, shown, "unrecoverable", why, severity=Severity.CRITICAL, final=True)


def forget_services(outcome: Outcome, assembly: str, health: Health) -> None:
    """Forget the history of everything in a guest, as after its restart."""
    services = dict(outcome.state.services)
    for subject, service in services.items():
        if subject.partition("/")[0] == assembly:
            services[subject] = replace(service, health=health, monitored=0.0, rc=0, limits=None, refused=None)
    outcome.state = replace(outcome.state, services=services)


def _span(rule: Escalation, since: float) -> str:
    return f"within {rule.period:g} s" if math.isinf(since) else f"within {rule.period:g} s or in a row"


def _gravity(fault: Fault) -> int:
    return (Fault.NONE, Fault.ESCALATED, Fault.UNREACHABLE, Fault.UNSTOPPABLE, Fault.HUNG, Fault.GONE).index(fault)
