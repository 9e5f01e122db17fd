"""Reading template text into plain data, with positions: the only place where YAML or JSON from a user is parsed.

The YAML is read from libyaml's event stream without recursion, so that depth, number of nodes and alias expansion are
bounded while reading. There are no timestamps (`2010-09-09` stays text), no sexagesimal numbers, no entities and no tags but
CloudFormation's short ones and the plain YAML ones. Pure; safe to call from any thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import yaml

from pcloud.model.errors import InvalidDocument, Problem

Path = tuple[str | int, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one document."""

    size: int = 4 * 1024 * 1024
    """Bytes of UTF-8 text. CloudFormation allows 1 MB, Heat 512 KiB."""
    nodes: int = 400_000
    """Scalars, lists and maps, with aliases counted each time they are used."""
    depth: int = 64


LIMITS = Limits()

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_SHORT_TAGS = {
    "Ref": "Ref",
    "Condition": "Condition",
    **{
        name: f"Fn::{name}"
        for name in [
            "And",
            "Base64",
            "Cidr",
            "Contains",
            "EachMemberEquals",
            "EachMemberIn",
            "Equals",
            "FindInMap",
            "GetAZs",
            "GetAtt",
            "If",
            "ImportValue",
            "Join",
            "Length",
            "MemberListToMap",
            "Not",
            "Or",
            "RefAll",
            "Replace",
            "ResourceFacade",
            "Select",
            "Split",
            "Sub",
            "ToJsonString",
            "Transform",
            "ValueOf",
            "ValueOfAll",
        ]
    },
}
_BOOL = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_NULL = {"", "~", "null", "Null", "NULL"}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_OCTAL = re.compile(r"[-+]?0[0-7_]+\Z")
_BASED = re.compile(r"[-+]?0(?:x[0-9a-fA-F_]+|b[01_]+)\Z")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+][0-9]+)\Z"
)
_MERGE = object()


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Plain data and where each part of it stands in the text."""

    data: Any
    file: str = ""
    _locate: Callable[[Path], tuple[int, int]]

    def locate(self, path: Path) -> tuple[int, int]:
        """Return the 1-based line and column of the nearest known part of a path; (0, 0) when nothing is known."""
        return self._locate(path)


def dotted(path: Iterable[str | int]) -> str:
    """Return a path in the form that problems carry, such as `Resources/Web/Properties/UserData`."""
    return "/".join(str(part) for part in path)


def read_document(text: str | bytes, *, file: str = "", limits: Limits = LIMITS) -> Document:
    """Read YAML or JSON; InvalidDocument with the position when it is neither, or over the limits."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > limits.size:
        raise _error("TOO_LARGE", f"the document has {len(raw)} bytes; at most {limits.size} are read", file)
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise _error("NOT_TEXT", f"the document is not UTF-8 (byte {problem.start})", file) from None
    if "\x00" in decoded:
        line = decoded.count("\n", 0, decoded.index("\x00")) + 1
        raise _error("NOT_TEXT", "the document holds a NUL character", file, line)
    if decoded.lstrip()[:1] in ("{", "["):
        try:
            return _read_json(decoded, file, limits)
        except json.JSONDecodeError as problem:
            failure = _error("SYNTAX", f"not valid JSON: {problem.msg}", file, problem.lineno, problem.colno)
        try:
            return _read_yaml(decoded, file, limits)  # a YAML flow mapping also starts with a brace
        except InvalidDocument:
            raise failure from None
    return _read_yaml(decoded, file, limits)


def document_of(data: Any, *, file: str = "", limits: Limits = LIMITS) -> Document:
    """Wrap data that a client sent as JSON already; the limits hold, positions are not known."""
    _measure(data, file, limits)
    return Document(data=data, file=file, _locate=lambda _path: (0, 0))


def _error(code: str, message: str, file: str, line: int = 0, column: int = 0, hint: str = "") -> InvalidDocument:
    return InvalidDocument(Problem(code=code, message=message, file=file, line=line, column=column, hint=hint))


