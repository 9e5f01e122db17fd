"""From one state and one observation to the next state: the engine's memory of what happened.

`fold` is the only way in which a `State` changes; what is about guests and services stands in `guests` and `services`. It
returns the next state, the events that tell people, the rules it applied (for `explain`), and whether a new decision is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from pcloud.events.event import Severity
from pcloud.policy import change, escalation, failures, guests, incidents, limits, placement, services
from pcloud.policy.observation import (
    Blocked,
    Configured,
    Elapsed,
    GuestActed,
    GuestBounded,
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
from pcloud.policy.state import Fault, State


def fold(state: State, observation: Observation, now: float) -> Outcome:
    """Return what follows from an observation at `now` (wall-clock seconds)."""
    outcome = Outcome(state, now)
    _HANDLERS[type(observation)](outcome, observation)
    outcome.state = placement.assigned(outcome.state)
    incidents.follow(state, outcome)
    failures.readmit(outcome)
    return outcome


# --- what the user wants


def _configured(outcome: Outcome, seen: Configured) -> None:
    limits.configured(outcome, seen)
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
        outcome.state, memory=replace(escalation.forget(memory, *subjects), excluded={}, excluded_at={}), blocked=""
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


# --- everything else


def _blocked(outcome: Outcome, seen: Blocked) -> None:
    if not outcome.state.blocked:
        reason = f"{seen.reason}; nothing is done until `pcloud recover {outcome.state.deployable.name}`"
        outcome.tell("deployable.state", "", "blocked", reason, severity=Severity.CRITICAL)
    outcome.state = replace(outcome.state, blocked=seen.reason)


def _tick(outcome: Outcome, seen: Tick) -> None:
    outcome.decide = True


_HANDLERS: dict[type[Any], Callable[[Outcome, Any], None]] = {
    Configured: _configured,
    Recover: _recover,
    Restart: _restart,
    GuestSeen: guests.guest_seen,
    GuestActed: guests.guest_acted,
    GuestBounded: guests.guest_bounded,
    LinkLost: guests.link_lost,
    LinkRestored: guests.link_restored,
    SecondOpinion: guests.second_opinion,
    Operated: services.operated,
    InfrastructureState: guests.infrastructure_state,
    Blocked: _blocked,
    Tick: _tick,
    Elapsed: lambda outcome, seen: None,
}
