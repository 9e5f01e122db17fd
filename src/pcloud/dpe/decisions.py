"""The record of one decision: what was seen, by which rules, what was done and why. What `explain` shows."""

from __future__ import annotations

from typing import Any

from pcloud.events.event import Event
from pcloud.policy.cib import Names
from pcloud.policy.graph import Graph
from pcloud.policy.observation import GuestActed, GuestSeen, Observation, Operated
from pcloud.policy.outcome import Rule
from pcloud.policy.reasons import why_guest, why_service
from pcloud.policy.recording import pack
from pcloud.policy.state import State


class Decision:
    """One decision from its trigger to its end; becomes a journal record."""

    __slots__ = (
        "_actions",
        "_cost",
        "_from",
        "_observations",
        "_order",
        "decided",
        "number",
        "rules",
        "time",
        "trigger",
    )

    def __init__(self, number: int, time: float) -> None:
        self.number = number
        self.time = time
        self.trigger = ""
        self.rules: list[Rule] = []
        self.decided = False
        self._observations: list[dict[str, Any]] = []
        self._actions: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._order: dict[int, tuple[str, str, int]] = {}
        self._cost: dict[str, float] = {}
        self._from: tuple[State, float] | None = None
        """What it was made from, kept for `replay`."""

    def saw(self, observation: Observation, events: list[Event]) -> None:
        """Note what woke the engine; the events are its readable form."""
        kind = _KINDS[type(observation).__name__]
        for event in events:
            subject = "/".join(part for part in (event.assembly, event.resource) if part) or "deployable"
            signal = event.data.get("signal", "")
            entry = {"what": kind, "subject": subject, "signal": signal, "detail": event.reason, "time": event.time}
            self._observations.append(entry)
            self.trigger = self.trigger or f"{subject}: {event.reason}"
        if not events:
            subject, detail = _plainly(observation)
            entry = {"what": kind, "subject": subject, "signal": "", "detail": detail, "time": self.time}
            self._observations.append(entry)
            self.trigger = self.trigger or (f"{subject}: {detail}" if subject else "")
        self.trigger = self.trigger or _TRIGGERS.get(kind, "")

    def made(self, state: State, graph: Graph, names: Names, *, now: float, decide: float, library: float) -> None:
        """Note the graph that was the answer to a state at `now`; costs in seconds."""
        self.decided = True
        self._from = (state, now)
        self._cost = {"decide_ms": round(decide * 1000, 3), "library_ms": round(library * 1000, 3)}
        for action in graph.actions:
            if action.pseudo:
                continue
            if action.resource in names.services:
                subject = names.services[action.resource]
                watch = action.task == "monitor" and bool(action.interval_ms)
                text, why = action.task, why_service(state, subject, "watch" if watch else action.task)
            elif action.resource in names.guests and not (action.task == "monitor" and action.interval_ms):
                subject = names.guests[action.resource]
                text, why = f"{action.task} guest", why_guest(state, subject, action.task)
            elif action.resource in names.connections and action.task == "start":
                subject = names.connections[action.resource]
                text, why = "connect", why_guest(state, subject, "connect")
            else:
                continue
            if action.task == "monitor":
                text = "watch" if action.interval_ms else "probe"
            if subject.endswith("!configure"):
                text = {"start": "configure", "stop": "unconfigure", "probe": "probe configuration of"}.get(text, text)
            key = (action.resource, action.task, action.interval_ms)
            self._order[action.id] = key
            shown = subject.removesuffix("!configure")
            self._actions[key] = {"action": text, "subject": shown, "why": why, "state": "planned", "seconds": 0.0}

    def why(self, action_id: int) -> str:
        """Return the reason of an action of this decision's graph."""
        key = self._order.get(action_id)
        return str(self._actions[key]["why"]) if key is not None else ""

    def ended(self, key: tuple[str, str, int], *, ok: bool, seconds: float) -> None:
        """Note the end of an action."""
        if key in self._actions:
            # Taken out and put back: actions stand in the order in which they ended.
            self._actions[key] = self._actions.pop(key) | {
                "state": "done" if ok else "failed",
                "seconds": round(seconds, 4),
            }

    @property
    def worth_keeping(self) -> bool:
        """Whether anything was done or any rule applied."""
        return bool(self.rules or self._actions)

    def record(self, now: float) -> dict[str, Any]:
        """Return the journal record, at the decision's end."""
        actions = sorted(self._actions.values(), key=lambda action: action["state"] == "planned")
        done = sum(1 for a in actions if a["state"] == "done")
        failed = sum(1 for a in actions if a["state"] == "failed")
        for action in actions:
            if action["state"] == "planned":
                action["state"] = "cancelled"
        outcome = f"{done} of {len(actions)} actions done" + (f", {failed} failed" if failed else "")
        kept = {"snapshot": pack(*self._from)} if self._from is not None and actions else {}
        return {
            "time": self.time,
            "number": self.number,
            "trigger": self.trigger,
            "observations": self._observations,
            "rules": [
                {"rule": r.rule, "subject": r.subject.removesuffix("!configure"), "text": r.text} for r in self.rules
            ],
            "actions": actions,
            "cost": {**self._cost, "seconds": round(now - self.time, 3)},
            "outcome": outcome if actions else "nothing to do",
            **kept,
        }


def _plainly(observation: Observation) -> tuple[str, str]:
    """Return subject and detail of an observation that changed no state; both empty where its kind says it all."""
    match observation:
        case GuestSeen(assembly=assembly, info=info):
            return assembly, f"the infrastructure says that the guest is {info.state}"
        case GuestActed(assembly=assembly, action=action, error=error):
            return assembly, f"{action} of the guest failed: {error}" if error else f"{action} of the guest is done"
        case Operated(subject=subject, action="watch"):
            return subject, "its guest watches it, after the start delay"
        case Operated(subject=subject, action=action, interval=interval, rc=rc):
            subject = subject.removesuffix("!configure")
            return subject, f"{'recurring ' if interval else ''}{action} ended with code {rc}"
        case _:
            return "", ""


_KINDS = {
    "Configured": "configuration",
    "GuestSeen": "infrastructure",
    "GuestActed": "action on a guest",
    "GuestBounded": "limits of a guest",
    "LinkLost": "transport",
    "LinkRestored": "transport",
    "SecondOpinion": "second signal",
    "Operated": "resource operation",
    "InfrastructureState": "infrastructure",
    "Recover": "operator",
    "Restart": "alarm",
    "Blocked": "scheduler",
    "Tick": "timer",
    "Elapsed": "timer",
}
"""Kinds of observations, in words."""
_TRIGGERS = {
    "configuration": "the deployable was loaded, or what it shall be changed",
    "timer": "a wait is over",
    "alarm": "an alarm asked for the restart of a guest",
    "infrastructure": "the infrastructure told of a guest",
    "action on a guest": "an action on a guest ended",
    "resource operation": "an operation told something new",
}