def _measure(data: Any, file: str, limits: Limits) -> None:
    """Refuse what is too deep or has too many nodes, without recursion."""
    nodes = 0
    stack: list[tuple[Any, int]] = [(data, 1)]
    while stack:
        value, depth = stack.pop()
        nodes += 1
        if depth > limits.depth:
            raise _error("TOO_DEEP", f"the document is nested deeper than {limits.depth} levels", file)
        if nodes > limits.nodes:
            raise _error("TOO_MANY_NODES", f"the document has more than {limits.nodes} values", file)
        if isinstance(value, dict):
            stack.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list):
            stack.extend((child, depth + 1) for child in value)


def _read_json(text: str, file: str, limits: Limits) -> Document:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise _error("DUPLICATE_KEY", f"the key '{twice}' stands twice in one object", file)
        return result

    def constant(name: str) -> Any:
        raise _error("SYNTAX", f"{name} is not JSON", file)

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise _error("TOO_DEEP", f"the document is nested deeper than {limits.depth} levels", file) from None
    except json.JSONDecodeError:
        raise
    except ValueError as problem:
        raise _error("SYNTAX", f"not valid JSON: {problem}", file) from None
    _measure(data, file, limits)
    known: list[Document] = []

    def locate(path: Path) -> tuple[int, int]:
        if not known:  # JSON is read as YAML once more, only when a position is wanted
            try:
                known.append(_read_yaml(text, file, limits))
            except InvalidDocument:
                known.append(Document(data=None, _locate=lambda _path: (0, 0)))
        return known[0].locate(path)

    return Document(data=data, file=file, _locate=locate)


def _scalar(value: str) -> Any:
    """Return what a plain (unquoted) scalar means."""
    if value in _NULL:
        return None
    lowered = value.lower()
    if lowered in _BOOL:
        return _BOOL[lowered]
    if value[0] in "-+.0123456789":
        digits = value.replace("_", "")
        if len(digits) <= 400:  # beyond that a number is text: arithmetic on it would be somebody's attack
            if _INT.match(value):
                return int(digits)
            if _OCTAL.match(value):
                return int(digits, 8)
            if _BASED.match(value):
                return int(digits, 0)
            if _FLOAT.match(value):
                return float(digits)
    return value


class _Frame:
    """A list or map being read."""

    __slots__ = ("anchor", "key", "key_mark", "marks", "nodes", "tag", "value")

    def __init__(self, value: Any, anchor: str | None, tag: str, nodes: int) -> None:
        self.value = value
        self.anchor = anchor
        self.tag = tag
        self.key: Any = None
        self.key_mark: tuple[int, int] = (0, 0)
        self.marks: dict[str | int, tuple[int, int]] = {}
        self.nodes = nodes


