"""Incidents: from the first failure to the outcome, told once. Pure.

An incident begins with a failure that nothing covers yet, takes in every further failure in its scope, grows with the
escalation (service → guest → deployable), and ends with one event of type `incident` that says what failed, how often,
how long it lasted and how it ended. It has recovered when all of its scope has run for a while without another failure:
a service that comes up and falls over again is one incident, not ten.

Incidents are part of `Memory`. A fold tells at most one outcome, as its last event, so that whoever writes it down can put
event and memory into one record: an engine that dies in between neither loses an outcome nor tells it twice.
"""

from __future__ import annotations

from msgspec.structs import replace

from pcloud.events.event import Event, Severity
from pcloud.model.deployable import Assembly
from pcloud.policy.outcome import Outcome, Rule
from pcloud.policy.state import Fault, Health, Incident, Link, Power, State

SETTLE = 10.0
"""Seconds that everything must have run before an incident is over; longer where a monitor looks more rarely, or begins
later (its start delay comes on top)."""
LONGEST_SETTLE = 60.0
OVERDUE = 600.0
"""Seconds after which an incident that has not ended is told once as `unresolved`: a silence must not hide it."""

_NO_FAILURE_YET = frozenset(
    {("assembly.state", "suspect"), ("infrastructure", "unknown"), ("deployable.state", "blocked")}
)
"""Types and states of events that begin an incident without being a failure of something we run."""
_SEVERITIES = {
    "recovered": Severity.NOTICE,
    "gave-up": Severity.CRITICAL,
    "blocked": Severity.CRITICAL,
    "withdrawn": Severity.INFO,
    "unresolved": Severity.WARNING,
}
"""How an incident ends (`unresolved`: has not ended yet), and how much it should bother somebody."""


def follow(before: State, outcome: Outcome) -> None:
    """Take what a fold brought into the incidents; tell the outcome of one that is over. `before` is the state that was
    folded: what was given up or blocked in it has been told."""
    if not (outcome.events or outcome.rules or outcome.state.memory.incidents):
        return
    for event in tuple(outcome.events):
        _take_event(before, outcome, event)
    for rule in outcome.rules:
        _take_rule(before, outcome, rule)
    state = outcome.state
    incidents = state.memory.incidents
    if not incidents:
        return
    for how, now, then in (
        ("blocked", state.blocked, before.blocked),
        ("gave-up", state.memory.gave_up, before.memory.gave_up),
    ):
        if now and not then:
            _tell(outcome, _widened(outcome, ""), "", how, now)
            return
    for subject in state.memory.unrecoverable.keys() - before.memory.unrecoverable.keys():
        for scope in incidents:
            if _covers(scope, subject):
                _tell(outcome, incidents[scope], scope, "gave-up", state.memory.unrecoverable[subject])
                return
    _look(outcome)


def next_due(state: State) -> float | None:
    """Return the wall-clock time at which an incident is over, or overdue, if nothing else happens; None when none is."""
    times = [
        incident.well_since + _settle(state, scope) if incident.well_since else incident.began + OVERDUE
        for scope, incident in state.memory.incidents.items()
        if incident.well_since or not (incident.overdue or state.paused)
    ]
    return min(times, default=None)


def concerned(state: State, assembly: str) -> bool:
    """Tell whether an incident is open that a guest, or something in it, is part of."""
    return any(_covers(scope, assembly) or _covers(assembly, scope) for scope in state.memory.incidents)


# --- what belongs to which incident


def _take_event(before: State, outcome: Outcome, event: Event) -> None:
    subject = "/".join(part for part in (event.assembly, event.resource) if part)
    failed = event.state == "failed" and event.type in ("resource.state", "assembly.state", "isolation")
    alarm = event.data.get("signal") == "alarm"
    if failed or alarm or (event.type, event.state) in _NO_FAILURE_YET:
        _note(before, outcome, subject, event.reason, str(event.data.get("signal", "")), 1 if failed or alarm else 0)


