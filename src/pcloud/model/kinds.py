"""Kinds of values: what may stand at a key, how it is read, what its JSON Schema is, how it is written. Scalars are here.

Each kind is made once, immutable, and shared. `read` notes what is wrong and returns INVALID, so that one bad value hides
no other problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Protocol

from pcloud.model.document import Node, Style
from pcloud.model.names import did_you_mean, matches
from pcloud.model.problems import Problems, quote

INVALID: Final = object()
"""What `read` returns for a value that it complained about."""


class Kind(Protocol):
    """One kind of value."""

    @property
    def title(self) -> str:
        """What a person would call it, for tables in the documentation."""
        ...

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        """Return the value, or note what is wrong and return INVALID."""
        ...

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what `read` accepts."""
        ...


def wrong_type(node: Node, expected: str, path: str, problems: Problems, hint: str = "") -> Any:
    """Note that something else was expected; returns INVALID."""
    shown = f" {quote(node.value)}" if isinstance(node.value, str) and node.value else ""
    problems.add("WRONG_TYPE", f"{expected} is expected, this is a {node.kind}{shown}", path, at=node.at, hint=hint)
    return INVALID


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


class Text:
    """A text, optionally of a pattern."""

    def __init__(
        self, pattern: str = "", *, what: str = "text", code: str = "INVALID_VALUE", hint: str = "", empty: bool = True
    ) -> None:
        self.pattern = pattern
        self.what = what
        self.code = code
        self.hint = hint
        self.empty = empty

    @property
    def title(self) -> str:
        return self.what

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        kind = node.kind
        if kind != "text":
            hint = "put it in quotes" if kind in ("integer", "number", "boolean") else ""
            return wrong_type(node, _article(self.what), path, problems, hint)
        assert isinstance(node.value, str)
        return node.value if self.check(node.value, path, problems, node) else INVALID

    def check(self, text: str, path: str, problems: Problems, node: Node) -> bool:
        """Whether the text is of the pattern; notes it when it is not."""
        if self.pattern and not matches(self.pattern, text):
            message = f"{quote(text)} is not {_article(self.what)}"
            problems.add(self.code, message, path, at=node.at, hint=self.hint)
            return False
        if not self.empty and not text:
            problems.add(self.code, f"{_article(self.what)} may not be empty", path, at=node.at)
            return False
        return True

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        if self.pattern:
            schema["pattern"] = f"^(?:{self.pattern})$"
        elif not self.empty:
            schema["minLength"] = 1
        return schema