class _Builder:
    """Turns events into data."""

    def __init__(self, file: str, limits: Limits) -> None:
        self.file = file
        self.limits = limits
        self.nodes = 0
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.frames: list[_Frame] = []
        self.positions: dict[int, dict[str | int, tuple[int, int]]] = {}
        self.keep: list[Any] = []
        self.root: Any = None
        self.done = False

    def fail(self, code: str, message: str, mark: Any, hint: str = "") -> InvalidDocument:
        return _error(code, message, self.file, mark.line + 1, mark.column + 1, hint)

    def count(self, nodes: int, mark: Any) -> None:
        self.nodes += nodes
        if self.nodes > self.limits.nodes:
            raise self.fail("TOO_MANY_NODES", f"more than {self.limits.nodes} values once aliases are expanded", mark)

    def event(self, event: Any) -> None:
        mark = event.start_mark
        if isinstance(event, yaml.ScalarEvent):
            self.count(1, mark)
            self.scalar(event)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.fail("UNKNOWN_ALIAS", f"the alias '*{event.anchor}' has no anchor before it", mark)
            value, nodes = self.anchors[event.anchor]
            self.count(nodes, mark)
            self.add(value, mark)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.count(1, mark)
            if len(self.frames) >= self.limits.depth:
                raise self.fail("TOO_DEEP", f"nested deeper than {self.limits.depth} levels", mark)
            kind: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            if self.frames and isinstance(self.frames[-1].value, dict) and self.frames[-1].key is None:
                raise self.fail("BAD_KEY", "a key must be text", mark)
            frame = _Frame(kind, event.anchor, event.tag or "", self.nodes)
            frame.marks[""] = (mark.line + 1, mark.column + 1)
            self.frames.append(frame)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            frame = self.frames.pop()
            value = self.tagged(frame.tag, frame.value, mark)
            self.positions[id(frame.value)] = frame.marks
            self.keep.append(frame.value)
            if frame.anchor:
                self.anchors[frame.anchor] = (value, self.nodes - frame.nodes + 1)
            line, column = frame.marks[""]
            self.add(value, None, (line, column))
        elif isinstance(event, yaml.DocumentStartEvent) and self.done:
            raise self.fail("SYNTAX", "more than one document in the text", mark)

    def scalar(self, event: Any) -> None:
        mark = event.start_mark
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            if event.value == "<<" and event.implicit[0]:
                frame.key = _MERGE
            else:
                frame.key = event.value
                if event.value in frame.value:
                    raise self.fail("DUPLICATE_KEY", f"the key '{event.value}' stands twice in one map", mark)
            frame.key_mark = (mark.line + 1, mark.column + 1)
            if event.anchor:
                self.anchors[event.anchor] = (event.value, 1)
            return
        tag = event.tag or ""
        value: Any
        if tag in ("", "!") or event.implicit[0]:
            value = _scalar(event.value) if event.implicit[0] else event.value
        elif tag in _PLAIN_TAGS:
            value = event.value if tag.endswith(":str") else _scalar(event.value)
        else:
            value = self.tagged(tag, event.value, mark)
        if event.anchor:
            self.anchors[event.anchor] = (value, 1)
        self.add(value, mark)

    def tagged(self, tag: str, value: Any, mark: Any) -> Any:
        if not tag or tag == "!" or tag in _PLAIN_TAGS:
            return value
        name = tag[1:] if tag.startswith("!") else tag
        function = _SHORT_TAGS.get(name)
        if function is None:
            raise self.fail(
                "UNKNOWN_TAG",
                f"the tag '{tag}' is not known",
                mark,
                "known are CloudFormation's short forms, such as !Ref",
            )
        if function == "Fn::GetAtt" and isinstance(value, str):
            return {function: value.split(".", 1)}
        return {function: value}

    def add(self, value: Any, mark: Any, position: tuple[int, int] | None = None) -> None:
        where = position or (mark.line + 1, mark.column + 1)
        if not self.frames:
            self.root = value
            self.done = True
            return
        frame = self.frames[-1]
        if isinstance(frame.value, list):
            frame.marks[len(frame.value)] = where
            frame.value.append(value)
            return
        if frame.key is None:  # an alias used as key
            if not isinstance(value, str):
                raise self.fail("BAD_KEY", "a key must be text", mark)
            frame.key, frame.key_mark = value, where
            return
        if frame.key is _MERGE:
            merged = value if isinstance(value, list) else [value]
            for source in merged:
                if not isinstance(source, dict):
                    raise _error("BAD_KEY", "'<<' merges maps only", self.file, *where)
                for key, inherited in source.items():
                    frame.value.setdefault(key, inherited)
                    frame.marks.setdefault(key, where)
        else:
            frame.value[frame.key] = value
            frame.marks[frame.key] = frame.key_mark
        frame.key = None


def _read_yaml(text: str, file: str, limits: Limits) -> Document:
    builder = _Builder(file, limits)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.event(event)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        sentence = " ".join(part for part in (problem.context, problem.problem) if part)
        raise _error("SYNTAX", f"not valid YAML: {sentence}", file, line, column) from None
    except yaml.YAMLError as problem:
        raise _error("SYNTAX", f"not valid YAML: {str(problem).splitlines()[0]}", file) from None
    root, positions, keep = builder.root, builder.positions, builder.keep

    def locate(path: Path) -> tuple[int, int]:
        found = (1, 1) if keep is not None else (0, 0)
        value: Any = root
        for part in path:
            marks = positions.get(id(value), {})
            key: str | int = int(part) if isinstance(value, list) and str(part).isdigit() else part
            found = marks.get(key, found)
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                break
        return found

    return Document(data=root, file=file, _locate=locate)
