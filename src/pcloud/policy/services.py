"""The part of `fold` about services and their configure steps: what the results of operations on them change."""

from __future__ import annotations

from typing import Any

from pcloud.events.event import Severity
from pcloud.model.deployable import Resource
from pcloud.policy import change, failures, service_limits
from pcloud.policy.definition import configure_digest, service_digest
from pcloud.policy.observation import Operated
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Fault, Health, Service, State

UNRECOVERABLE = {
    2: "its parameters are not valid",
    3: "its agent does not implement the action",
    4: "its agent has not enough privileges",
    5: "it is not installed",
    6: "it is not configured",
}
"""OCF exit codes of a start or a probe that trying again can not mend."""
NOT_INSTALLED = 5
"""OCF exit code."""


def operated(outcome: Outcome, seen: Operated) -> None:
    """An operation on a service or its configure step ended, or its recurring monitor tells something new."""
    subject = seen.subject
    resource = _resource(outcome.state, subject)
    if resource is None:
        if seen.action == "start" and seen.definition is not None:
            # It was known to be stopped when it was removed, but its start was under way; a failed one may have left
            # something running too, and one whose connection was lost may go on.
            outcome.state = change.outlived(outcome.state, subject, seen.digest, seen.definition)
            outcome.decide = True
        return
    service = outcome.state.service(subject)
    if seen.action == "limit":
        service_limits.limited(outcome, seen, resource)
        return
    if seen.not_connected:
        if seen.action == "start" and service.health is Health.STOPPED:
            # It may have reached the guest, and go on there: what was known is known no more.
            outcome.service(subject, health=Health.UNKNOWN)
        return
    failed = bool(seen.error) or seen.rc != 0
    match seen.action:
        case "watch":
            outcome.service(subject, monitored=seen.interval, monitor_timeout=resource.monitor_timeout)
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
            if seen.limits is not None:
                service_limits.given(outcome, subject, seen.limits)
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
        subject, health=Health.RUNNING, rc=0, digest=seen.digest, definition=seen.definition, since=now, monitored=0.0,
        limits=None, refused=None,
    )  # fmt: skip
    if seen.limits is not None:
        service_limits.given(outcome, subject, seen.limits)
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