def _take_rule(before: State, outcome: Outcome, rule: Rule) -> None:
    subject = rule.subject.removesuffix("!configure")
    match rule.rule:
        case "PROBE_FAILED":
            _note(before, outcome, subject, rule.text.partition(":")[0], "request", 1)
        case "RESTART_ASSEMBLY":
            _widen(outcome, subject, "")
        case "ESCALATE_TO_ASSEMBLY":
            assembly = subject.partition("/")[0]
            _widen(outcome, assembly, f"guest {assembly}")
        case "ESCALATE_TO_DEPLOYABLE":
            _widen(outcome, "", "deployable")
        case "RELOCATE":
            _widen(outcome, "", "another place")


def _note(before: State, outcome: Outcome, subject: str, cause: str, signal: str, failures: int) -> None:
    """Count failures of a subject in the incident that covers it; begin one where none does."""
    incidents = outcome.state.memory.incidents
    scope = next((s for s in incidents if _covers(s, subject)), None)
    if scope is None:
        if before.blocked or before.memory.gave_up or any(_covers(s, subject) for s in before.memory.unrecoverable):
            return  # its outcome was told, and only an operator makes it go on
        begun = Incident(subject=subject, cause=cause, signal=signal, began=outcome.now)
        outcome.memory(incidents={**incidents, subject: begun})
        _widen(outcome, subject, "")
        scope, incidents = subject, outcome.state.memory.incidents
    incident = incidents[scope]
    grown = replace(incident, failures=incident.failures + failures, well_since=0.0)
    outcome.memory(incidents={**incidents, scope: grown})


def _widen(outcome: Outcome, scope: str, escalated: str) -> None:
    """Make one incident of all within a scope, unless a wider one covers it; nothing where there is none."""
    incidents = outcome.state.memory.incidents
    scope = next((s for s in incidents if _covers(s, scope)), scope)
    if not any(_covers(scope, other) for other in incidents):
        return
    incident = _widened(outcome, scope)
    if escalated and escalated not in incident.escalated:
        incident = replace(incident, escalated=(*incident.escalated, escalated), well_since=0.0)
    kept = {key: value for key, value in incidents.items() if not _covers(scope, key)}
    outcome.memory(incidents={**kept, scope: incident})


def _widened(outcome: Outcome, scope: str) -> Incident:
    """Return the oldest incident within a scope, with the failures and escalations of all of them."""
    within = [one for key, one in outcome.state.memory.incidents.items() if _covers(scope, key)]
    within.sort(key=lambda one: one.began)
    return replace(
        within[0],
        failures=sum(one.failures for one in within),
        escalated=tuple(dict.fromkeys(word for one in within for word in one.escalated)),
        overdue=any(one.overdue for one in within),
        well_since=0.0 if len(within) > 1 else within[0].well_since,
    )


def _covers(scope: str, subject: str) -> bool:
    return not scope or scope == subject or subject.startswith(scope + "/")


# --- the end


def _look(outcome: Outcome) -> None:
    """See what runs again; tell the first incident that is over, or overdue."""
    for scope, incident in outcome.state.memory.incidents.items():
        state, now = outcome.state, outcome.now
        if not _wanted(state, scope):
            _tell(outcome, incident, scope, "withdrawn", "it is stopped, as asked")
            return
        well = _well(state, scope)
        if well is not None and well is not bool(incident.well_since):
            incident = replace(incident, well_since=now if well else 0.0)
            outcome.memory(incidents={**state.memory.incidents, scope: incident})
        if well and now - incident.well_since >= _settle(state, scope):
            _tell(outcome, incident, scope, "recovered", "")
            return
        if not incident.well_since and now - incident.began >= OVERDUE and not (incident.overdue or state.paused):
            _tell(outcome, incident, scope, "unresolved", _what_it_waits_for(state, scope))
            return


