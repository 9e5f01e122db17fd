"""Documents as trees of positioned nodes, before anyone knows what they mean; and the YAML reader that makes them.

The tree is made from the parser's events with a stack of our own, never by recursion, and scalars keep the text that was
typed: what `10`, `yes` or `1.10` means is decided by the key it stands at, so nothing is ever guessed (no timestamps, no
`no` that turns into a boolean). Aliases share nodes; their expanded size counts against a limit. Pure; no I/O.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import msgspec
import yaml

from pcloud.model.names import FORBIDDEN_CHARACTERS
from pcloud.model.problems import Position, Problems, quote


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one document; beyond them it is refused before it can cost much."""

    bytes: int = 1024 * 1024
    """Size of the text, checked before anything is parsed."""
    depth: int = 32
    """Nested mappings and lists."""
    nodes: int = 100_000
    """Mappings, lists and scalars, with every alias counted in full; a text counts once more for every
    TEXT_PER_NODE characters, so that aliases can not multiply a large one."""


DEFAULT_LIMITS = Limits()
TEXT_PER_NODE = 100


class Style(Enum):
    """How a scalar was written, which decides what it may be read as."""

    PLAIN = "plain"
    """Without quotes: `10` is a number, `true` a truth value."""
    TEXT = "text"
    """In quotes or as a block: always text."""
    UNTYPED = "untyped"
    """From a format whose scalars have no type (XML): text or whatever its reader expects."""


class Node(msgspec.Struct):
    """One mapping, list or scalar of a document, with where it stands."""

    value: str | dict[str, Node] | list[Node]
    at: Position = (0, 0)
    style: Style = Style.TEXT
    keys: dict[str, Position] = msgspec.field(default_factory=dict)
    """Of a mapping: where each key stands."""
    size: int = 1
    """Nodes in it, aliases expanded."""

    @property
    def kind(self) -> str:
        """`mapping`, `list`, `null`, `boolean`, `integer`, `number` or `text`: what a person would call it."""
        if isinstance(self.value, dict):
            return "mapping"
        if isinstance(self.value, list):
            return "list"
        return scalar_kind(self.value) if self.style is Style.PLAIN else "text"


_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": "null", "~": "null"} | {
    spelling: kind
    for word, kind in (("null", "null"), ("true", "boolean"), ("false", "boolean"))
    for spelling in (word, word.capitalize(), word.upper())
}


def scalar_kind(text: str) -> str:
    """What an unquoted scalar is in YAML 1.2's core schema (octal and hexadecimal numbers left out)."""
    kind = _WORDS.get(text)
    if kind is not None:
        return kind
    if text[0] in "-+.0123456789":
        if _INTEGER.fullmatch(text):
            return "integer"
        if _NUMBER.fullmatch(text):
            return "number"
    return "text"


def decode(text: bytes | str, problems: Problems, limits: Limits) -> str:
    """Return the document's text; InvalidDocument when it is too large, not UTF-8 or holds
    characters that no document may."""
    if len(text) > limits.bytes:
        raise problems.stop(
            "DOCUMENT_TOO_LARGE",
            f"the document has {len(text)} bytes, {limits.bytes} are allowed",
            hint="put large files into an image or a package instead of the document",
        )
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise problems.stop("NOT_UTF8", f"byte {error.start} is not UTF-8", at=(line, 0)) from None
    else:
        text = text.removeprefix("\ufeff")
    if found := FORBIDDEN_CHARACTERS.search(text):
        raise _forbidden(found, text, problems)
    return text


def _forbidden(found: re.Match[str], text: str, problems: Problems) -> Exception:
    before = text[: found.start()]
    at = (before.count("\n") + 1, found.start() - (before.rfind("\n") + 1) + 1)
    code = "NUL_CHARACTER" if found.group() == "\0" else "CONTROL_CHARACTER"
    return problems.stop(code, f"the document holds the character U+{ord(found.group()):04X}", at=at)


