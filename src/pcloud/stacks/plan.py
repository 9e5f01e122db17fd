"""From a template and what exists to a plan: which resources, in which order, and what happens to each. Pure.

`assessment.assess` is the one judgement: validation, the dry run and the engine all call it, and the engine takes its
decisions with `decide` on the values that are known by then. So what is planned is what happens; where a plan depends on a
value that only exists later, it says so (`conditional`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pcloud.stacks.assessment import Assessment, Node, check, report
from pcloud.stacks.functions.evaluation import Scope, unknown_in
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange
from pcloud.stacks.template import ResourceDefinition
from pcloud.stacks.types.base import ResourceType
from pcloud.stacks.types.registry import alias_of, is_template_name, made_as_of


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one resource."""

    action: str
    """`create`, `update`, `metadata`, `replace`, `delete`, `retain` or `none`."""
    name: str
    type: str
    physical: str = ""
    changed: tuple[str, ...] = ()
    """Properties that differ."""
    replacing: tuple[str, ...] = ()
    """Those of them that need a replacement."""
    conditional: bool = False
    """Whether it depends on a value that is not known yet."""
    why: str = ""
    waits_for: tuple[str, ...] = ()
    """Resources of the same plan that come first: those it needs; of one that is deleted, those that need it."""
    beneath: tuple[Change, ...] = ()
    """What happens to the resources of its nested stack, where that was asked for and is known."""
    before: Mapping[str, Any] | None = None
    """Its properties as they are; None of what is new."""
    after: Mapping[str, Any] | None = None
    """Its properties as they will be, some of them Unknown yet; None of what goes. Both may hold secrets."""


def decide(
    kind: ResourceType,
    record: ResourceRecord | None,
    definition: ResourceDefinition,
    properties: Mapping[str, Any],
    metadata: Any,
    registry: Mapping[str, Any],
    *,
    beneath: bool = False,
) -> Change:
    """Return what happens to one resource, given what is known of its wanted properties now. `beneath` says that what its
    nested stack is made from is other than before, whatever the properties are."""
    name, type_name = definition.name, definition.type
    if record is None:
        return Change(action="create", name=name, type=type_name, conditional=unknown_in(dict(properties)) is not None)
    before, now = record.made_as or alias_of(record.type, registry), made_as_of(definition, registry)
    other_file = record.type == type_name and is_template_name(before) and is_template_name(now)
    if before != now and not other_file:
        return Change(action="replace", name=name, type=type_name, physical=record.physical, why="its type changed")
    if record.status in ("CREATE_FAILED", "DELETE_FAILED", "DELETE_COMPLETE"):
        return Change(action="replace", name=name, type=type_name, physical=record.physical, why="it had failed")
    if record.data.get("unhealthy"):
        why = "it was marked unhealthy"
        return Change(action="replace", name=name, type=type_name, physical=record.physical, why=why)
    changed: list[str] = []
    replacing: list[str] = []
    conditional = False
    for key in {**record.properties, **properties}:
        old, new = record.properties.get(key), properties.get(key)
        if old == new:
            continue
        rule = kind.schema.get(key)
        on_change = rule.on_change if rule is not None else OnChange.UPDATE
        if on_change is OnChange.NOTHING:
            continue
        changed.append(key)
        conditional = conditional or unknown_in(new) is not None
        if on_change is OnChange.REPLACE:
            replacing.append(key)
    action = "none"
    if replacing:
        action = "replace"
    elif changed or record.dirty or beneath:
        action = "update"
    elif record.metadata != metadata and unknown_in(metadata) is None:
        action = "metadata"
    return Change(
        action=action,
        name=name,
        type=type_name,
        physical=record.physical,
        changed=tuple(sorted(changed)),
        replacing=tuple(sorted(replacing)),
        conditional=conditional,
        why=f"{', '.join(sorted(replacing))} can not be changed in place"
        if replacing
        else "what it is made from changed"
        if beneath
        else "",
    )


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation will do, in order."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def effective(self) -> tuple[Change, ...]:
        """Return the changes that are some."""
        return tuple(change for change in self.changes if change.action != "none")


def plan(
    assessment: Assessment,
    current: Mapping[str, ResourceRecord],
    attribute_scope: Any,
    registry: Mapping[str, Any],
    beneath: Callable[[Node, ResourceRecord, Mapping[str, Any]], bool],
    nested: Callable[[Change, Node, Mapping[str, Any]], tuple[Change, ...]] | None = None,
) -> Plan:
    """Compare a judged template with what exists. `attribute_scope(changes)` gives a Scope that knows what stays;
    `beneath` says of a resource with these properties whether what its nested stack is made from is other than before;
    `nested` what then happens to the resources of that."""
    changes: dict[str, Change] = {}
    scope: Scope = attribute_scope(changes)
    template = assessment.template
    for name, node in assessment.nodes.items():
        record = current.get(name)
        properties = scope.collect(node.definition.properties, (*node.path, template.properties_key))
        metadata = scope.collect(node.definition.metadata, (*node.path, "metadata"))
        checked = check(node.type, properties if isinstance(properties, dict) else {})
        report(scope, checked, (*node.path, template.properties_key))
        other = record is not None and beneath(node, record, checked.values)
        change = decide(node.type, record, node.definition, checked.values, metadata, registry, beneath=other)
        rows = nested(change, node, checked.values) if nested is not None and change.action != "none" else ()
        changes[name] = msgspec.structs.replace(
            change,
            waits_for=tuple(sorted(node.requires)),
            beneath=rows,
            before=record.properties if record is not None else None,
            after=checked.values,
        )
    scope.finish()
    left = {name: record for name, record in current.items() if name not in changes}
    return Plan(changes=(*changes.values(), *removals_planned(left)), notes=tuple(assessment.notes))


def removals_planned(records: Mapping[str, ResourceRecord]) -> list[Change]:
    """Return what happens to resources that nobody wants any more, by their names."""
    changes = []
    for name, record in sorted(records.items()):
        kept = record.deletion_policy in ("Retain", "RetainExceptOnCreate")
        changes.append(
            Change(
                action="retain" if kept else "delete",
                name=name,
                type=record.type,
                physical=record.physical,
                why="a snapshot is made first" if record.deletion_policy == "Snapshot" else "",
                waits_for=tuple(sorted(other for other, each in records.items() if name in each.requires)),
                before=record.properties,
            )
        )
    return changes
