"""Words and numbers as people read them: times, durations, sizes, states' colours, text that is safe to print. Pure."""

from __future__ import annotations

import re
from datetime import datetime

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

STATE_COLOURS = {
    "running": "green",
    "ready": "green",
    "done": "green",
    "ok": "green",
    "starting": "yellow",
    "building": "yellow",
    "suspect": "magenta",
    "warning": "yellow",
    "failed": "red",
    "unrecoverable": "bright_red",
    "blocked": "bright_red",
    "missing": "red",
    "paused": "blue",
    "stopped": "bright_black",
    "absent": "bright_black",
    "cancelled": "bright_black",
    "unknown": "cyan",
}


def state_colour(state: str) -> str:
    """Return the colour of a state, of a stack's status too; empty for what has none."""
    known = STATE_COLOURS.get(state, "")
    if known or not state.isupper():
        return known
    if state.endswith("_IN_PROGRESS"):
        return "yellow"
    if state.endswith("_FAILED") or "ROLLBACK" in state:
        return "red"
    return "green" if state.endswith("_COMPLETE") else ""


def clean(text: str, *, lines: bool = False) -> str:
    """Replace what could steer a terminal: reasons and logs may come out of a guest. `lines` keeps line feeds and tabs."""
    return (_CONTROL_BUT_LINES if lines else _CONTROL).sub(" " if not lines else "", text)


def clock(when: float, *, now: float, precise: bool = False) -> str:
    """A moment in local time: the time of day when it is today's, else the date too. Empty for 0."""
    if not when:
        return ""
    try:
        moment = datetime.fromtimestamp(when).astimezone()
        today = datetime.fromtimestamp(now).astimezone().date()
    except (OverflowError, ValueError, OSError):
        return "?"
    text = moment.strftime("%H:%M:%S")
    if precise:
        text += f".{moment.microsecond // 1000:03d}"
    return text if moment.date() == today else f"{moment:%Y-%m-%d} {text}"


def stamp(rfc3339: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; 0 when it is none."""
    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def duration(seconds: float) -> str:
    """A span of time in at most two units."""
    seconds = max(seconds, 0.0)
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, size, below, small in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if unit == "d" or whole < size * {"min": 60, "h": 24}[unit]:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    raise AssertionError("unreachable: days have no bound")


def size(count: float | None) -> str:
    """A number of bytes. Empty for nothing."""
    if not count:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in {"B", "KiB"} else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def one_of(count: int, singular: str, plural: str = "") -> str:
    """A number with its noun."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
