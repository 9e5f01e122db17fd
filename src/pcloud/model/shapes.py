"""Kinds made of other kinds: lists, mappings with free keys, tables with known keys, alternatives.

A `Table` describes one mapping of the manifest: the reader, the JSON Schema and the reference page all come from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pcloud.model.document import Node
from pcloud.model.kinds import INVALID, Kind, Text, wrong_type
from pcloud.model.names import did_you_mean
from pcloud.model.problems import Problems, join, quote


class ListOf:
    """A list whose elements are of one kind; bad elements are left out (and noted)."""

    def __init__(self, kind: Kind, *, least: int = 0, most: int = 1000, named: bool = False) -> None:
        self.kind = kind
        self.least = least
        self.most = most
        self.named = named
        """Whether elements are names, whose position is noted by name too."""

    @property
    def title(self) -> str:
        return f"list ({self.kind.title})"

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if not isinstance(node.value, list):
            return wrong_type(node, "a list", path, problems)
        if not self.least <= len(node.value) <= self.most:
            count = len(node.value)
            message = f"a list of {count} is not allowed, {self.least} to {self.most} are"
            problems.add("OUT_OF_RANGE", message, path, at=node.at)
            return INVALID
        values = []
        for index, element in enumerate(node.value):
            place = join(path, index)
            problems.positions[place] = element.at
            value = self.kind.read(element, place, problems)
            if value is not INVALID:
                values.append(value)
                if self.named:
                    problems.positions.setdefault(join(path, value), element.at)
        return values

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self.kind.schema(), "maxItems": self.most}
        if self.least:
            schema["minItems"] = self.least
        return schema


class MapOf:
    """A mapping whose keys a user chooses. A bad value is kept as INVALID, so that its name stays known."""

    def __init__(self, key: Text, kind: Kind, *, most: int = 1000) -> None:
        self.key = key
        self.kind = kind
        self.most = most

    @property
    def title(self) -> str:
        return f"mapping of {self.key.title} to {self.kind.title}"

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if not isinstance(node.value, dict):
            return wrong_type(node, "a mapping", path, problems)
        if len(node.value) > self.most:
            message = f"{len(node.value)} entries are too many, {self.most} are allowed"
            problems.add("OUT_OF_RANGE", message, path, at=node.at)
            return INVALID
        values: dict[str, Any] = {}
        for name, element in node.value.items():
            place = join(path, name)
            problems.positions[place] = node.keys[name]
            self.key.check(name, place, problems, Node(name, node.keys[name]))
            values[name] = self.kind.read(element, place, problems)
        return values

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key.pattern})$"},
            "additionalProperties": self.kind.schema(),
            "maxProperties": self.most,
        }


class Key:
    """One key of a table."""

    def __init__(
        self, name: str, kind: Kind, meaning: str, *, default: str = "", required: bool = False, example: str = ""
    ) -> None:
        self.name = name
        self.kind = kind
        self.meaning = meaning
        """One or two sentences for the reference page and the editor."""
        self.default = default
        """As a person would write it; empty when there is none."""
        self.required = required
        self.example = example
        """A good value, as a person would write it in YAML on one line."""


class Table:
    """A mapping with known keys. `read` returns the keys that are there and good."""

    def __init__(self, name: str, *keys: Key, extensions: bool = False) -> None:
        self.name = name
        self.keys = {key.name: key for key in keys}
        self.extensions = extensions
        """Whether keys that begin with `x-` are allowed and ignored (a place for anchors)."""

    @property
    def title(self) -> str:
        return self.name

    @property
    def identifier(self) -> str:
        """Its name in references and anchors: words joined by dashes."""
        return self.name.replace(" ", "-")

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        if not isinstance(node.value, dict):
            return wrong_type(node, f"a mapping ({self.name})", path, problems)
        values: dict[str, Any] = {}
        for name, element in node.value.items():
            key = self.keys.get(name)
            place = join(path, name)
            if key is None:
                if not (self.extensions and name.startswith("x-")):
                    message = f"{self.name} has no key {quote(name)}"
                    hint = did_you_mean(name, self.keys)
                    problems.add("UNKNOWN_KEY", message, place, at=node.keys[name], hint=hint)
                continue
            problems.positions[place] = element.at if element.at[0] else node.keys[name]
            value = key.kind.read(element, place, problems)
            if value is not INVALID:
                values[name] = value
        for name, key in self.keys.items():
            if key.required and name not in node.value:
                problems.add("MISSING_KEY", f"{self.name} needs the key '{name}'", path, at=node.at)
        return values

    def schema(self) -> dict[str, Any]:
        """A reference: `pcloud.model.schema` puts the definition of each table into the document once."""
        return {"$ref": f"#/$defs/{self.identifier}"}

    def definition(self) -> dict[str, Any]:
        """The JSON Schema of the mapping itself."""
        properties = {}
        for name, key in self.keys.items():
            described = {"description": key.meaning + (f" Default: {key.default}." if key.default else "")}
            properties[name] = {**described, **key.kind.schema()}
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if self.extensions:
            schema["patternProperties"] = {"^x-": {"description": "Ignored; a place for anchors."}}
        required = [name for name, key in self.keys.items() if key.required]
        if required:
            schema["required"] = required
        return schema


class Either:
    """A value in one of several forms, told apart by what it looks like; each is turned into the same thing."""

    def __init__(self, title: str, *forms: tuple[Callable[[Node], bool], Kind, Callable[[Any], Any]]) -> None:
        self.title = title
        self.forms = forms
        """(whether a node is of this form, its kind, what to make of its value); the first that applies counts."""

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        for applies, kind, make in self.forms:
            if applies(node):
                value = kind.read(node, path, problems)
                return value if value is INVALID else make(value)
        return wrong_type(node, self.title, path, problems)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for _, kind, _ in self.forms]}


def is_mapping(node: Node) -> bool:
    """Whether the node is a mapping."""
    return isinstance(node.value, dict)


def is_list(node: Node) -> bool:
    """Whether the node is a list."""
    return isinstance(node.value, list)


def is_scalar(node: Node) -> bool:
    """Whether the node is a scalar that holds something."""
    return isinstance(node.value, str) and node.kind != "null"


def is_null(node: Node) -> bool:
    """Whether nothing was written."""
    return node.kind == "null"


class Nothing:
    """An empty value."""

    title = "nothing"

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        return {}

    def schema(self) -> dict[str, Any]:
        return {"type": "null"}
