"""What an alarm concludes from measured values. Pure: `judge(rule, points, state)`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import msgspec

OK, ALARM, INSUFFICIENT = "OK", "ALARM", "INSUFFICIENT_DATA"
STATES = (OK, ALARM, INSUFFICIENT)

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_WORDS = {
    "GreaterThanThreshold": "greater than",
    "GreaterThanOrEqualToThreshold": "greater than or equal to",
    "LessThanThreshold": "less than",
    "LessThanOrEqualToThreshold": "less than or equal to",
}
MISSING = ("missing", "breaching", "notBreaching", "ignore")
STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What is watched, and when it is alarming."""

    namespace: str
    metric: str
    dimensions: dict[str, str] = {}
    statistic: str = "Average"
    period: int
    """Seconds of one window."""
    periods: int
    """Windows that are looked at."""
    breaches: int
    """How many of them must breach."""
    threshold: float
    comparison: str
    missing: str = "missing"
    """What a window without values counts as."""
    enabled: bool = True
    """Whether actions run."""
    actions: dict[str, list[str]] = {}
    """State → what is done when it is entered."""


def judge(rule: Rule, points: Sequence[float | None], state: str) -> tuple[str, str]:
    """Return (state, reason) for the values of the newest windows, newest first; None where nothing was measured.

    Enough breaching windows alarm; so many others that these can not be reached any more are OK; nothing at all is
    INSUFFICIENT_DATA (or what `missing` says); anything between leaves the state as it is.
    """
    breaching = healthy = missing = 0
    compare = COMPARISONS[rule.comparison]
    shown: list[str] = []
    for point in points:
        if point is None:
            if rule.missing == "breaching":
                breaching += 1
            elif rule.missing == "notBreaching":
                healthy += 1
            else:
                missing += 1
        elif compare(point, rule.threshold):
            breaching += 1
            shown.append(f"{point:g}")
        else:
            healthy += 1
            shown.append(f"{point:g}")
    words = f"{_WORDS[rule.comparison]} the threshold ({rule.threshold:g})"
    values = f" [{', '.join(shown)}]" if shown else ""
    if breaching >= rule.breaches:
        return ALARM, f"Threshold Crossed: {breaching} datapoint(s){values} of {rule.periods} {words}"
    if missing == rule.periods:
        if rule.missing == "ignore":
            return state, "no values: the state is kept"
        return INSUFFICIENT, f"Insufficient Data: {rule.periods} datapoint(s) were unknown"
    if healthy > rule.periods - rule.breaches:
        return OK, f"{healthy} datapoint(s){values} of {rule.periods} not {words}"
    return state, "too few values to tell: the state is kept"
