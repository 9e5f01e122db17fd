"""Walks a template's value and replaces functions by what they give. Pure: everything known comes in through a Scope.

What is not known yet (an attribute of a resource that does not exist) is an `Unknown`; a function of something unknown is
unknown, so that one evaluation serves validation, planning and the real thing. The names a value refers to are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.documents import Path
from pcloud.stacks.template import Dialect, Template

MAX_RESULT = 8 * 1024 * 1024
"""Characters that one function may produce: nested joins of joins double at every level otherwise."""


class Unknown:
    """A value that is known only after something was made; says which."""

    __slots__ = ("because",)

    def __init__(self, because: str) -> None:
        self.because = because

    def __repr__(self) -> str:
        return f"<known after {self.because}>"


class _NoValue:
    """AWS::NoValue: the property that has it is left out."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "AWS::NoValue"


NO_VALUE = _NoValue()


class FunctionError(Exception):
    """A function was given something it can not use."""

    def __init__(self, message: str, code: str = "BAD_FUNCTION", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


Function = Callable[["Scope", Any, Path], Any]


def unknown_in(value: Any) -> Unknown | None:
    """Return the first Unknown within a value, or None."""
    if isinstance(value, Unknown):
        return value
    if isinstance(value, dict):
        for child in value.values():
            found = unknown_in(child)
            if found is not None:
                return found
    elif isinstance(value, list):
        for child in value:
            found = unknown_in(child)
            if found is not None:
                return found
    return None


class Scope:
    """What can be known while one template is evaluated.

    Subclass or fill: `attribute` and `reference` give what resources offer. Names used are collected in `used`.
    """

    def __init__(
        self,
        template: Template,
        parameters: Mapping[str, Any],
        *,
        pseudo: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        imports: Mapping[str, str] | None = None,
        attribute: Callable[[str, str, list[Any]], Any] | None = None,
        reference: Callable[[str], Any] | None = None,
        facade: Callable[[str], Any] | None = None,
        every_branch: bool = False,
    ) -> None:
        from pcloud.stacks.functions.cfn import functions_of_cfn
        from pcloud.stacks.functions.hot import functions_of_hot

        self.template = template
        self.parameters = parameters
        self.pseudo = pseudo or {}
        self.files = files or {}
        self.imports = imports
        self.every_branch = every_branch
        """Evaluate both sides of every `if`, for validation."""
        self.used: set[str] = set()
        self.imported: set[str] = set()
        self.enabled: frozenset[str] | None = None
        """Resources whose condition holds; None while that is not known."""
        self._attribute = attribute
        self._reference = reference
        self.facade = facade
        self.problems: list[Problem] = []
        self._conditions: dict[str, Any] = {}
        self._deciding: list[str] = []
        self.functions: Mapping[str, Function] = (
            functions_of_cfn(template) if template.dialect is Dialect.CFN else functions_of_hot(template)
        )

    # --- what functions ask

    def reference(self, name: str) -> Any:
        """Return what `Ref` / `get_resource` of a resource gives."""
        self._seen(name)
        if self._reference is not None:
            return self._reference(name)
        return Unknown(name)

    def attribute(self, name: str, attribute: str, path: list[Any]) -> Any:
        """Return what `Fn::GetAtt` / `get_attr` of a resource gives."""
        self._seen(name)
        if self._attribute is not None:
            return self._attribute(name, attribute, path)
        return Unknown(f"{name}.{attribute}")

    def _seen(self, name: str) -> None:
        if name not in self.template.resources:
            raise FunctionError(f"there is no resource '{name}'", "UNKNOWN_REFERENCE", self._near(name))
        self.used.add(name)

    def _near(self, name: str) -> str:
        import difflib

        near = difflib.get_close_matches(name, [*self.template.resources, *self.template.parameters], 1)
        return f"did you mean '{near[0]}'?" if near else ""

    def import_value(self, name: str) -> Any:
        """Return the value another stack exports."""
        self.imported.add(name)
        if self.imports is None:
            return Unknown(f"the export {name}")
        if name not in self.imports:
            raise FunctionError(f"no stack exports '{name}'", "UNKNOWN_EXPORT")
        return self.imports[name]

    def condition(self, name: str) -> bool | Unknown:
        """Return whether a named condition holds."""
        if name in self._conditions:
            return self._conditions[name]  # type: ignore[no-any-return]
        if name not in self.template.conditions:
            raise FunctionError(f"there is no condition '{name}'", "UNKNOWN_REFERENCE")
        if name in self._deciding:
            raise FunctionError(f"the conditions {' → '.join([*self._deciding, name])} need each other", "CYCLE")
        self._deciding.append(name)
        try:
            value = self.truth(self.template.conditions[name], (self.template.section("conditions"), name))
        finally:
            self._deciding.pop()
        self._conditions[name] = value
        return value

    def truth(self, node: Any, path: Path) -> bool | Unknown:
        """Evaluate a condition expression: a truth value, a condition's name or a function."""
        if isinstance(node, str):
            if node in self.template.conditions:
                return self.condition(node)
            if node.lower() in ("true", "false"):
                return node.lower() == "true"
            raise FunctionError(f"there is no condition '{node}'", "UNKNOWN_REFERENCE")
        value = self.evaluate(node, path)
        if isinstance(value, bool | Unknown):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if self.template.dialect is Dialect.HOT and isinstance(value, int | float | str | list | dict):
            return bool(value)
        raise FunctionError("a condition must be true or false")

    # --- the walk

    def evaluate(self, node: Any, path: Path) -> Any:
        """Return the value of a node; FunctionError where a function fails (the first problem only)."""
        if isinstance(node, dict):
            if len(node) == 1:
                (name,) = node
                function = self.functions.get(name)
                if function is not None:
                    result = function(self, node[name], (*path, name))
                    if isinstance(result, str) and len(result) > MAX_RESULT:
                        raise FunctionError(f"{name} gives more than {MAX_RESULT} characters", "TOO_LARGE")
                    return result
                if name.startswith("Fn::"):
                    raise FunctionError(f"the function '{name}' is not known here", "UNKNOWN_FUNCTION", self._known())
            result = {}
            for key, child in node.items():
                value = self.evaluate(child, (*path, key)) if isinstance(child, dict | list) else child
                if value is not NO_VALUE:
                    result[key] = value
            return result
        if isinstance(node, list):
            items = []
            for index, child in enumerate(node):
                value = self.evaluate(child, (*path, index)) if isinstance(child, dict | list) else child
                if value is not NO_VALUE:
                    items.append(value)
            return items
        return node

    def _known(self) -> str:
        return f"known are: {', '.join(sorted(self.functions))}"

    def collect(self, node: Any, path: Path) -> Any:
        """Like `evaluate`, but note the problems of every part in `problems` and put an Unknown in its place."""
        if isinstance(node, dict) and not (len(node) == 1 and self._is_function(next(iter(node)))):
            result = {}
            for key, child in node.items():
                value = self.collect(child, (*path, key))
                if value is not NO_VALUE:
                    result[key] = value
            return result
        if isinstance(node, list):
            values = [self.collect(child, (*path, index)) for index, child in enumerate(node)]
            return [value for value in values if value is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        try:
            return self.evaluate(node, path)
        except FunctionError as problem:
            self.note(problem, path)
        except RecursionError:
            self.note(FunctionError("functions are nested too deeply", "TOO_DEEP"), path)
        return Unknown("a mistake is mended")

    def _is_function(self, name: str) -> bool:
        return name in self.functions or name.startswith("Fn::")

    def note(self, problem: FunctionError, path: Path) -> None:
        """Note a function's problem."""
        self.problems.append(self.template.problem(problem.code, str(problem), path, hint=problem.hint))

    def finish(self) -> None:
        """Raise InvalidDocument when problems were noted."""
        if self.problems:
            raise InvalidDocument.from_problems(self.problems)


# --- what the functions of both languages share


def text_of(value: Any, what: str) -> str:
    """Return a scalar as text; FunctionError for lists and maps."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    if value is None:
        return ""
    raise FunctionError(f"{what} must be text, not a {'list' if isinstance(value, list) else 'map'}")


def list_of(value: Any, what: str, length: int | None = None) -> list[Any]:
    """Return a list, of a given length where one is given; FunctionError otherwise."""
    if not isinstance(value, list):
        raise FunctionError(f"{what} takes a list")
    if length is not None and len(value) != length:
        raise FunctionError(f"{what} takes a list of {length}, not of {len(value)}")
    return value


def walk(value: Any, path: list[Any]) -> Any:
    """Follow keys and indexes into a value; None where there is nothing (as Heat does)."""
    for part in path:
        if isinstance(value, Unknown):
            return value
        if isinstance(value, str) and value[:1] in "{[":
            import json

            try:
                value = json.loads(value)
            except ValueError:
                return None
        try:
            if isinstance(value, dict):
                value = value[part] if part in value else value[str(part)]
            elif isinstance(value, list):
                value = value[int(part)]
            else:
                return None
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return value


def equal(left: Any, right: Any) -> bool:
    """Compare as templates do: 1 and "1" are equal, true and "true" too."""
    if left == right:
        return True
    if isinstance(left, dict | list) or isinstance(right, dict | list):
        return False
    return text_of(left, "") == text_of(right, "")


def either(scope: Scope, chosen: bool | Unknown, yes: Any, no: Any, path: Path) -> Any:
    """Evaluate the chosen branch of an `if`, or both in validation."""
    if scope.every_branch or isinstance(chosen, Unknown):
        first = scope.evaluate(yes, (*path, 1))
        second = scope.evaluate(no, (*path, 2))
        if isinstance(chosen, Unknown):
            return chosen
        return first if chosen else second
    return scope.evaluate(yes, (*path, 1)) if chosen else scope.evaluate(no, (*path, 2))
