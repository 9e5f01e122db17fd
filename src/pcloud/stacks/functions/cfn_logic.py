"""CloudFormation's functions that tell true from false, for conditions and rules; Heat uses some of them. Pure."""

from __future__ import annotations

from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.functions.evaluation import (
    FunctionError,
    Scope,
    Unknown,
    either,
    equal,
    list_of,
    unknown_in,
)


def if_(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::If: [condition, value when true, value when false]."""
    name, yes, no = list_of(argument, "Fn::If", 3)
    if not isinstance(name, str):
        raise FunctionError("the first part of Fn::If is the name of a condition")
    return either(scope, scope.condition(name), yes, no, path)


def condition(scope: Scope, argument: Any, path: Path) -> Any:
    """Condition: the value of another condition."""
    if not isinstance(argument, str):
        raise FunctionError("Condition takes a name")
    return scope.condition(argument)


def _truths(scope: Scope, argument: Any, path: Path, what: str, low: int, high: int) -> list[bool | Unknown]:
    parts = list_of(argument, what)
    if not low <= len(parts) <= high:
        raise FunctionError(f"{what} takes between {low} and {high} conditions")
    return [scope.truth(part, (*path, index)) for index, part in enumerate(parts)]


def and_(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::And of 2 to 10 conditions."""
    values = _truths(scope, argument, path, "Fn::And", 1, 10)
    if any(value is False for value in values):
        return False
    return unknown_in(values) or True


def or_(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Or of 2 to 10 conditions."""
    values = _truths(scope, argument, path, "Fn::Or", 1, 10)
    if any(value is True for value in values):
        return True
    return unknown_in(values) or False


def not_(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Not of one condition."""
    (value,) = _truths(scope, argument if isinstance(argument, list) else [argument], path, "Fn::Not", 1, 1)
    return value if isinstance(value, Unknown) else not value


def equals(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Equals of two values."""
    values = list_of(scope.evaluate(argument, path), "Fn::Equals", 2)
    unknown = unknown_in(values)
    return unknown if unknown is not None else equal(values[0], values[1])


def contains(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::Contains: [list, value]."""
    items, value = list_of(scope.evaluate(argument, path), "Fn::Contains", 2)
    unknown = unknown_in([items, value])
    if unknown is not None:
        return unknown
    return any(equal(item, value) for item in list_of(items, "Fn::Contains"))


def each_equals(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::EachMemberEquals: [list, value]."""
    items, value = list_of(scope.evaluate(argument, path), "Fn::EachMemberEquals", 2)
    unknown = unknown_in([items, value])
    return (
        unknown if unknown is not None else all(equal(item, value) for item in list_of(items, "Fn::EachMemberEquals"))
    )


def each_in(scope: Scope, argument: Any, path: Path) -> Any:
    """Fn::EachMemberIn: [list, list]."""
    items, allowed = list_of(scope.evaluate(argument, path), "Fn::EachMemberIn", 2)
    unknown = unknown_in([items, allowed])
    if unknown is not None:
        return unknown
    return all(any(equal(item, other) for other in allowed) for item in list_of(items, "Fn::EachMemberIn"))
