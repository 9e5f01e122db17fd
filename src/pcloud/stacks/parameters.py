"""Values of parameters: parsing what a user gave, defaults and constraints. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.template import Constraint, Dialect, ParameterSchema, Template

MAX_VALUE = 1024 * 1024
MAX_PATTERN_INPUT = 4096
"""Characters of a value that an allowed pattern is tried on; longer ones are refused, since patterns may backtrack."""


def parse_value(schema: ParameterSchema, value: Any) -> Any:
    """Return a value in its parameter's type; ValueError with a sentence when it is not one."""
    match schema.type:
        case "string":
            if isinstance(value, bool):
                return "true" if value else "false"
            if isinstance(value, dict | list):
                return json.dumps(value, separators=(",", ":"))
            return "" if value is None else str(value)
        case "number":
            return _number(value)
        case "boolean":
            if isinstance(value, bool):
                return value
            text = str(value).strip().lower()
            if text in ("true", "t", "1", "on", "y", "yes"):
                return True
            if text in ("false", "f", "0", "off", "n", "no"):
                return False
            raise ValueError(f"'{value}' is neither true nor false")
        case "list" | "numbers":
            items = value if isinstance(value, list) else [] if value in ("", None) else str(value).split(",")
            if schema.type == "numbers":
                return [_number(item) for item in items]
            return [item.strip() if isinstance(item, str) else item for item in items]
        case "json":
            if isinstance(value, dict | list):
                return value
            if value in ("", None):
                return {}
            try:
                parsed = json.loads(str(value))
            except (ValueError, RecursionError):
                raise ValueError("the value is not JSON") from None
            if not isinstance(parsed, dict | list):
                raise ValueError("the value must be a JSON object or list")
            return parsed
    raise ValueError(f"unknown type {schema.type}")


def _number(value: Any) -> int | float:
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    if isinstance(value, int | float):
        return value
    text = str(value).strip()
    if len(text) > 400:
        raise ValueError("the number has too many digits")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"'{text[:100]}' is not a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"'{text}' is not a finite number")
    return number


def violation(constraint: Constraint, schema: ParameterSchema, value: Any) -> str:
    """Return the sentence of a broken constraint, or an empty string."""
    ok = True
    rule = ""
    match constraint.kind:
        case "length":
            size = len(value) if isinstance(value, str | list | dict) else len(str(value))
            ok = (constraint.minimum is None or size >= constraint.minimum) and (
                constraint.maximum is None or size <= constraint.maximum
            )
            rule = f"its length must be {_bounds(constraint)}, not {size}"
        case "range":
            numbers = value if isinstance(value, list) else [value]
            for item in numbers:
                if isinstance(item, int | float):
                    ok = ok and (constraint.minimum is None or item >= constraint.minimum)
                    ok = ok and (constraint.maximum is None or item <= constraint.maximum)
            rule = f"it must be {_bounds(constraint)}"
        case "modulo":
            ok = isinstance(value, int | float) and (value - constraint.offset) % constraint.step == 0
            rule = f"it must be a multiple of {constraint.step:g} plus {constraint.offset:g}"
        case "allowed_values":
            allowed = {str(item) for item in constraint.values}
            items = value if isinstance(value, list) else [value]
            ok = all(str(item) in allowed or item in constraint.values for item in items)
            if not ok and isinstance(value, list):  # a list may be named whole, too
                ok = ",".join(str(item) for item in value) in {re.sub(r"\s*,\s*", ",", text) for text in allowed}
            rule = f"it must be one of {', '.join(str(item) for item in constraint.values[:20])}"
        case "allowed_pattern":
            texts = [str(item) for item in value] if isinstance(value, list) else [str(value)]
            length = sum(map(len, texts))
            if length > MAX_PATTERN_INPUT:
                return f"the value of '{schema.name}' is too long ({length}) to be matched with a pattern"
            ok = all(re.fullmatch(constraint.pattern, text) for text in texts)
            rule = f"it must match the pattern {constraint.pattern}"
        case _:
            return ""
    if ok:
        return ""
    shown = "the value" if schema.hidden or isinstance(value, dict | list) else f"'{str(value)[:100]}'"
    return f"{shown} is not allowed: {constraint.description.strip() or rule}"


def _bounds(constraint: Constraint) -> str:
    low, high = constraint.minimum, constraint.maximum
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"at least {low:g}" if low is not None else f"at most {high:g}"


def parameter_values(
    template: Template, given: Mapping[str, Any], *, complete: bool = True, later: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the values of all parameters, parsed and checked. InvalidDocument lists every missing, unknown or bad one.

    With `complete` false, parameters without a value are left out (a plan of a template alone), and so are those whose
    values are given `later`.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    section = template.section("parameters")
    problems.extend(
        Problem(
            code="UNKNOWN_PARAMETER",
            message=f"the template has no parameter '{name}'",
            path=f"{section}/{name}",
            hint=f"it has: {', '.join(template.parameters) or 'none'}",
        )
        for name in (*given, *later)
        if name not in template.parameters
    )
    for name, schema in template.parameters.items():
        if name in later:
            continue
        source: Any = given.get(name)
        if name not in given or (source is None and not schema.required):
            if schema.required:
                if complete:
                    problems.append(
                        template.problem("MISSING_PARAMETER", f"the parameter '{name}' needs a value", (section, name))
                    )
                continue
            source = schema.default
        try:
            value = parse_value(schema, source)
            size = len(value) if isinstance(value, str) else 0
            if size > MAX_VALUE:
                raise ValueError(f"the value is longer than {MAX_VALUE} characters")
        except ValueError as problem:
            sentence = "the value is not of its type" if schema.hidden else str(problem)
            problems.append(template.problem("BAD_PARAMETER", f"parameter '{name}': {sentence}", (section, name)))
            continue
        for constraint in schema.constraints:
            sentence = violation(constraint, schema, value)
            if sentence:
                problems.append(template.problem("BAD_PARAMETER", f"parameter '{name}': {sentence}", (section, name)))
        values[name] = value
    if problems:
        raise InvalidDocument.from_problems(problems)
    return values


def shown_values(template: Template, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values as text for people, hidden ones masked."""
    result: dict[str, str] = {}
    for name, value in values.items():
        schema = template.parameters.get(name)
        if schema is not None and schema.hidden:
            result[name] = "******" if template.dialect is Dialect.HOT else "****"
        elif isinstance(value, list) and all(not isinstance(item, dict | list) for item in value):
            result[name] = ",".join(str(item) for item in value)
        elif isinstance(value, dict | list):
            result[name] = json.dumps(value)
        elif isinstance(value, bool):
            result[name] = "True" if value else "False"
        else:
            result[name] = str(value)
    return result
