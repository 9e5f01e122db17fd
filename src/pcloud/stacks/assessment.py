"""Judges a template with its parameters: types, properties as far as known, references, cycles, conditions. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pcloud.model.errors import InvalidDocument, Problem
from pcloud.stacks.documents import Path
from pcloud.stacks.functions.evaluation import NO_VALUE, FunctionError, Scope, Unknown
from pcloud.stacks.lifecycle import policies_judged, removals_judged
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import EXTERNAL, ResourceRecord
from pcloud.stacks.schema import Checked, PropertyProblem, check_properties
from pcloud.stacks.template import Dialect, ResourceDefinition, Template
from pcloud.stacks.types.base import ResourceType
from pcloud.stacks.types.external import ID, not_found
from pcloud.stacks.types.registry import find_type, types


class Node(msgspec.Struct, kw_only=True):
    """One resource that the template wants."""

    name: str
    definition: ResourceDefinition
    type: Any
    requires: frozenset[str]
    path: Path


class Assessment(msgspec.Struct, kw_only=True):
    """A template judged with its parameters: its enabled resources in an order in which they can be made."""

    template: Template
    scope: Any
    nodes: dict[str, Node]
    notes: list[str] = []


def conditions_of(scope: Scope, template: Template) -> frozenset[str]:
    """Return the names of the resources whose condition holds; problems are noted in the scope."""
    enabled = set()
    for name, definition in template.resources.items():
        try:
            holds = definition.condition is None or scope.truth(
                definition.condition, (template.section("resources"), name, "condition")
            )
        except FunctionError as problem:
            scope.note(problem, (template.section("resources"), name))
            continue
        if holds is not False:
            enabled.add(name)
    return frozenset(enabled)


def assess(
    scope: Scope,
    *,
    registry: Mapping[str, Any],
    capabilities: frozenset[str],
    platform: Platform | None = None,
    occupied: Callable[[str, str], str] | None = None,
    beneath: Callable[[ResourceDefinition, ResourceType, Mapping[str, Any], Path], list[Problem]] | None = None,
    find: Callable[[str], ResourceRecord | None] | None = None,
) -> Assessment:
    """Judge a template: types, properties as far as known, references, cycles. InvalidDocument lists all problems.

    `occupied` says why a resource can not have an address that it asks for, empty when it can; `beneath` what is wrong in
    the nested stack that a resource stands for; `find` looks for what a resource stands for by its `external_id`.
    """
    template = scope.template
    section = template.section("resources")
    for name in template.conditions:
        try:
            scope.condition(name)
        except FunctionError as problem:
            scope.note(problem, (template.section("conditions"), name))
    scope.enabled = conditions_of(scope, template)
    nodes: dict[str, Node] = {}
    notes: list[str] = []
    claimed: dict[str, str] = {}
    for name, definition in template.resources.items():
        path: Path = (section, name)
        kind, refusal, hint = find_type(definition.type, registry, scope.files)
        if kind is None:
            scope.problems.append(
                template.problem("UNKNOWN_TYPE" if "refused" not in refusal else "REFUSED", refusal, path, hint=hint)
            )
        elif name in scope.enabled and kind.needs - capabilities:
            lacking = ", ".join(sorted(kind.needs - capabilities))
            why = f" ({platform.why(sorted(kind.needs - capabilities))})" if platform is not None else ""
            scope.problems.append(
                template.problem("REFUSED", f"{definition.type} is refused: this platform has no {lacking}{why}", path)
            )
        if definition.external_id is not None:
            definition, kind = _external(definition), types()[EXTERNAL]
        removals_judged(scope, definition, path, kind, capabilities)
        scope.used = set()
        depends = depends_of(scope, definition, path)
        properties = scope.collect(definition.properties, (*path, template.properties_key))
        scope.collect(definition.metadata, (*path, "Metadata" if template.dialect is Dialect.CFN else "metadata"))
        if properties is NO_VALUE:
            properties = {}
        if definition.external_id is not None:
            _external_judged(
                scope, definition, properties, scope.used | depends, find if name in scope.enabled else None
            )
        policies_judged(scope, definition, path)
        if isinstance(properties, dict) and kind is not None:
            checked = check(kind, properties)
            report(scope, checked, (*path, template.properties_key))
            if platform is not None and name in scope.enabled and not kind.needs - capabilities:
                refused = kind.check_on(checked.values, platform)
                refused += _claims(name, kind, checked.values, claimed, occupied)
                report(scope, Checked(values={}, problems=tuple(refused)), (*path, template.properties_key))
            if beneath is not None and kind.nested and not checked.problems and _certain(scope, definition, name):
                scope.problems += beneath(definition, kind, checked.values, path)
            if name in scope.enabled:
                notes.extend(f"{name}: {note}" for note in checked.notes)
        elif not isinstance(properties, Unknown | dict):
            scope.problems.append(template.problem("WRONG_TYPE", "properties must be a map", path))
        if name in scope.enabled and kind is not None:
            requires = frozenset((scope.used | depends) - {name}) & scope.enabled
            if name in scope.used | depends:
                scope.problems.append(template.problem("CYCLE", f"the resource '{name}' refers to itself", path))
            nodes[name] = Node(name=name, definition=definition, type=kind, requires=requires, path=path)
    _outputs(scope)
    scope.finish()
    return Assessment(template=template, scope=scope, nodes=_sorted(template, nodes), notes=notes)


def _certain(scope: Scope, definition: ResourceDefinition, name: str) -> bool:
    """Whether a resource is made for certain: its condition holds, and does not wait for a value."""
    if name not in (scope.enabled or ()):
        return False
    return definition.condition is None or scope.truth(definition.condition, ()) is True


def _claims(
    name: str,
    kind: ResourceType,
    properties: Mapping[str, Any],
    claimed: dict[str, str],
    occupied: Callable[[str, str], str] | None,
) -> list[PropertyProblem]:
    """Judge the addresses that a resource asks for, and note them in `claimed`."""
    found = []
    for address, path in kind.claims(properties).items():
        other = claimed.setdefault(address, name)
        why = f"{address} is asked for by '{other}' too" if other != name else ""
        if not why and occupied is not None:
            why = occupied(name, address)
        if why:
            found.append(PropertyProblem(code="ADDRESS", message=why, path=path))
    return found


def _external(definition: ResourceDefinition) -> ResourceDefinition:
    """Return what there is of a resource that stands for another stack's: the rest of its definition says nothing."""
    return msgspec.structs.replace(
        definition, properties={ID: definition.external_id}, metadata={}, creation_policy=None, update_policy=None
    )


