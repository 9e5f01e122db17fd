"""From one state and one observation to the next state: the engine's memory of what happened.

`fold` is the only place where a `State` changes. It returns the next state, the events that tell people, the rules it
applied (for `explain`), and whether a new decision is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from pcloud.environment.infrastructure import GuestInfo, GuestState, Vitality
from pcloud.events.event import Severity
from pcloud.model.deployable import Resource
from pcloud.policy import change, escalation, failures
from pcloud.policy.definition import configure_digest, service_digest
from pcloud.policy.observation import (
    Blocked,
    Configured,
    GuestActed,
    GuestSeen,
    InfrastructureState,
    LinkLost,
    LinkRestored,
    Observation,
    Operated,
    Recover,
    Restart,
    SecondOpinion,
    Tick,
)
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Fault, Health, Link, Power, Service, State

UNRECOVERABLE = {
    2: "its parameters are not valid",
    3: "its agent does not implement the action",
    4: "its agent has not enough privileges",
    5: "it is not installed",
    6: "it is not configured",
}
"""OCF exit codes of a start or a probe that trying again can not mend."""


NOT_INSTALLED = 5


def fold(state: State, observation: Observation, now: float) -> Outcome:
    """Return what follows from an observation at `now` (wall-clock seconds)."""
    outcome = Outcome(state, now)
    _HANDLERS[type(observation)](outcome, observation)
    return outcome


# --- what the user wants


def _configured(outcome: Outcome, seen: Configured) -> None:
    outcome.state = change.configure(outcome.state, seen)
    outcome.decide = True


def _recover(outcome: Outcome, seen: Recover) -> None:
    memory = outcome.state.memory
    known = {*memory.failures, *memory.backoff, *memory.unrecoverable, ""}
    prefix = seen.subject
    subjects = {s for s in known if not prefix or s == prefix or s.startswith(prefix + "/")}
    if prefix:
        subjects.add("")
    outcome.state = replace(
        outcome.state, memory=replace(escalation.forget(memory, *subjects), excluded={}), blocked=""
    )
    outcome.apply("RECOVER", prefix, f"{seen.why}: counters, waits and verdicts are forgotten")
    outcome.tell("recover", prefix, "", seen.why, severity=Severity.NOTICE)


def _restart(outcome: Outcome, seen: Restart) -> None:
    if all(seen.assembly != assembly.name for assembly in outcome.state.deployable.assemblies):
        return
    outcome.tell(
        "escalation", seen.assembly, "failed", f"{seen.why}; the guest is restarted",
        severity=Severity.WARNING, level="assembly", signal="alarm",
    )  # fmt: skip
    failures.guest_failed(outcome, seen.assembly, Fault.ESCALATED, seen.why, signal="alarm")


# --- guests


def _guest_seen(outcome: Outcome, seen: GuestSeen) -> None:
    name, info = seen.assembly, seen.info
    if info.state is GuestState.UNKNOWN:
        return
    guest = outcome.state.guest(name)
    if info.state is GuestState.RUNNING:
        if guest.power is Power.ON and guest.boot == info.boot_id and guest.address == info.address:
            outcome.guest(name, probed=True)
            return
        restarted = guest.boot not in ("", info.boot_id) and guest.power is Power.ON
        outcome.guest(name, **_known_from(info), power=Power.ON, probed=True, since=guest.since or outcome.now)
        if restarted and guest.fault is Fault.NONE:
            failures.forget_services(outcome, name, Health.UNKNOWN)
            outcome.apply(
                "GUEST_RESTARTED", name, "the guest was restarted behind our back: its services are probed anew"
            )
            outcome.guest(name, link=Link.NONE)
        outcome.decide = True
        return
    died = guest.power is Power.ON and guest.fault is not Fault.GONE
    outcome.guest(name, probed=True)
    if died:
        reason = seen.reason or "it is not running any more"
        outcome.tell(
            "assembly.state",
            name,
            "failed",
            f"the guest died: {reason}",
            severity=Severity.WARNING,
            signal="infrastructure",
        )
        failures.guest_failed(outcome, name, Fault.GONE, reason, signal="infrastructure")
    elif guest.power is not Power.ON:
        # It is seen to be gone, which is all that its isolation asks for.
        outcome.guest(name, power=Power.OFF, link=Link.NONE, address="", fault=Fault.NONE)
        _fault_is_over(outcome, name)
    outcome.decide = True


def _known_from(info: GuestInfo) -> dict[str, Any]:
    return {"address": info.address, "boot": info.boot_id, "place": info.place, "digest": info.digest}


def _guest_acted(outcome: Outcome, seen: GuestActed) -> None:
    name = seen.assembly
    if seen.unavailable:
        _infrastructure(outcome, InfrastructureState(error=seen.error))
        return
    if seen.error:
        _guest_action_failed(outcome, seen)
        return
    now = outcome.now
    match seen.action:
        case "start" if seen.info is not None:
            failures.forget_services(outcome, name, Health.UNKNOWN)
            changes = _known_from(seen.info)
            outcome.guest(name, **changes, power=Power.ON, link=Link.NONE, fault=Fault.NONE, since=now, probed=True)
            _fault_is_over(outcome, name)
            outcome.decide = True
        case "connect":
            failures.forget_services(outcome, name, Health.UNKNOWN)
            outcome.guest(name, link=Link.CONNECTED, silent_since=0.0)
            guest = outcome.state.guest(name)
            data: dict[str, Any] = {"address": guest.address}
            if guest.failed_at:
                data |= {"recovered": round(now - guest.failed_at, 3), "signal": guest.signal, "cause": guest.reason}
            reason = f"the guest answers at {guest.address}"
            if any(a.name == name and a.transport == "none" for a in outcome.state.assemblies()):
                reason = "the infrastructure says that the guest runs; nothing else is watched (transport none)"
            outcome.tell("assembly.state", name, "running", reason, **data)
            outcome.guest(name, failed_at=0.0, reason="", signal="")
            # Only now may the scheduler know what runs inside: it probes before it starts anything.
            outcome.decide = True
        case "stop":
            failures.forget_services(outcome, name, Health.UNKNOWN)
            guest = outcome.state.guest(name)
            outcome.guest(
                name,
                power=Power.OFF,
                link=Link.NONE,
                fault=Fault.NONE,
                address="",
                boot="",
                silent_since=0.0,
                since=now,
            )
            _fault_is_over(outcome, name)
            if guest.fault is Fault.NONE:
                outcome.tell("assembly.state", name, "stopped", "the guest is shut down")
            else:
                outcome.tell("isolation", name, "stopped", "the guest is seen to be gone", cause=guest.reason)
        case "disconnect":
            outcome.guest(name, link=Link.NONE)
        case "delete":
            outcome.state = change.departed(outcome.state, name)
            outcome.tell("assembly.state", name, "stopped", "the guest and all of it is removed")
        case _:
            raise AssertionError(f"no action {seen.action} on a guest is known")


def _fault_is_over(outcome: Outcome, name: str) -> None:
    faults = {key: value for key, value in outcome.state.memory.faults.items() if key != name}
    outcome.memory(faults=faults)


def _guest_action_failed(outcome: Outcome, seen: GuestActed) -> None:
    name, what = seen.assembly, f"{seen.action} of the guest {seen.assembly} failed: {seen.error}"
    outcome.tell("assembly.state", name, "failed", what, severity=Severity.WARNING, action=seen.action)
    match seen.action:
        case "start":
            # It may run all the same (no address, say): the infrastructure is asked before anything is concluded.
            failed_at = outcome.state.guest(name).failed_at or outcome.now
            tried = outcome.state.next_place(name)
            outcome.guest(name, power=Power.UNKNOWN, link=Link.NONE, probed=False, failed_at=failed_at, place=tried)
            if seen.permanent:
                failures.unrecoverable(outcome, name, what)
            else:
                failures.guest_not_started(outcome, name, what, took=seen.seconds)
        case "connect":
            failures.guest_not_reached(outcome, name, what, took=seen.seconds)
        case _:
            # A guest that can not be stopped: isolation is tried again until it is confirmed.
            failures.must_wait(outcome, name, what)


# --- the transport


def _link_lost(outcome: Outcome, seen: LinkLost) -> None:
    name = seen.assembly
    guest = outcome.state.guest(name)
    if guest.link is not Link.CONNECTED:
        return
    outcome.guest(name, link=Link.LOST, silent_since=outcome.now)
    if guest.fault is Fault.NONE:
        outcome.tell(
            "assembly.state", name, "suspect", f"the guest fell silent: {seen.reason}", severity=Severity.WARNING
        )
    if outcome.state.target == "stopped" or outcome.state.is_leaving(name):
        _unreachable_while_stopping(outcome, name)
    outcome.apply(
        "SUSPECT", name, "one signal alone (a silent transport) does not make a guest dead: ask for a second one"
    )


def _unreachable_while_stopping(outcome: Outcome, name: str) -> None:
    failures.mark(outcome, name, Fault.UNREACHABLE, "it can not be reached and shall be stopped", signal="transport")


def _link_restored(outcome: Outcome, seen: LinkRestored) -> None:
    name = seen.assembly
    guest = outcome.state.guest(name)
    if guest.link is not Link.LOST:
        return
    silent = outcome.now - guest.silent_since
    failures.forget_services(outcome, name, Health.UNKNOWN)
    outcome.guest(name, link=Link.CONNECTED, silent_since=0.0)
    if guest.fault is Fault.NONE:
        reason = f"the guest answers again after {silent:.1f} s of silence; its services are probed"
        outcome.tell("assembly.state", name, "running", reason)
    outcome.apply("REGATHER", name, "after a silence what runs in the guest is asked, not assumed")


def _second_opinion(outcome: Outcome, seen: SecondOpinion) -> None:
    name = seen.assembly
    guest = outcome.state.guest(name)
    if guest.link is not Link.LOST or guest.fault is not Fault.NONE:
        return
    silent = outcome.now - guest.silent_since
    match seen.vitality:
        case Vitality.HUNG | Vitality.GONE:
            fault = Fault.HUNG if seen.vitality is Vitality.HUNG else Fault.GONE
            why = f"its transport is silent for {silent:.1f} s and the infrastructure says it is {seen.vitality.value}"
            outcome.tell(
                "isolation", name, "failed", f"{why}: it is isolated", severity=Severity.WARNING, signal="second-signal"
            )
            outcome.apply("ISOLATE", name, f"two independent signals agree: {why}")
            failures.guest_failed(outcome, name, fault, why, signal="transport+infrastructure")
        case Vitality.ALIVE | Vitality.UNKNOWN:
            word = "is alive" if seen.vitality is Vitality.ALIVE else "gives no second signal"
            if f"({word})" not in guest.reason:
                outcome.guest(name, reason=f"suspect ({word})")
                outcome.apply(
                    "WAIT_SUSPECT", name, f"the transport is silent but the guest {word}: keep trying to reach it"
                )


# --- services


def _operated(outcome: Outcome, seen: Operated) -> None:
    if seen.not_connected:
        return
    subject = seen.subject
    resource = _resource(outcome.state, subject)
    if resource is None:
        if seen.action == "start" and seen.definition is not None:
            # It was known to be stopped when it was removed, but its start was under way; a failed one may have left
            # something running too.
            outcome.state = change.outlived(outcome.state, subject, seen.digest, seen.definition)
            outcome.decide = True
        return
    service = outcome.state.service(subject)
    failed = bool(seen.error) or seen.rc != 0
    match seen.action:
        case "cancel":
            if service.monitored == seen.interval:
                outcome.service(subject, monitored=0.0)
        case "monitor" if seen.interval:
            _monitored(outcome, seen, service, resource, failed=failed)
        case "monitor":
            _probed(outcome, seen, resource)
        case "start" if not failed:
            _started(outcome, seen, service)
        case "start":
            what = f"start failed: {_outcome_of(seen)}"
            _tell_failure(outcome, seen, what)
            outcome.service(subject, health=Health.START_FAILED, rc=seen.rc or 1, reason=what, monitored=0.0)
            _note_failure(outcome, subject, seen)
            if not seen.error and seen.rc in UNRECOVERABLE:
                failures.unrecoverable(outcome, subject, f"{UNRECOVERABLE[seen.rc]}: {_outcome_of(seen)}")
            else:
                failures.must_wait(outcome, subject, what, took=seen.seconds)
                since = outcome.state.memory.backoff[subject.removesuffix("!configure")].began
                failures.service_failed(outcome, subject, resource.escalation, what, since=since)
        case "stop" if not failed or (seen.rc == NOT_INSTALLED and not seen.error):
            # What is not installed does not run, as Pacemaker sees it too.
            outcome.service(subject, health=Health.STOPPED, rc=0, monitored=0.0, since=outcome.now)
            outcome.state = change.stopped(outcome.state, subject)
            if not service.failed_at and not subject.endswith("!configure"):
                outcome.tell("resource.state", subject, "stopped", "stopped in order")
        case "stop":
            what = f"stop of {subject} failed: {_outcome_of(seen)}"
            _tell_failure(outcome, seen, what)
            assembly = subject.partition("/")[0]
            outcome.apply("ISOLATE", assembly, f"{what}: only the end of its guest makes sure that it is stopped")
            failures.guest_failed(outcome, assembly, Fault.UNSTOPPABLE, what, signal=seen.signal)
        case _:
            raise AssertionError(f"no operation {seen.action} is known")


def _started(outcome: Outcome, seen: Operated, service: Service) -> None:
    subject, now = seen.subject, outcome.now
    outcome.service(
        subject, health=Health.RUNNING, rc=0, digest=seen.digest, definition=seen.definition, since=now, monitored=0.0
    )
    outcome.memory(started={**outcome.state.memory.started, subject: (seen.digest, seen.definition)})
    if not _is_current(outcome.state, subject, seen.digest):
        outcome.decide = True  # the definition, or an address, changed while it was being started
    if subject.endswith("!configure"):
        return
    data: dict[str, Any] = {"seconds": round(seen.seconds, 3)}
    reason = "started"
    if service.failed_at:
        data |= {"recovered": round(now - service.failed_at, 3), "signal": service.signal, "cause": service.reason}
        reason = f"runs again {now - service.failed_at:.2f} s after its failure was seen"
    outcome.service(subject, failed_at=0.0, reason="", signal="")
    outcome.tell("resource.state", subject, "running", reason, **data)


def _is_current(state: State, subject: str, digest: str) -> bool:
    """Tell whether a service was started with what it shall be started with now."""
    resource = _resource(state, subject)
    if resource is None:
        return False
    wanted = (configure_digest if subject.endswith("!configure") else service_digest)(state, resource)
    return not digest or wanted == digest


def _probed(outcome: Outcome, seen: Operated, resource: Resource) -> None:
    subject = seen.subject
    if not seen.error and seen.rc == 0:
        digest, definition = outcome.state.memory.started.get(subject, ("", resource))
        service = outcome.state.service(subject)
        outcome.service(
            subject, health=Health.RUNNING, rc=0, digest=digest or seen.digest, definition=definition or resource,
            since=service.since or outcome.now, monitored=0.0, failed_at=0.0, reason="",
        )  # fmt: skip
        outcome.decide = True
        if subject in outcome.state.memory.unrecoverable:  # somebody mended and started it: it is not stopped for that
            verdicts = {key: why for key, why in outcome.state.memory.unrecoverable.items() if key != subject}
            outcome.memory(unrecoverable=verdicts)
        if not subject.endswith("!configure"):
            outcome.tell("resource.state", subject, "running", "found running")
    elif not seen.error and seen.rc in (5, 7):
        # A probe of something that is not installed finds it not running; its start tells the rest.
        outcome.service(subject, health=Health.STOPPED, rc=0, monitored=0.0)
        outcome.state = change.stopped(outcome.state, subject)
    else:
        what = f"probe found it failed: {_outcome_of(seen)}"
        outcome.service(subject, health=Health.FAILED, rc=seen.rc or 1, reason=what, monitored=0.0)
        _note_failure(outcome, subject, seen)
        outcome.apply("PROBE_FAILED", subject, f"{what}: stop and start it")


def _monitored(outcome: Outcome, seen: Operated, service: Service, resource: Resource, *, failed: bool) -> None:
    subject = seen.subject
    if seen.definition is not None:
        outcome.service(subject, monitor_timeout=seen.definition.monitor_timeout)
    if not failed:
        outcome.service(subject, monitored=seen.interval)
        if service.health is Health.FAILED:
            outcome.service(subject, health=Health.RUNNING, rc=0, reason="", failed_at=0.0)
            outcome.tell("resource.state", subject, "running", "its monitor succeeds again by itself")
            outcome.decide = True
        return
    if service.health is not Health.RUNNING:
        return
    what = "its process exited" if seen.signal == "exit" else f"monitor failed: {_outcome_of(seen)}"
    outcome.service(
        subject, health=Health.FAILED, rc=seen.rc or 1, reason=what, signal=seen.signal, monitored=seen.interval
    )
    _note_failure(outcome, subject, seen)
    _tell_failure(outcome, seen, what)
    failures.service_failed(outcome, subject, resource.escalation, what)


def _note_failure(outcome: Outcome, subject: str, seen: Operated) -> None:
    service = outcome.state.service(subject)
    outcome.service(subject, failed_at=service.failed_at or outcome.now, signal=seen.signal or service.signal)


def _tell_failure(outcome: Outcome, seen: Operated, what: str) -> None:
    outcome.tell(
        "resource.state", seen.subject, "failed", what, severity=Severity.WARNING,
        action=seen.action, rc=seen.rc, signal=seen.signal,
    )  # fmt: skip


def _outcome_of(seen: Operated) -> str:
    text = seen.error or f"exit code {seen.rc}"
    return f"{text} ({seen.reason})" if seen.reason else text


def _resource(state: State, subject: str) -> Resource | None:
    assembly, _, name = subject.removesuffix("!configure").partition("/")
    for candidate in state.assemblies():
        if candidate.name == assembly:
            return next((r for r in state.resources(candidate) if r.name == name), None)
    return None


# --- everything else


def _infrastructure(outcome: Outcome, seen: InfrastructureState) -> None:
    before = outcome.state.infrastructure_down
    outcome.state = replace(outcome.state, infrastructure_down=seen.error, places=seen.places or outcome.state.places)
    if seen.error and not before:
        outcome.apply(
            "INFRASTRUCTURE_DOWN", "", "nothing is concluded about guests while their infrastructure is silent"
        )
        reason = f"the infrastructure {outcome.state.deployable.infrastructure} does not answer: {seen.error}"
        outcome.tell("infrastructure", "", "unknown", reason, severity=Severity.WARNING)
    elif before and not seen.error:
        outcome.apply("INFRASTRUCTURE_BACK", "", "the infrastructure answers again: look at every guest and carry on")
        outcome.tell("infrastructure", "", "starting", "the infrastructure answers again", severity=Severity.NOTICE)


def _blocked(outcome: Outcome, seen: Blocked) -> None:
    if not outcome.state.blocked:
        outcome.tell("deployable.state", "", "failed", f"blocked: {seen.reason}", severity=Severity.CRITICAL)
    outcome.state = replace(outcome.state, blocked=seen.reason)


def _tick(outcome: Outcome, seen: Tick) -> None:
    outcome.decide = True


_HANDLERS: dict[type[Any], Callable[[Outcome, Any], None]] = {
    Configured: _configured,
    Recover: _recover,
    Restart: _restart,
    GuestSeen: _guest_seen,
    GuestActed: _guest_acted,
    LinkLost: _link_lost,
    LinkRestored: _link_restored,
    SecondOpinion: _second_opinion,
    Operated: _operated,
    InfrastructureState: _infrastructure,
    Blocked: _blocked,
    Tick: _tick,
}
