"""What can still be told of records that can not be read: field by field, as far as each is of its form. Pure.

A salvaged resource says in its data, under `LOST`, what of it is not known, so that it stays known once it is stored again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from pcloud.stacks.lifecycle import DELETION
from pcloud.stacks.records import ResourceRecord, StackRecord, derived_id
from pcloud.stacks.store import Unreadable
from pcloud.stacks.template import ResourceDefinition

LOST = "lost"
"""Key of a record's data: what of it could not be read, of the fields that matter for its end."""
_NEEDED = frozenset({"type", "physical", "properties", "data"})
"""What a type needs to know to remove its thing."""
_MATTERS = _NEEDED | {"deletion_policy"}
_MANY = 10_000
"""Resources times operations of a stack that are looked through for those that made something."""

_R = TypeVar("_R", StackRecord, ResourceRecord)


def _parts(kind: type[_R], told: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the fields of a record that can be read, and the names of the others."""
    found: dict[str, Any] = {}
    lost: set[str] = set()
    for field in msgspec.structs.fields(kind):
        if field.name not in told:
            if field.required or not told:
                lost.add(field.name)
            continue
        try:
            found[field.name] = msgspec.convert(told[field.name], field.type)
        except msgspec.ValidationError:
            lost.add(field.name)
    return found, frozenset(lost)


def salvaged_stack(item: Unreadable, parent: str = "") -> StackRecord:
    """Return what stands in for a stack's record. `parent` is the stack that it is nested in, when its own record does not
    say so."""
    found, _ = _parts(StackRecord, item.told)
    known = {"name": item.id, "status": "UPDATE_FAILED", "parent": parent, "root": parent} | found
    return StackRecord(**{**known, "id": item.id})


def salvaged_resource(
    item: Unreadable, stack: StackRecord, definitions: Mapping[str, ResourceDefinition], names: Mapping[str, str]
) -> ResourceRecord:
    """Return what is known of a resource: from its record, and where that does not say so from its stack's template.
    `names` are those of `names_by_id`."""
    found, lost = _parts(ResourceRecord, item.told)
    if "name" in lost:
        found["name"] = names.get(item.id, item.id)
    if "type" in lost and found.get("made_as"):  # what its type stood for, which decides
        found["type"], lost = found["made_as"], lost - {"type"}
    definition = definitions.get(found["name"])
    if definition is not None:
        found.setdefault("type", definition.type)  # what it is called; another type may have made it
        if "deletion_policy" in lost and (word := _policy(definition.deletion_policy)):
            found["deletion_policy"], lost = word, lost - {"deletion_policy"}
    known = {"type": "", "status": "UPDATE_FAILED"} | found
    record = ResourceRecord(**{**known, "id": item.id, "stack": stack.id})
    if missing := sorted(_MATTERS & lost | set(record.data.get(LOST, ()))):
        record.data = {**record.data, LOST: missing}
    return record


def names_by_id(stack: StackRecord, definitions: Mapping[str, ResourceDefinition]) -> dict[str, str]:
    """Return the resources of a template by the ids that their incarnations may have: these follow from the name and the
    number of the operation."""
    found: dict[str, str] = {}
    for name in definitions:
        for generation in range(min(stack.generation, _MANY // len(definitions)) + 1):
            for phase in ("on", "back"):
                identity = derived_id(stack.id, name, generation, phase)
                found |= {identity: name, derived_id(identity, "again"): name}
    return found


def _policy(written: Any) -> str:
    words = {**DELETION["DeletionPolicy"], **DELETION["deletion_policy"]}
    return words.get(written, "") if isinstance(written, str) else ""


def unknown_of(record: ResourceRecord) -> frozenset[str]:
    """Return what of a record could not be read, of what matters for its end."""
    return frozenset(record.data.get(LOST, ()))


def beyond_its_type(record: ResourceRecord) -> bool:
    """Whether too little is known of a resource for its type to remove it."""
    return bool(unknown_of(record) & _NEEDED)