class Choice:
    """One of a few words."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)

    @property
    def title(self) -> str:
        return ", ".join(f"`{word}`" for word in self.words)

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if node.kind != "text":
            return wrong_type(node, f"one of {', '.join(self.words)}", path, problems)
        assert isinstance(node.value, str)
        if node.value not in self.words:
            message = f"{quote(node.value)} is none of {', '.join(self.words)}"
            problems.add("UNKNOWN_WORD", message, path, at=node.at, hint=did_you_mean(node.value, self.words))
            return INVALID
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}


class Integer:
    """A whole number in a range."""

    title = "whole number"

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        text = node.value
        if not isinstance(text, str) or node.style is Style.TEXT or not re.fullmatch(r"[-+]?[0-9]{1,18}", text):
            return wrong_type(node, "a whole number", path, problems)
        return _in_range(int(text), self.lowest, self.highest, str, node, path, problems)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.lowest, "maximum": self.highest}


class Number:
    """A number in a range."""

    title = "number"

    def __init__(self, lowest: float, highest: float) -> None:
        self.lowest = lowest
        self.highest = highest

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        text = node.value
        plain = node.style is not Style.TEXT
        if not isinstance(text, str) or not plain or not re.fullmatch(_NUMERIC, text):
            return wrong_type(node, "a number", path, problems)
        return _in_range(float(text), self.lowest, self.highest, lambda n: f"{n:g}", node, path, problems)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.lowest, "maximum": self.highest}


class Boolean:
    """True or false."""

    title = "true or false"

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if isinstance(node.value, str) and node.style is not Style.TEXT and node.value.lower() in ("true", "false"):
            return node.value.lower() == "true"
        return wrong_type(node, "true or false", path, problems)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


_NUMERIC = r"[-+]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][-+]?[0-9]{1,3})?"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = r"([0-9]{1,12}(\.[0-9]{1,9})?(ms|s|m|h|d|w))+"
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d|w)")


class Duration:
    """A time: seconds as a number, or numbers with units (`10s`, `1h30m`, `500ms`)."""

    title = "duration"

    def __init__(self, lowest: float, highest: float) -> None:
        self.lowest = lowest
        self.highest = highest

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        text = node.value
        if isinstance(text, str):
            text = text.strip()
            if node.style is not Style.TEXT and re.fullmatch(_NUMERIC, text):
                seconds = float(text)
            elif re.fullmatch(_DURATION, text):
                seconds = sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION_PART.findall(text))
            else:
                return wrong_type(node, "a duration", path, problems, "write seconds, or 10s, 5m, 1h30m, 500ms")
            return _in_range(seconds, self.lowest, self.highest, format_duration, node, path, problems)
        return wrong_type(node, "a duration", path, problems, "write seconds, or 10s, 5m, 1h30m, 500ms")

    def schema(self) -> dict[str, Any]:
        number = {"type": "number", "minimum": self.lowest, "maximum": self.highest}
        return {"anyOf": [number, {"type": "string", "pattern": rf"^\s*{_DURATION}\s*$"}]}


def format_duration(seconds: float) -> str:
    """Write seconds as people do, without loss: `1h30m`, `10s`; a fraction stays a plain number of seconds."""
    if not abs(seconds) < 1e12:
        return f"{seconds:g}s"  # of no document that was accepted; a message may still show it
    whole = int(seconds)
    if whole != seconds or whole <= 0:
        return repr(seconds) if whole != seconds else str(whole)
    parts = []
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


_SIZES = {"": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024.0, "K": 1.0 / 1024.0}
_SIZE = r"[0-9]{1,12}(\.[0-9]{1,6})? ?([kKmMgGtT]i?[bB]?)?"


class Size:
    """An amount of memory in whole MiB: a number of MiB, or a number with a unit (`512M`, `1GiB`; powers of 1024)."""

    title = "size"

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest = lowest
        self.highest = highest

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        hint = "write MiB as a number, or 512M, 1GiB"
        text = node.value
        if not isinstance(text, str) or node.kind in ("null", "boolean") or not re.fullmatch(_SIZE, text.strip()):
            return wrong_type(node, "a size", path, problems, hint)
        amount = re.match(r"[0-9.]+", text.strip())
        assert amount is not None
        unit = text.strip()[amount.end() :].strip().upper().rstrip("B").rstrip("I")
        mib = float(amount.group()) * _SIZES[unit]
        if mib != int(mib):
            problems.add("OUT_OF_RANGE", f"{quote(text)} is no whole number of MiB", path, at=node.at, hint=hint)
            return INVALID
        return _in_range(int(mib), self.lowest, self.highest, lambda n: f"{n} MiB", node, path, problems)

    def schema(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self.lowest, "maximum": self.highest}
        return {"anyOf": [number, {"type": "string", "pattern": rf"^\s*{_SIZE}\s*$"}]}


class Mode:
    """Permissions of a file: octal digits, in quotes (`"0600"`) or not (`0600`)."""

    title = "octal mode"

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if isinstance(node.value, str) and re.fullmatch(r"(0o)?[0-7]{3,5}", node.value):
            mode = int(node.value.removeprefix("0o"), 8)
            if mode <= 0o7777:
                return mode
        return wrong_type(node, "an octal mode", path, problems, 'write it as "0644"')

    def schema(self) -> dict[str, Any]:
        digits = {"type": "string", "pattern": "^(?:0o)?0?[0-7]{3,4}$"}
        return {"anyOf": [digits, {"type": "integer", "minimum": 0, "maximum": 7777}]}


class Literal:
    """Any simple value, kept as the text that was typed (`3306`, `1.10`, `true`)."""

    title = "text, number or truth value"

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if not isinstance(node.value, str):
            return wrong_type(node, "a simple value", path, problems)
        if node.kind == "null":
            return wrong_type(node, "a value", path, problems, 'write "" for an empty text')
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


def _in_range(number: Any, lowest: Any, highest: Any, show: Any, node: Node, path: str, problems: Problems) -> Any:
    if lowest <= number <= highest:
        return number
    message = f"{show(number)} is not between {show(lowest)} and {show(highest)}"
    problems.add("OUT_OF_RANGE", message, path, at=node.at)
    return INVALID
