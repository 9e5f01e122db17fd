"""The JSON reader: the same tree of positioned nodes that the YAML reader makes.

The standard library's decoder tells no positions, so the structure is walked here (with a stack of our own) and only
strings are left to the library. Pure; no I/O.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]

from pcloud.model.document import DEFAULT_LIMITS, Limits, Node, Style, decode
from pcloud.model.errors import InvalidDocument
from pcloud.model.names import FORBIDDEN_CHARACTERS
from pcloud.model.problems import Position, Problems, quote

_SPACE = re.compile(r"[ \t\n\r]*")
_LITERAL = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


class _Reader:
    def __init__(self, text: str, problems: Problems, limits: Limits) -> None:
        self.text = text
        self.problems = problems
        self.limits = limits
        self.index = 0
        self.lines = [0, *(found.end() for found in re.finditer("\n", text))]

    def at(self, index: int) -> Position:
        line = bisect_right(self.lines, index)
        return line, index - self.lines[line - 1] + 1

    def fail(self, message: str) -> InvalidDocument:
        return self.problems.stop("SYNTAX", f"this is not JSON: {message}", at=self.at(self.index))

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        match = _SPACE.match(self.text, self.index)
        assert match is not None
        self.index = match.end()
        return self.text[self.index : self.index + 1]

    def string(self) -> str:
        value: str
        try:
            value, self.index = scanstring(self.text, self.index + 1, True)
        except JSONDecodeError as error:
            self.index = error.pos
            raise self.fail(error.msg) from None
        if found := FORBIDDEN_CHARACTERS.search(value):
            code = "NUL_CHARACTER" if found.group() == "\0" else "CONTROL_CHARACTER"
            message = f"the text holds the character U+{ord(found.group()):04X}"
            self.problems.add(code, message, at=self.at(self.index))
            value = FORBIDDEN_CHARACTERS.sub("?", value)
        return value

    def value(self) -> Node:
        """Read one scalar, or the opening of a mapping or list."""
        first = self.peek()
        at = self.at(self.index)
        if first == '"':
            return Node(self.string(), at)
        if first in ("{", "["):
            self.index += 1
            return Node({} if first == "{" else [], at)
        match = _LITERAL.match(self.text, self.index)
        if match is None:
            raise self.fail("a value is expected")
        self.index = match.end()
        return Node(match.group(), at, Style.PLAIN)

    def read(self) -> Node:
        if not self.peek():
            raise self.problems.stop("EMPTY_DOCUMENT", "the document is empty")
        root = self.value()
        stack = [root] if not isinstance(root.value, str) else []
        count = 1
        while stack:
            node = stack[-1]
            closing = "}" if isinstance(node.value, dict) else "]"
            following = self.peek()
            if following == closing:
                self.index += 1
                stack.pop()
                continue
            if node.value:
                if following != ",":
                    raise self.fail(f"',' or '{closing}' is expected")
                self.index += 1
                following = self.peek()
            child = self.member(node, following)
            count += 1
            if count > self.limits.nodes:
                raise self.problems.stop("DOCUMENT_TOO_COMPLEX", f"more than {self.limits.nodes} values", at=child.at)
            if not isinstance(child.value, str):
                if len(stack) >= self.limits.depth:
                    message = f"more than {self.limits.depth} levels are nested"
                    raise self.problems.stop("DOCUMENT_TOO_DEEP", message, at=child.at)
                stack.append(child)
        if self.peek():
            raise self.fail("nothing may follow the document")
        return root

    def member(self, node: Node, following: str) -> Node:
        """Read one more element of a list, or one more key and value of a mapping."""
        if isinstance(node.value, list):
            child = self.value()
            node.value.append(child)
            return child
        assert isinstance(node.value, dict)
        if following != '"':
            raise self.fail("a key in double quotes is expected")
        key_at = self.at(self.index)
        key = self.string()
        if self.peek() != ":":
            raise self.fail("':' is expected")
        self.index += 1
        child = self.value()
        if key in node.value:
            first = node.keys[key][0]
            self.problems.add("DUPLICATE_KEY", f"the key {quote(key)} stands here already, in line {first}", at=key_at)
            # Kept under a name no table knows would complain twice; a duplicate is read and dropped.
            return child
        node.value[key] = child
        node.keys[key] = key_at
        return child


def parse_json(text: bytes | str, problems: Problems, limits: Limits = DEFAULT_LIMITS) -> Node:
    """Read one JSON document into a tree. Duplicate keys are noted in `problems`; InvalidDocument on bad syntax or
    exceeded limits."""
    return _Reader(decode(text, problems, limits), problems, limits).read()
