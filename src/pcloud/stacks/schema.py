"""Schemas of resource types' properties: what is allowed, what a change of each means, and conversion of values. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from pcloud.stacks.functions.evaluation import Unknown


class OnChange(StrEnum):
    """What a changed property does to its resource."""

    UPDATE = "update"
    """Applied in place."""
    REPLACE = "replace"
    """A new resource is made, then the old one is deleted."""
    NOTHING = "nothing"
    """Only recorded."""


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """One property of a resource type."""

    type: str = "string"
    """`string`, `integer`, `number`, `boolean`, `list`, `map`, `any`."""
    required: bool = False
    default: Any = None
    on_change: OnChange = OnChange.REPLACE
    allowed: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    fields: Mapping[str, Property] | None = None
    """Of a map, or of each map in a list."""
    single: bool = False
    """Whether one map may stand for a list that holds it."""
    secret: bool = False
    """Masked wherever properties are shown."""
    inert: str = ""
    """Why the property has no effect here; told in the plan, never silently dropped."""
    refused: str = ""
    """Why a template that sets this property is refused."""
    description: str = ""


Schema = Mapping[str, Property]


def text(**kwargs: Any) -> Property:
    """A text property."""
    return Property(type="string", **kwargs)


def integer(**kwargs: Any) -> Property:
    """A whole number."""
    return Property(type="integer", **kwargs)


def number(**kwargs: Any) -> Property:
    """A number."""
    return Property(type="number", **kwargs)


def boolean(**kwargs: Any) -> Property:
    """A truth value."""
    return Property(type="boolean", **kwargs)


def listing(**kwargs: Any) -> Property:
    """A list."""
    return Property(type="list", **kwargs)


def mapping(**kwargs: Any) -> Property:
    """A map."""
    return Property(type="map", **kwargs)


def anything(**kwargs: Any) -> Property:
    """A value of any type."""
    return Property(type="any", **kwargs)


class PropertyProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a property; the path is relative to the properties."""

    code: str
    message: str
    path: tuple[str | int, ...]
    hint: str = ""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Converted properties, what is wrong with them, and what of them has no effect here."""

    values: dict[str, Any]
    problems: tuple[PropertyProblem, ...] = ()
    notes: tuple[str, ...] = ()


def check_properties(schema: Schema, values: Mapping[str, Any]) -> Checked:
    """Convert properties to their types, fill in defaults, and collect every problem."""
    problems: list[PropertyProblem] = []
    notes: list[str] = []
    result = _fields(schema, values, (), problems, notes)
    return Checked(values=result, problems=tuple(problems), notes=tuple(notes))


def _fields(
    schema: Schema,
    values: Mapping[str, Any],
    path: tuple[str | int, ...],
    problems: list[PropertyProblem],
    notes: list[str],
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in values:
        if name not in schema:
            near = ", ".join(sorted(schema)) if len(schema) < 40 else ""
            problems.append(
                PropertyProblem(
                    code="UNKNOWN_PROPERTY",
                    message=f"the property '{name}' is not known",
                    path=(*path, name),
                    hint=f"known are: {near}" if near else "",
                )
            )
    for name, rule in schema.items():
        value = values.get(name)
        if value is None:
            if rule.required:
                problems.append(
                    PropertyProblem(
                        code="MISSING_PROPERTY", message=f"the property '{name}' is needed", path=(*path, name)
                    )
                )
            elif rule.default is not None:
                result[name] = rule.default
            continue
        if rule.refused:
            problems.append(
                PropertyProblem(
                    code="REFUSED",
                    message=f"the property '{name}' can not be honoured: {rule.refused}",
                    path=(*path, name),
                )
            )
            continue
        if rule.inert:
            notes.append(f"{'.'.join(str(part) for part in (*path, name))} has no effect here: {rule.inert}")
        try:
            result[name] = _convert(rule, value, (*path, name), problems, notes)
        except ValueError as problem:
            problems.append(PropertyProblem(code="BAD_PROPERTY", message=f"'{name}': {problem}", path=(*path, name)))
    return result


def _convert(
    rule: Property, value: Any, path: tuple[str | int, ...], problems: list[PropertyProblem], notes: list[str]
) -> Any:
    if isinstance(value, Unknown) or rule.type == "any":
        return value
    converted = _scalar_or_container(rule, value)
    if rule.allowed and not isinstance(converted, list) and converted not in rule.allowed:
        raise ValueError(f"'{converted}' is not one of {', '.join(str(item) for item in rule.allowed)}")
    if isinstance(converted, int | float) and not isinstance(converted, bool):
        if rule.minimum is not None and converted < rule.minimum:
            raise ValueError(f"{converted} is less than {rule.minimum:g}")
        if rule.maximum is not None and converted > rule.maximum:
            raise ValueError(f"{converted} is more than {rule.maximum:g}")
    if rule.fields is not None:
        if isinstance(converted, dict):
            return _fields(rule.fields, converted, path, problems, notes)
        items: list[Any] = []
        for index, item in enumerate(converted):
            if isinstance(item, Unknown):
                items.append(item)
            elif not isinstance(item, dict):
                problems.append(PropertyProblem(code="BAD_PROPERTY", message="this must be a map", path=(*path, index)))
            else:
                items.append(_fields(rule.fields, item, (*path, index), problems, notes))
        return items
    return converted


def _scalar_or_container(rule: Property, value: Any) -> Any:
    match rule.type:
        case "string":
            if isinstance(value, dict | list):
                raise ValueError("this must be text")
            if isinstance(value, bool):
                return "true" if value else "false"
            return str(value)
        case "integer":
            if isinstance(value, bool | dict | list):
                raise ValueError("this must be a whole number")
            try:
                number = float(value)
            except ValueError:
                raise ValueError(f"'{str(value)[:50]}' is not a whole number") from None
            if number != int(number):
                raise ValueError(f"'{value}' is not a whole number")
            return int(number)
        case "number":
            if isinstance(value, bool | dict | list):
                raise ValueError("this must be a number")
            try:
                return float(value)
            except ValueError:
                raise ValueError(f"'{str(value)[:50]}' is not a number") from None
        case "boolean":
            if isinstance(value, bool):
                return value
            if str(value).lower() in ("true", "1", "yes", "on"):
                return True
            if str(value).lower() in ("false", "0", "no", "off"):
                return False
            raise ValueError(f"'{str(value)[:50]}' is neither true nor false")
        case "list":
            if isinstance(value, list):
                return value
            if isinstance(value, dict) and rule.single:
                return [value]
            if isinstance(value, str):
                return [item.strip() for item in value.split(",")] if value else []
            raise ValueError("this must be a list")
        case "map":
            if isinstance(value, str) and value[:1] == "{":
                try:
                    value = json.loads(value)
                except ValueError:
                    raise ValueError("this must be a map") from None
            if isinstance(value, dict):
                return value
            raise ValueError("this must be a map")
    raise ValueError(f"unknown type {rule.type}")


def masked(schema: Schema, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties as they may be shown."""
    return {name: "****" if name in schema and schema[name].secret else value for name, value in values.items()}
