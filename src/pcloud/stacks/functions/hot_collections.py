"""The functions of Heat's templates on lists and maps. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.functions.evaluation import (
    FunctionError,
    Scope,
    Unknown,
    equal,
    list_of,
    text_of,
    unknown_in,
)

MAX_REPEAT = 10_000


def map_merge(scope: Scope, argument: Any, path: Path) -> Any:
    """map_merge: later maps win."""
    value = scope.evaluate(argument, path)
    if isinstance(value, Unknown):
        return value
    result: dict[str, Any] = {}
    for item in list_of(value, "map_merge"):
        if isinstance(item, Unknown):
            return item
        if item is None:
            continue
        if not isinstance(item, dict):
            raise FunctionError("map_merge takes a list of maps")
        result.update(item)
    return result


def map_replace(scope: Scope, argument: Any, path: Path) -> Any:
    """map_replace: [map, {keys: {old: new}, values: {old: new}}]."""
    source, rules = list_of(scope.evaluate(argument, path), "map_replace", 2)
    unknown = unknown_in([source, rules])
    if unknown is not None:
        return unknown
    if not isinstance(source, dict) or not isinstance(rules, dict) or set(rules) - {"keys", "values"}:
        raise FunctionError("map_replace takes [map, {keys: …, values: …}]")
    keys: dict[Any, Any] = rules.get("keys") or {}
    values: dict[Any, Any] = rules.get("values") or {}
    result: dict[str, Any] = {}
    for key, value in source.items():
        new_key: Any = keys.get(key, key)
        if new_key in result or (new_key != key and new_key in source):
            raise FunctionError(f"map_replace makes the key '{new_key}' twice")
        result[new_key] = values.get(value, value) if isinstance(value, str | int | float) else value
    return result


def repeat(scope: Scope, argument: Any, path: Path) -> Any:
    """repeat: `template` once for every combination of `for_each`, or step by step without permutations."""
    if not isinstance(argument, dict) or not {"template", "for_each"} <= set(argument) <= {
        "template",
        "for_each",
        "permutations",
    }:
        raise FunctionError("repeat takes 'template', 'for_each' and 'permutations'")
    loops = scope.evaluate(argument["for_each"], (*path, "for_each"))
    permutations = scope.evaluate(argument.get("permutations", True), (*path, "permutations"))
    template = scope.evaluate(argument["template"], (*path, "template"))
    unknown = unknown_in(loops) or unknown_in(template)
    if unknown is not None:
        return unknown
    if not isinstance(loops, dict):
        raise FunctionError("repeat's for_each is a map of lists")
    names = list(loops)
    lists = [
        list(item) if isinstance(item, list | dict) else list_of(item, "repeat's for_each") for item in loops.values()
    ]
    if permutations in (False, "false", "False"):
        if len({len(item) for item in lists}) > 1:
            raise FunctionError("repeat without permutations wants lists of one length")
        combinations: Any = zip(*lists, strict=True)
        total = len(lists[0]) if lists else 0
    else:
        combinations = itertools.product(*lists)
        total = 1
        for item in lists:
            total *= len(item)
    if total > MAX_REPEAT:
        raise FunctionError(f"repeat makes {total} copies; at most {MAX_REPEAT} are made", "TOO_LARGE")
    return [_fill(template, dict(zip(names, values, strict=True))) for values in combinations]


def _fill(node: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(node, str):
        if node in names:
            return names[node]
        for name in sorted(names, key=len, reverse=True):
            if name in node:
                value = names[name]
                node = node.replace(name, json.dumps(value) if isinstance(value, dict | list) else text_of(value, name))
        return node
    if isinstance(node, list):
        return [_fill(item, names) for item in node]
    if isinstance(node, dict):
        return {str(_fill(key, names)): _fill(value, names) for key, value in node.items()}
    return node


def filter_(scope: Scope, argument: Any, path: Path) -> Any:
    """filter: [values to leave out, list]."""
    unwanted, items = list_of(scope.evaluate(argument, path), "filter", 2)
    unknown = unknown_in([unwanted, items])
    if unknown is not None:
        return unknown
    return [item for item in list_of(items, "filter") if item not in list_of(unwanted, "filter")]


def list_concat(scope: Scope, argument: Any, path: Path) -> Any:
    """list_concat: lists one after the other."""
    value = scope.evaluate(argument, path)
    unknown = unknown_in(value)
    if unknown is not None:
        return unknown
    return list(
        itertools.chain.from_iterable(
            list_of(item, "list_concat") for item in list_of(value, "list_concat") if item is not None
        )
    )


def list_concat_unique(scope: Scope, argument: Any, path: Path) -> Any:
    """list_concat_unique: list_concat, each value once."""
    items = list_concat(scope, argument, path)
    if isinstance(items, Unknown):
        return items
    result: list[Any] = []
    for item in items:
        if item not in result:
            result.append(item)
    return result


def contains(scope: Scope, argument: Any, path: Path) -> Any:
    """contains: [value, list or text or map]."""
    value, items = list_of(scope.evaluate(argument, path), "contains", 2)
    unknown = unknown_in([value, items])
    if unknown is not None:
        return unknown
    if isinstance(items, str):
        return text_of(value, "contains") in items
    if not isinstance(items, list | dict):
        raise FunctionError("contains takes [value, list]")
    return any(equal(item, value) for item in items)