class _Frame:
    """A mapping or list that is being filled."""

    __slots__ = ("anchor", "key", "key_at", "merges", "node")

    def __init__(self, node: Node, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: str | None = None
        self.key_at: Position = (0, 0)
        self.merges: list[tuple[Node, Position]] = []


_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset({_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq")} | {"!", None})
_MERGE = "<<"


class _Builder:
    """Makes the tree from events, one after the other."""

    def __init__(self, problems: Problems, limits: Limits) -> None:
        self.problems = problems
        self.limits = limits
        self.stack: list[_Frame] = []
        self.anchors: dict[str, Node | None] = {}
        self.root: Node | None = None
        self.total = 0

    def start(self, value: dict[str, Node] | list[Node], event: Any, at: Position) -> None:
        if len(self.stack) >= self.limits.depth:
            raise self.problems.stop("DOCUMENT_TOO_DEEP", f"more than {self.limits.depth} levels are nested", at=at)
        if self.stack and isinstance(self.stack[-1].node.value, dict) and self.stack[-1].key is None:
            raise self.problems.stop("INVALID_KEY", "a key must be a simple word, not a mapping or list", at=at)
        self.check_tag(event.tag, at)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame(Node(value, at), event.anchor))

    def end(self) -> None:
        frame = self.stack.pop()
        if frame.merges and isinstance(frame.node.value, dict):
            self.merge(frame, frame.node.value)
        if frame.anchor:
            self.anchors[frame.anchor] = frame.node
        self.add(frame.node, frame.node.at)

    def scalar(self, event: Any, at: Position) -> None:
        self.check_tag(event.tag, at)
        text: str = event.value
        if (found := FORBIDDEN_CHARACTERS.search(text)) is not None:
            code = "NUL_CHARACTER" if found.group() == "\0" else "CONTROL_CHARACTER"
            self.problems.add(code, f"the text holds the character U+{ord(found.group()):04X}", at=at)
            text = FORBIDDEN_CHARACTERS.sub("?", text)
        plain = event.implicit[0] if event.tag is None else event.tag not in ("!", _TAG + "str")
        node = Node(text, at, Style.PLAIN if plain else Style.TEXT, size=1 + len(text) // TEXT_PER_NODE)
        if event.anchor:
            self.anchors[event.anchor] = node
        self.add(node, at)

    def alias(self, event: Any, at: Position) -> None:
        if event.anchor not in self.anchors:
            raise self.problems.stop("UNKNOWN_ALIAS", f"there is no anchor {quote(event.anchor)}", at=at)
        node = self.anchors[event.anchor]
        if node is None:
            raise self.problems.stop("RECURSIVE_ALIAS", f"the alias {quote(event.anchor)} contains itself", at=at)
        self.add(node, at)

    def add(self, node: Node, at: Position) -> None:
        """Put a complete node where it belongs."""
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        target = frame.node
        target.size += node.size
        if target.size > self.limits.nodes:
            raise self.problems.stop(
                "DOCUMENT_TOO_COMPLEX",
                f"the document has more than {self.limits.nodes} values, aliases counted in full",
                at=at,
            )
        if isinstance(target.value, list):
            target.value.append(node)
        elif frame.key is None:
            if not isinstance(node.value, str):
                raise self.problems.stop("INVALID_KEY", "a key must be a simple word, not a mapping or list", at=at)
            frame.key, frame.key_at = node.value, at
        else:
            assert isinstance(target.value, dict)
            key, frame.key = frame.key, None
            if key == _MERGE:
                frame.merges.append((node, at))
            elif key in target.value:
                first = target.keys[key][0]
                self.problems.add(
                    "DUPLICATE_KEY", f"the key {quote(key)} stands here already, in line {first}", at=frame.key_at
                )
            else:
                target.value[key] = node
                target.keys[key] = frame.key_at

    def merge(self, frame: _Frame, target: dict[str, Node]) -> None:
        """Fill in what `<<` brings; keys of the mapping itself win, and the first of several sources does."""
        for merged, at in frame.merges:
            sources = merged.value if isinstance(merged.value, list) else [merged]
            for source in sources:
                if not isinstance(source.value, dict):
                    self.problems.add("WRONG_TYPE", "'<<' takes a mapping or a list of mappings", at=at)
                    continue
                for key, node in source.value.items():
                    if key not in target:
                        target[key] = node
                        frame.node.keys[key] = source.keys[key]

    def check_tag(self, tag: str | None, at: Position) -> None:
        if tag not in _TAGS:
            self.problems.add("UNKNOWN_TAG", f"the tag {quote(str(tag))} has no meaning here", at=at)


def _position(mark: Any) -> Position:
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def parse_yaml(text: bytes | str, problems: Problems, limits: Limits = DEFAULT_LIMITS) -> Node:
    """Read one YAML document into a tree. Duplicate keys and unknown tags are noted in `problems`; what makes reading on
    useless (syntax, limits, no or several documents) raises InvalidDocument."""
    source = decode(text, problems, limits)
    builder = _Builder(problems, limits)
    documents = 0
    parser = yaml.CSafeLoader(source)
    try:
        while True:
            event = parser.get_event()
            if event is None:
                break
            at = _position(event.start_mark)
            kind = type(event)
            if kind is yaml.ScalarEvent:
                builder.scalar(event, at)
            elif kind is yaml.MappingStartEvent:
                builder.start({}, event, at)
            elif kind is yaml.SequenceStartEvent:
                builder.start([], event, at)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                builder.end()
            elif kind is yaml.AliasEvent:
                builder.alias(event, at)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise problems.stop(
                        "SEVERAL_DOCUMENTS", "one file holds one document", at=at, hint="split the file"
                    )
            elif kind is yaml.StreamEndEvent:
                break
    except yaml.MarkedYAMLError as error:
        at = _position(error.problem_mark or error.context_mark)
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise problems.stop("SYNTAX", f"this is not YAML: {message}", at=at) from None
    except yaml.YAMLError as error:
        raise problems.stop("SYNTAX", f"this is not YAML: {str(error).splitlines()[0]}") from None
    finally:
        parser.dispose()
    if builder.root is None:
        raise problems.stop("EMPTY_DOCUMENT", "the document is empty")
    return builder.root