def _tell(outcome: Outcome, incident: Incident, scope: str, how: str, detail: str) -> None:
    if how == "unresolved":
        left = {**outcome.state.memory.incidents, scope: replace(incident, overdue=True)}
    else:
        left = {key: one for key, one in outcome.state.memory.incidents.items() if not _covers(scope, key)}
    outcome.memory(incidents=left)
    lasted = max(0.0, (incident.well_since if how == "recovered" else outcome.now) - incident.began)
    # The first failure needs no try before it; of what recovered the last try was a good one.
    tries = incident.failures if how == "recovered" else max(0, incident.failures - 1)
    outcome.tell(
        "incident", incident.subject, how, _sentence(outcome.state, incident, how, detail, lasted, tries),
        severity=_SEVERITIES[how], incident=incident.identity(outcome.state.deployable.name), outcome=how,
        cause=incident.cause, detail=detail, signal=incident.signal, failures=incident.failures, tries=tries,
        seconds=round(lasted, 3), began=incident.began, escalated=list(incident.escalated),
    )  # fmt: skip


def _sentence(state: State, incident: Incident, how: str, detail: str, lasted: float, tries: int) -> str:
    name = state.deployable.name
    text = f"{incident.subject or name}: {incident.cause}; "
    after = f"after {lasted:.1f} s and {tries} {'try' if tries == 1 else 'tries'}"
    escalated = f", escalated to {', '.join(incident.escalated)}" if incident.escalated else ""
    match how:
        case "recovered":
            return f"{text}recovered {after}{escalated}"
        case "gave-up" | "blocked":
            word = "gave up" if how == "gave-up" else "blocked"
            why = f": {detail}" if detail != incident.cause else ""
            return f"{text}{word} {after}{escalated}{why}; mend it, then `pcloud recover {name}`"
        case "withdrawn":
            return f"{text}{detail}, {after}{escalated}"
        case _:
            return f"{text}not over {after}{escalated}{f': {detail}' if detail else ''}"


def _assemblies(state: State, scope: str) -> tuple[Assembly, ...]:
    name = scope.partition("/")[0]
    return tuple(assembly for assembly in state.assemblies() if not name or assembly.name == name)


def _wanted(state: State, scope: str) -> bool:
    """Tell whether anything of a scope shall run, or something that shall not still has to be stopped."""
    assemblies = _assemblies(state, scope)
    resource = scope.partition("/")[2]
    if resource:
        assemblies = tuple(a for a in assemblies if any(r.name == resource for r in state.resources(a)))
    if state.target == "started" and any(not state.is_leaving(a.name) for a in assemblies):
        return True
    return any(not state.guest(a.name).probed or state.guest(a.name).power is not Power.OFF for a in assemblies)


def _well(state: State, scope: str) -> bool | None:
    """Tell whether all of a scope runs; None where that is not known yet, as after a restart of the engine."""
    if state.infrastructure_down and not scope:
        return False
    known = True
    for assembly in _assemblies(state, scope):
        guest = state.guest(assembly.name)
        if guest.fault is not Fault.NONE or guest.failed_at:
            return False
        if not guest.probed or (guest.power is Power.ON and guest.link is Link.NONE and not guest.failed_at):
            known = False
            continue
        if guest.power is not Power.ON or guest.link is not Link.CONNECTED:
            return False
        for resource in assembly.resources:
            subject = f"{assembly.name}/{resource.name}"
            if not _covers(scope, subject) or subject in state.memory.unrecoverable:
                continue
            health = state.service(subject).health
            if health is Health.UNKNOWN:
                known = False
            elif health is not Health.RUNNING:
                return False
    return True if known else None


def _settle(state: State, scope: str) -> float:
    """Return how long all of a scope must run: every monitor shall have looked once."""
    watched = [
        resource
        for assembly in _assemblies(state, scope)
        for resource in assembly.resources
        if _covers(scope, f"{assembly.name}/{resource.name}")
    ]
    settle = max((SETTLE, *(resource.monitor_interval for resource in watched)))
    return min(LONGEST_SETTLE, settle) + max((resource.monitor_start_delay for resource in watched), default=0.0)


def _what_it_waits_for(state: State, scope: str) -> str:
    guest = state.guest(scope.partition("/")[0]) if scope else None
    if state.infrastructure_down:
        return f"the infrastructure does not answer: {state.infrastructure_down}"
    if guest is not None and guest.link is Link.LOST:
        return guest.reason or "its transport is silent"
    return ""
