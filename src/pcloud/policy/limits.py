"""Memory and cores of guests that run: whose are to be compared to their definition, and what follows from that.

Level-triggered: what a guest was last known to have is compared to what it shall have, and a guest that nothing is known of
(after its start, or when an engine takes over) is asked. What it can not have is told once, and tried again later: what it
uses may have become less. Pure functions over `State`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from pcloud.environment.infrastructure import Capability
from pcloud.events.event import Severity
from pcloud.model.deployable import Assembly
from pcloud.policy.observation import Configured, GuestBounded, Resizing
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Fault, Guest, Power, State

RETRY = 60.0
"""Seconds after which limits that a guest could not be given are tried again."""
_WHEN = {
    Resizing.RESTART: "from the guest's next start on",
    Resizing.ANEW: "when the guest is made anew",
}


def resizing(capabilities: AbstractSet[Capability]) -> Resizing:
    """Return when a change of memory and cores takes effect where an infrastructure has these capabilities."""
    if Capability.LIMITS in capabilities:
        return Resizing.LIVE
    return Resizing.RESTART if Capability.RESIZE in capabilities else Resizing.ANEW


def wanted(assembly: Assembly) -> tuple[int, float]:
    """Return the MiB and cores that a guest shall have; 0 leaves one to the infrastructure."""
    return assembly.memory, assembly.cpus


def due(state: State, now: float) -> tuple[Assembly, ...]:
    """Return the assemblies whose guests' limits are to be compared to their definition's now."""
    if not state.live_limits or state.infrastructure_down or state.paused or state.target != "started":
        return ()
    return tuple(each for each in state.deployable.assemblies if _differs(state.guest(each.name), each, now))


def next_wake(state: State, now: float) -> float | None:
    """Return when limits that could not be given are tried again; None when there are none."""
    times = [guest.retry for guest in state.guests.values() if guest.retry > now]
    return min(times, default=None)


def _differs(guest: Guest, assembly: Assembly, now: float) -> bool:
    if guest.power is not Power.ON or guest.fault is not Fault.NONE or guest.bounds == wanted(assembly):
        return False
    return guest.refused != wanted(assembly) or guest.retry <= now


def configured(outcome: Outcome, seen: Configured) -> None:
    """Tell when a change takes effect that a guest can not have while it runs; called before the change is folded."""
    if seen.resizing is Resizing.LIVE:
        return
    for assembly in seen.deployable.assemblies:
        before = next((a for a in outcome.state.deployable.assemblies if a.name == assembly.name), None)
        on = outcome.state.guest(assembly.name).power is Power.ON
        if before is not None and on and wanted(before) != wanted(assembly):
            when = _WHEN[seen.resizing]
            reason = (
                f"other memory or processors take effect {when}: {seen.deployable.infrastructure} can not change them"
            )
            outcome.tell(
                "assembly.limits", assembly.name, "running", f"{reason} while it runs", severity=Severity.NOTICE
            )


def bounded(outcome: Outcome, seen: GuestBounded) -> None:
    """A guest's limits were compared to those of its definition."""
    guest = outcome.state.guest(seen.assembly)
    if guest.power is not Power.ON:
        return  # it ended meanwhile: its next start gives it what it shall have
    if seen.error:
        if guest.refused != seen.bounds:
            reason = f"its limits stay as they were: {seen.error}"
            outcome.tell("assembly.limits", seen.assembly, "running", reason, severity=Severity.WARNING)
        outcome.guest(seen.assembly, bounds=None, refused=seen.bounds, retry=outcome.now + RETRY)
        return
    outcome.guest(seen.assembly, bounds=seen.bounds, refused=None, retry=0.0)
    told = [f"it has {' and '.join(seen.changed)} now, without a restart"] if seen.changed else []
    if seen.later:
        told.append(f"from its next start on it has {' and '.join(seen.later)}")
    if told:
        memory, cpus = seen.bounds
        outcome.tell("assembly.limits", seen.assembly, "running", "; ".join(told), memory=memory, cpus=cpus)
