"""Events and decisions told to people: one line for an event, a timeline for `explain`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pcloud.client.records import Action, CloudEvent, Decision, Observation
from pcloud.model.status import Standstill
from pcloud.shell.text import clean, clock, duration, stamp

PREFIX = "org.pacemaker-cloud."


def event_type(event: CloudEvent) -> str:
    """The event's type without the part that all of ours share."""
    return event.type.removeprefix(PREFIX)


def event_line(event: CloudEvent, *, now: float) -> str:
    """One line: when, who, what, why."""
    kind = event_type(event)
    subject = event.subject or "/".join(
        filter(None, (event.text(part) for part in ("deployable", "assembly", "resource")))
    )
    state = event.text("state")
    what = state if kind.endswith(".state") and state else f"{kind}{': ' + state if state else ''}"
    reason = event.text("reason")
    line = f"{clock(stamp(event.time), now=now)}  {subject or '-'}  {what}" + (f": {reason}" if reason else "")
    return clean(line)


class Recoveries:
    """Remembers what failed, so that its return can be told as a recovery. One for each watcher; not thread-safe."""

    MOST = 10_000
    """Subjects remembered; a fleet that loses more at once is told of without durations."""

    def __init__(self) -> None:
        self._failed: dict[str, float] = {}

    def tell(self, event: CloudEvent, *, now: float) -> str | None:
        """A line when the event is a failure, a recovery, or otherwise of importance; else None."""
        kind, state = event_type(event), event.text("state")
        line = event_line(event, now=now)
        if kind.endswith(".state"):
            if state in {"failed", "suspect", "unrecoverable", "blocked"}:
                if len(self._failed) < self.MOST:
                    self._failed.setdefault(event.subject, stamp(event.time))
                return line
            if state == "running" and event.subject in self._failed:
                lost = stamp(event.time) - self._failed.pop(event.subject)
                return line.replace("  running", f"  recovered, running again after {duration(lost)}", 1)
            if state == "stopped":
                self._failed.pop(event.subject, None)
        if kind.startswith(("escalation", "isolation")) or event.text("severity") in {"warning", "critical"}:
            return line
        return None


def standing(found: Sequence[Standstill], *, now: float) -> list[str]:
    """What is not being done now, and why, as lines; says so when nothing stands still."""
    if not found:
        return ["now: nothing stands still; all that shall be done is done or under way"]
    lines = ["not being done now:"]
    for one in found:
        since = f"  (since {clock(one.since, now=now)})" if one.since else ""
        until = f"  (until {clock(one.until, now=now)})" if one.until else ""
        subject = f"{one.subject}: " if one.subject else ""
        lines.append(f"    {one.rule:18} {subject}{one.text}{since}{until}")
        if one.next:
            lines.append(f"    {'':18} {one.next}")
    return [clean(line) for line in lines]


def timeline(decisions: Sequence[Decision], *, now: float) -> list[str]:
    """The decisions, oldest first, as lines: what woke the engine, what it saw, the rules, what was done, what it cost."""
    lines: list[str] = []
    for decision in sorted(decisions, key=lambda found: (found.time, found.number)):
        if lines:
            lines.append("")
        lines.append(f"{clock(decision.time, now=now, precise=True)}  #{decision.number}  {decision.trigger}")
        lines += _section("saw", [_observation(found, decision.time) for found in decision.observations])
        lines += _section(
            "rule",
            [f"{rule.rule}{f' ({rule.subject})' if rule.subject else ''}: {rule.text}" for rule in decision.rules],
        )
        lines += _section("did", _actions(decision.actions))
        if decision.cost:
            lines += _section("cost", [_cost(decision.cost)])
        if decision.outcome:
            lines += _section("outcome", [decision.outcome])
    return [clean(line) for line in lines]


def _section(head: str, entries: Sequence[str]) -> list[str]:
    return [f"    {head if number == 0 else '':8} {entry}" for number, entry in enumerate(entries)]


def _observation(found: Observation, decided: float) -> str:
    text = " ".join(part for part in (found.what, found.subject if found.subject != "deployable" else "") if part)
    text += f": {found.detail}" if found.detail else ""
    if found.signal:
        text += f"  [signal: {found.signal}]"
    if found.time and decided and abs(decided - found.time) >= 0.0005:
        text += f"  {duration(decided - found.time)} before" if found.time < decided else ""
    return text


def _actions(actions: Sequence[Action]) -> list[str]:
    """What was done; what was never begun, because a newer decision took its place, is only counted."""
    begun = [action for action in actions if action.state != "cancelled" or action.seconds]
    told = [_action(action) for action in begun]
    if left := len(actions) - len(begun):
        told.append(f"({left} more left to the next decision, which knows more)")
    return told or ["nothing"]


def _action(action: Action) -> str:

    text = f"{action.action} {action.subject}".strip()
    if action.state:
        text += f"  {action.state}"
        if action.seconds is not None:
            text += f" in {duration(action.seconds)}"
    return text + (f"  ({action.why})" if action.why else "")


def _cost(cost: dict[str, float]) -> str:
    names = {"decide_ms": "decision", "library_ms": "Pacemaker's library", "seconds": "until all was done"}
    parts = []
    for name, value in cost.items():
        seconds = value / 1000 if name.endswith("_ms") else value
        timed = name.endswith("_ms") or name == "seconds"
        parts.append(f"{names.get(name, name)} {duration(seconds) if timed else f'{value:g}'}")
    return ", ".join(parts)
