"""When something fails: count, wait, escalate. Pure functions over `Memory`.

The first N-1 failures within P seconds are handled where they happened; the Nth escalates one level up (resource →
assembly → deployable → another place) and counting starts afresh. A start that failed is tried again after a wait that
doubles from BASE to CAP seconds and is forgotten after STABLE seconds in which nothing failed and nothing was tried in vain.
Starts that fail in a row count together however long they and their waits took: else what never starts would be tried
for ever.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from pcloud.model.deployable import Escalation
from pcloud.policy.state import Backoff, Memory

BASE = 1.0
CAP = 60.0
STABLE = 60.0


def count(
    memory: Memory, subject: str, rule: Escalation, now: float, *, since: float = math.inf
) -> tuple[Memory, bool, int]:
    """Count one failure of a subject at `now`.

    Returns the next memory, whether this failure escalates, and how many failures are in the period (this one included).
    A failure exactly `period` seconds ago no longer counts, unless it came at or after `since`.
    """
    recent = (*(t for t in memory.failures.get(subject, ()) if now - t < rule.period or t >= since), now)
    escalates = len(recent) >= rule.failures
    failures = {**memory.failures, subject: () if escalates else recent}
    return msgspec.structs.replace(memory, failures=failures), escalates, len(recent)


def recent(memory: Memory, subject: str, rule: Escalation, now: float) -> int:
    """Return how many failures of a subject count at `now`."""
    return sum(1 for t in memory.failures.get(subject, ()) if now - t < rule.period)


def wait(memory: Memory, subject: str, now: float, *, took: float = 0.0, at_once: bool = False) -> tuple[Memory, float]:
    """Note that a start of a subject failed that `took` so many seconds; return the next memory and the seconds to wait
    before the next try: none when it is tried again `at_once`."""
    previous = memory.backoff.get(subject, Backoff())
    in_a_row = now - took - previous.until <= STABLE
    attempts = previous.attempts + 1 if in_a_row else 1
    seconds = 0.0 if at_once else min(CAP, BASE * 2.0 ** min(attempts - 1, 16))
    began = previous.began if in_a_row and previous.began else now
    backoff = {**memory.backoff, subject: Backoff(attempts, now + seconds, began)}
    return msgspec.structs.replace(memory, backoff=backoff), seconds


def forget(memory: Memory, *subjects: str) -> Memory:
    """Forget failures, waits and verdicts of subjects."""

    def without(table: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in table.items() if key not in subjects}

    return msgspec.structs.replace(
        memory,
        failures=without(memory.failures),
        backoff=without(memory.backoff),
        unrecoverable=without(memory.unrecoverable),
        gave_up="" if "" in subjects else memory.gave_up,
    )


def next_wake(memory: Memory, now: float) -> float | None:
    """Return the earliest time at which a wait ends, or None."""
    return min((b.until for b in memory.backoff.values() if b.until > now), default=None)
