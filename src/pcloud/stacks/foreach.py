"""`Fn::ForEach` of AWS::LanguageExtensions: loops are expanded into plain keys before a template is taken apart. Pure.

The number of copies is bounded. Collections may be lists, `Ref` of a list parameter (its default, or the given value when
the template is read together with values) and `Fn::FindInMap` of literals; nothing else is known at this point.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.parameters import parse_value
from pcloud.stacks.reading import Reader
from pcloud.stacks.template import UNSET, ParameterSchema

MAX_COPIES = 5000
PREFIX = "Fn::ForEach::"
_NOT_WORD = re.compile(r"[^A-Za-z0-9]")


def has_loops(value: Any) -> bool:
    """Return whether a document holds any loop."""
    if isinstance(value, dict):
        return any(key.startswith(PREFIX) or has_loops(child) for key, child in value.items())
    if isinstance(value, list):
        return any(has_loops(child) for child in value)
    return False


def expand_loops(
    reader: Reader,
    data: dict[str, Any],
    parameters: Mapping[str, ParameterSchema],
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the document with every loop replaced by its copies; problems are noted in the reader."""
    if not has_loops(data):
        return data
    expander = _Expander(reader, data, parameters, given or {})
    result: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("Conditions", "Resources", "Outputs"):
            result[key] = expander.expand(value, {}, (key,))
        else:
            result[key] = value
    return result


class _Expander:
    def __init__(
        self, reader: Reader, data: dict[str, Any], parameters: Mapping[str, ParameterSchema], given: Mapping[str, Any]
    ) -> None:
        self.reader = reader
        self.data = data
        self.parameters = parameters
        self.given = given
        self.copies = 0

    def expand(self, value: Any, names: Mapping[str, str], path: Path) -> Any:
        if isinstance(value, list):
            return [self.expand(item, names, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, str):
            return _substitute(value, names)
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and isinstance(value.get("Ref"), str) and value["Ref"] in names:
            return names[value["Ref"]]
        result: dict[str, Any] = {}
        for key, child in value.items():
            where = (*path, key)
            if key.startswith(PREFIX):
                for new_key, new_value in self.loop(key, child, names, where):
                    if new_key in result or new_key in value:
                        self.reader.problem("DUPLICATE_KEY", f"the loop makes '{new_key}' twice", where)
                    result[new_key] = new_value
            else:
                result[_substitute(key, names)] = self.expand(child, names, where)
        return result

    def loop(self, key: str, body: Any, names: Mapping[str, str], path: Path) -> list[tuple[str, Any]]:
        ok = isinstance(body, list) and len(body) == 3 and isinstance(body[0], str) and isinstance(body[2], dict)
        if not ok:
            self.reader.problem("BAD_FUNCTION", "Fn::ForEach takes [name, collection, map of one output]", path)
            return []
        identifier: str = body[0]
        if identifier in names or identifier in self.parameters:
            self.reader.problem("DUPLICATE_KEY", f"the loop's name '{identifier}' is taken already", path)
            return []
        result: list[tuple[str, Any]] = []
        for item in self.collection(body[1], names, (*path, 1)):
            self.copies += 1
            if self.copies > MAX_COPIES:
                self.reader.problem("TOO_MANY", f"loops make more than {MAX_COPIES} copies", path)
                return []
            inner = {**names, identifier: item}
            expanded = self.expand(body[2], inner, (*path, 2))
            result.extend(expanded.items())
            if self.reader.problems:
                return []
        return result

    def collection(self, value: Any, names: Mapping[str, str], path: Path) -> list[str]:
        if isinstance(value, dict) and len(value) == 1:
            function, argument = next(iter(value.items()))
            if function == "Ref" and isinstance(argument, str) and argument in self.parameters:
                schema = self.parameters[argument]
                source = self.given.get(argument, schema.default)
                if source is UNSET:
                    self.reader.problem(
                        "UNKNOWN_COLLECTION", f"the loop runs over parameter '{argument}', which has no value yet", path
                    )
                    return []
                value = parse_value(schema, source)
            elif function == "Fn::FindInMap" and isinstance(argument, list) and len(argument) >= 3:
                keys = [self.expand(item, names, path) for item in argument[:3]]
                found: Any = self.data.get("Mappings", {})
                for part in keys:
                    found = found.get(part) if isinstance(found, dict) and isinstance(part, str) else None
                value = found
        items: list[str] = []
        for item in value if isinstance(value, list) else [None]:
            expanded = self.expand(item, names, path)
            if isinstance(expanded, str | int | float):
                items.append(str(expanded))
            elif isinstance(expanded, list):
                items.extend(str(part) for part in expanded)
            else:
                self.reader.problem(
                    "UNKNOWN_COLLECTION", "a loop's collection is a list, a list parameter or a mapping's list", path
                )
                return []
        if len(set(items)) != len(items):
            self.reader.problem("DUPLICATE_KEY", "a loop's collection holds a value twice", path)
            return []
        return items


def _substitute(text: str, names: Mapping[str, str]) -> str:
    """Replace `${Name}` by the item and `&{Name}` by its letters and digits alone."""
    if "{" not in text:
        return text
    for name, item in names.items():
        text = text.replace("${" + name + "}", item).replace("&{" + name + "}", _NOT_WORD.sub("", item))
    return text