def _external_judged(
    scope: Scope,
    definition: ResourceDefinition,
    properties: Any,
    needed: set[str],
    find: Callable[[str], ResourceRecord | None] | None,
) -> None:
    where: Path = (scope.template.section("resources"), definition.name, "external_id")
    wanted = properties.get(ID) if isinstance(properties, dict) else None
    if needed:
        sentence = f"a resource with an external_id can not depend on others: {', '.join(sorted(needed))}"
        scope.problems.append(scope.template.problem("BAD_FUNCTION", sentence, where))
    elif find is not None and isinstance(wanted, str):
        found = find(wanted)
        if found is None or found.type != definition.type:
            scope.problems.append(scope.template.problem("NOT_FOUND", not_found(definition.type, wanted), where))


def depends_of(scope: Scope, definition: ResourceDefinition, path: Path) -> set[str]:
    """Return the names that a resource depends on explicitly."""
    names: set[str] = set()
    key = "DependsOn" if scope.template.dialect is Dialect.CFN else "depends_on"
    for item in definition.depends_on:
        value = scope.collect(item, (*path, key))
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, Unknown) or name is NO_VALUE or name is None:
                continue
            if name not in scope.template.resources:
                scope.note(FunctionError(f"there is no resource '{name}'", "UNKNOWN_REFERENCE"), (*path, key))
            else:
                names.add(name)
    return names


def check(kind: ResourceType, properties: Mapping[str, Any]) -> Checked:
    """Check properties by the type's schema and its own rules."""
    if not kind.schema and kind.attributes is None:
        return Checked(values=dict(properties))
    checked = check_properties(kind.schema, properties)
    problems, notes = kind.check(checked.values), kind.notes(checked.values)
    return msgspec.structs.replace(checked, problems=(*checked.problems, *problems), notes=(*checked.notes, *notes))


def report(scope: Scope, checked: Checked, path: Path) -> None:
    """Note what is wrong with properties."""
    for item in checked.problems:
        scope.problems.append(scope.template.problem(item.code, item.message, (*path, *item.path), hint=item.hint))


def _outputs(scope: Scope) -> None:
    template = scope.template
    for name, output in template.outputs.items():
        path = (template.section("outputs"), name)
        try:
            holds = output.condition is None or scope.truth(output.condition, path)
        except FunctionError as problem:
            scope.note(problem, path)
            continue
        if holds is not False or scope.every_branch:
            scope.collect(output.value, (*path, "Value" if template.dialect is Dialect.CFN else "value"))
            scope.collect(output.export, (*path, "Export"))


def _sorted(template: Template, nodes: dict[str, Node]) -> dict[str, Node]:
    """Return the nodes in an order in which they can be made; InvalidDocument names a cycle."""
    missing = {name: len(node.requires) for name, node in nodes.items()}
    wanted_by: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for other in node.requires:
            wanted_by.setdefault(other, []).append(name)
    ready = [name for name, count in missing.items() if count == 0]
    order: dict[str, Node] = {}
    for name in ready:
        order[name] = nodes[name]
        for other in wanted_by.get(name, ()):
            missing[other] -= 1
            if missing[other] == 0:
                ready.append(other)
    if len(order) < len(nodes):
        cycle = _cycle({name: node.requires for name, node in nodes.items() if name not in order})
        sentence = f"these resources need each other: {' → '.join(cycle)}"
        raise InvalidDocument(template.problem("CYCLE", sentence, (template.section("resources"), cycle[0])))
    return order


def _cycle(requires: Mapping[str, frozenset[str]]) -> list[str]:
    name = next(iter(requires))
    seen: list[str] = []
    while name not in seen:
        seen.append(name)
        name = next(iter(sorted(requires[name] & requires.keys())))
    return [*seen[seen.index(name) :], name]
