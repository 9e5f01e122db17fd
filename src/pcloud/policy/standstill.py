"""What is *not* being done now, and why: the answer to "why does nothing happen?". Pure.

Read from the same state and the same rules as decisions; no decision need ever have been made for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from pcloud.model.deployable import Assembly, Resource
from pcloud.model.status import Standstill
from pcloud.policy.reasons import ordered_after
from pcloud.policy.state import ISOLATING, Fault, Health, Link, Power, State, configure_step


def standstill(state: State, now: float, braked: AbstractSet[str] = frozenset()) -> tuple[Standstill, ...]:
    """Return what stands still at `now` (wall-clock seconds), the whole first, then part by part; nothing when all that
    shall be done is done or under way. `braked`: assemblies whose start waits for the storm brake."""
    found = list(_whole(state))
    for assembly in state.assemblies():
        found += _guest(state, assembly, now, waits_for_brake=assembly.name in braked)
        if state.target == "started" and not state.is_leaving(assembly.name):
            for resource in assembly.resources:
                found += _service(state, assembly, resource, now)
    return tuple(found)


def _whole(state: State) -> Iterator[Standstill]:
    name, memory = state.deployable.name, state.memory
    if memory.gave_up:
        yield Standstill(
            rule="GAVE_UP", text=f"nothing is recovered: it was given up: {memory.gave_up}",
            next=f"mend the cause, then `pcloud recover {name}`",
        )  # fmt: skip
    if state.blocked:
        yield Standstill(
            rule="BLOCKED", text=f"nothing at all is done: no decision can be made: {state.blocked}",
            next=f"`pcloud recover {name}` has it tried again",
        )  # fmt: skip
    if state.paused:
        yield Standstill(
            rule="PAUSED", text="nothing is started, stopped or recovered: it is paused", next=f"`pcloud resume {name}`"
        )
    if state.target == "stopped":
        yield Standstill(rule="STOPPED", text="nothing is started: it shall be stopped", next=f"`pcloud start {name}`")
    if state.infrastructure_down:
        yield Standstill(
            rule="INFRASTRUCTURE_DOWN",
            text=f"nothing is done to guests: the infrastructure {state.deployable.infrastructure} does not answer: "
            f"{state.infrastructure_down}",
            next="it is asked again every few seconds, and all goes on by itself when it answers",
        )  # fmt: skip


def _guest(state: State, assembly: Assembly, now: float, *, waits_for_brake: bool) -> Iterator[Standstill]:
    name, guest = assembly.name, state.guest(assembly.name)
    if why := state.memory.unrecoverable.get(name):
        yield _unrecoverable(state, name, why)
    if waits_for_brake:
        yield Standstill(
            subject=name, rule="STORM_BRAKE",
            text="the guest is not started yet: as many as may start at once on this infrastructure are starting",
            next="it comes by itself, the more important ones first; `engine.starts_in_flight` is the limit",
        )  # fmt: skip
    if guest.link is Link.LOST and guest.fault is Fault.NONE and guest.power is Power.ON:
        yield Standstill(
            subject=name, rule="SECOND_SIGNAL", since=guest.silent_since,
            text=f"the guest is not restarted: it is silent for {max(0.0, now - guest.silent_since):.0f} s, which is one "
            f"signal; a second, independent one has to say that it is dead ({guest.reason or 'it is asked for'})",
            next="it is tried to reach it all the time; whoever knows that it is dead may destroy it",
        )  # fmt: skip
    backoff = state.memory.backoff.get(name)
    isolating = guest.fault in ISOLATING and guest.power is Power.ON
    if isolating:
        yield Standstill(
            subject=name, rule="ISOLATION",
            text=f"no replacement is started: the guest is not seen to be gone yet ({guest.reason})",
            next="it is destroyed, again and again, until it is seen to be gone",
        )  # fmt: skip
    if backoff is not None and backoff.until > now and (isolating or guest.power is not Power.ON):
        yield _backoff(name, "guest", backoff.attempts, backoff.until, now)


def _service(state: State, assembly: Assembly, resource: Resource, now: float) -> Iterator[Standstill]:
    subject, guest = f"{assembly.name}/{resource.name}", state.guest(assembly.name)
    health = state.service(subject).health
    if why := state.memory.unrecoverable.get(subject):
        yield _unrecoverable(state, subject, why)
        return
    if health is Health.RUNNING:
        return
    backoff = state.memory.backoff.get(subject)
    if backoff is not None and backoff.until > now:
        yield _backoff(subject, "service", backoff.attempts, backoff.until, now)
    if guest.power is not Power.ON or guest.link is not Link.CONNECTED:
        yield Standstill(
            subject=subject, rule="GUEST", text=f"the service is not started: its guest {assembly.name} does not answer"
        )
        return
    for other in ordered_after(state, assembly.name, resource.name):
        if "/" in other and state.service(other).health is not Health.RUNNING:
            yield Standstill(
                subject=subject, rule="ORDER", text=f"the service is not started: {other}, which it is ordered after, does "
                "not run",
            )  # fmt: skip
            return
    step = state.service(configure_step(subject))
    if step.health is Health.START_FAILED:
        yield Standstill(
            subject=subject,
            rule="CONFIGURE",
            text=f"the service is not started: its configuration failed: {step.reason}",
        )


def _backoff(subject: str, what: str, attempts: int, until: float, now: float) -> Standstill:
    return Standstill(
        subject=subject, rule="BACK_OFF", until=until,
        text=f"the {what} is not tried yet: attempt {attempts} failed, the next one comes in {until - now:.0f} s",
        next="it is tried again by itself",
    )  # fmt: skip


def _unrecoverable(state: State, subject: str, why: str) -> Standstill:
    assembly, _, resource = subject.partition("/")
    part = f" --assembly {assembly}" + (f" --resource {resource}" if resource else "")
    return Standstill(
        subject=subject, rule="UNRECOVERABLE", text=f"it is not tried again, which can not help: {why}",
        next=f"mend it, then `pcloud recover {state.deployable.name}{part}`",
    )  # fmt: skip
