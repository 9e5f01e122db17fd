"""The part of `fold` about guests: what is seen of them, of the way to them and of what they live on."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from pcloud.environment.infrastructure import GuestInfo, GuestState, Vitality
from pcloud.events.event import Severity
from pcloud.policy import change, failures, limits, placement
from pcloud.policy.observation import (
    GuestActed,
    GuestBounded,
    GuestSeen,
    InfrastructureState,
    LinkLost,
    LinkRestored,
    SecondOpinion,
)
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Fault, Health, Link, Power


def guest_seen(outcome: Outcome, seen: GuestSeen) -> None:
    """What the infrastructure says of a guest."""
    name, info = seen.assembly, seen.info
    if info.state is GuestState.UNKNOWN:
        return
    guest = outcome.state.guest(name)
    if info.state is GuestState.RUNNING:
        known = (guest.boot, guest.address, guest.place) == (info.boot_id, info.address, info.place or guest.place)
        if guest.power is Power.ON and known:
            outcome.guest(name, probed=True)
            return
        restarted = guest.boot not in ("", info.boot_id) and guest.power is Power.ON
        outcome.guest(
            name, **_known_from(outcome, info, name), power=Power.ON, probed=True, since=guest.since or outcome.now
        )
        failures.not_moved(outcome, name)
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
        outcome.guest(name, power=Power.OFF, link=Link.NONE, address="", fault=Fault.NONE, digest=info.digest)
        if info.place:  # its disk is there
            outcome.guest(name, place=info.place)
        _fault_is_over(outcome, name)
    outcome.decide = True


def _known_from(outcome: Outcome, info: GuestInfo, name: str) -> dict[str, Any]:
    """Return what is known of a guest that runs. One whose place is not told is where it was started."""
    place = info.place or placement.place_of(outcome.state, name)
    known = {"address": info.address, "boot": info.boot_id, "place": place, "digest": info.digest}
    return {**known, "bounds": None, "refused": None, "retry": 0.0}


def guest_bounded(outcome: Outcome, seen: GuestBounded) -> None:
    """A guest's limits were compared to those of its definition, or nobody could be asked."""
    if seen.unavailable:
        infrastructure_state(outcome, InfrastructureState(error=seen.error))
    else:
        limits.bounded(outcome, seen)


def guest_acted(outcome: Outcome, seen: GuestActed) -> None:
    """An action on a guest ended: `start`, `connect`, `stop`, `disconnect`, `delete`."""
    name = seen.assembly
    if seen.unavailable:
        infrastructure_state(outcome, InfrastructureState(error=seen.error))
        return
    if seen.error:
        _guest_action_failed(outcome, seen)
        return
    now = outcome.now
    match seen.action:
        case "start" if seen.info is not None:
            failures.forget_services(outcome, name, Health.UNKNOWN)
            changes = _known_from(outcome, seen.info, name)
            outcome.guest(name, **changes, power=Power.ON, link=Link.NONE, fault=Fault.NONE, since=now, probed=True)
            _fault_is_over(outcome, name)
            failures.not_moved(outcome, name)
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
            tried = placement.place_of(outcome.state, name)
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


def link_lost(outcome: Outcome, seen: LinkLost) -> None:
    """The way to a guest fell silent: it is suspect, no more."""
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


def link_restored(outcome: Outcome, seen: LinkRestored) -> None:
    """The way to a guest is there again."""
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


def second_opinion(outcome: Outcome, seen: SecondOpinion) -> None:
    """What the infrastructure says of a silent guest; only both together make a fault."""
    name = seen.assembly
    guest = outcome.state.guest(name)
    if guest.link is not Link.LOST or guest.fault is not Fault.NONE:
        return
    silent = outcome.now - guest.silent_since
    match seen.vitality:
        case Vitality.HUNG | Vitality.GONE:
            fault = Fault.HUNG if seen.vitality is Vitality.HUNG else Fault.GONE
            why = f"its transport is silent for {silent:.1f} s and the infrastructure says it is {seen.vitality.value}"
            if fault is Fault.GONE:  # its death was only seen from this side first
                kind, what = "assembly.state", f"the guest died: {why}"
            else:
                kind, what = "isolation", f"{why}: it is isolated"
            outcome.tell(kind, name, "failed", what, severity=Severity.WARNING, signal="second-signal")
            outcome.apply("ISOLATE", name, f"two independent signals agree: {why}")
            failures.guest_failed(outcome, name, fault, why, signal="transport+infrastructure")
        case Vitality.ALIVE | Vitality.UNKNOWN:
            word = "is alive" if seen.vitality is Vitality.ALIVE else "gives no second signal"
            if f"({word})" not in guest.reason:
                outcome.guest(name, reason=f"suspect ({word})")
                outcome.apply(
                    "WAIT_SUSPECT", name, f"the transport is silent but the guest {word}: keep trying to reach it"
                )


# --- the infrastructure


def infrastructure_state(outcome: Outcome, seen: InfrastructureState) -> None:
    """The infrastructure itself stopped answering, or answers again."""
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
