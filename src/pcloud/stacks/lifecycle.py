"""The policies of a resource for its making, its changes and its end: evaluated and judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.functions.evaluation import NO_VALUE, FunctionError, Scope, Unknown
from pcloud.stacks.template import LANGUAGE_EXTENSIONS, Dialect, ResourceDefinition
from pcloud.stacks.types.base import ResourceType

DELETION: Mapping[str, Mapping[str, str]] = {
    "DeletionPolicy": {word: word for word in ("Delete", "Retain", "RetainExceptOnCreate", "Snapshot")},
    "UpdateReplacePolicy": {word: word for word in ("Delete", "Retain", "Snapshot")},
    "deletion_policy": {"delete": "Delete", "retain": "Retain", "snapshot": "Snapshot"},
}
"""What each key of a definition may say, and what it means."""


def word_of(key: str, value: Any) -> str:
    """Return what a policy for a thing's end means; FunctionError when it is none."""
    if value is NO_VALUE:
        return "Delete"
    known = DELETION[key]
    found = known.get(value.lower() if key == "deletion_policy" else value) if isinstance(value, str) else None
    if found is None:
        raise FunctionError(f"'{value}' is not one of {', '.join(known)}", "BAD_VALUE")
    return found


def removal_keys(definition: ResourceDefinition, dialect: Dialect) -> tuple[tuple[str, Any], ...]:
    """Return the policies for what is deleted, by their names, as they are written."""
    if dialect is Dialect.CFN:
        found = (definition.deletion_policy, definition.update_replace_policy)
        return tuple(zip(("DeletionPolicy", "UpdateReplacePolicy"), found, strict=True))
    return (("deletion_policy", definition.deletion_policy),)


def removals(scope: Scope, definition: ResourceDefinition, path: Path) -> tuple[str, str]:
    """Return what becomes of the thing when it is deleted and when it is replaced; FunctionError when that is not known."""
    words = []
    for key, written in removal_keys(definition, scope.template.dialect):
        value = scope.evaluate(written, (*path, key))
        if isinstance(value, Unknown):
            raise FunctionError(f"the {key} of {definition.name} needs {value.because}, which has no value")
        words.append(word_of(key, value))
    return words[0], words[-1]


def removals_judged(
    scope: Scope, definition: ResourceDefinition, path: Path, kind: ResourceType | None, capabilities: frozenset[str]
) -> None:
    """Note what is wrong with the policies for the resource's end. They are known before anything starts."""
    template = scope.template
    words_only = template.dialect is Dialect.CFN and LANGUAGE_EXTENSIONS not in template.transforms
    for key, written in removal_keys(definition, template.dialect):
        where: Path = (*path, key)
        if isinstance(written, dict) and words_only:
            sentence = f"{key} takes a function only with the transform {LANGUAGE_EXTENSIONS}"
            scope.problems.append(template.problem("WRONG_TYPE", sentence, where, hint="write the word itself"))
            continue
        before, scope.used = scope.used, set()
        value = scope.collect(written, where)
        named, scope.used = scope.used, before
        if named:
            sentence = f"{key} must be known beforehand: it can not refer to a resource"
            scope.problems.append(template.problem("BAD_FUNCTION", sentence, where))
            continue
        if isinstance(value, Unknown):
            continue  # a parameter that has no value yet
        try:
            word = word_of(key, value)
        except FunctionError as problem:
            scope.note(problem, where)
            continue
        if word == "Snapshot" and kind is not None and not (kind.snapshots and "snapshots" in capabilities):
            sentence = (
                "no snapshot can be made before it is deleted: there are none here; Retain keeps the thing itself"
            )
            scope.problems.append(template.problem("REFUSED", sentence, where))


def policies_judged(scope: Scope, definition: ResourceDefinition, path: Path) -> None:
    """Note what is wrong with the policies of making and changing."""
    cfn = scope.template.dialect is Dialect.CFN
    for name, written in (("CreationPolicy", definition.creation_policy), ("UpdatePolicy", definition.update_policy)):
        where: Path = (*path, name if cfn else "update_policy")
        value = scope.collect(written, where)
        if not isinstance(value, dict | Unknown) and value is not None and value is not NO_VALUE:
            scope.problems.append(scope.template.problem("WRONG_TYPE", "a policy is a map", where))
        elif cfn and name == "CreationPolicy" and isinstance(value, dict) and "ResourceSignal" in value:
            signal = value["ResourceSignal"]
            count = signal.get("Count", 1) if isinstance(signal, dict) else None
            if not isinstance(count, Unknown) and not str(count).isdecimal():
                sentence = "ResourceSignal is a map whose Count is a whole number"
                scope.problems.append(scope.template.problem("BAD_VALUE", sentence, (*where, "ResourceSignal")))
        if cfn and name == "CreationPolicy" and isinstance(value, dict) and "AutoScalingCreationPolicy" in value:
            group = value["AutoScalingCreationPolicy"]
            percent = group.get("MinSuccessfulInstancesPercent", 100) if isinstance(group, dict) else None
            known = str(percent)
            if not isinstance(percent, Unknown) and not (known.isdecimal() and len(known) < 4 and int(known) <= 100):
                sentence = "AutoScalingCreationPolicy is a map whose MinSuccessfulInstancesPercent is 0 to 100"
                scope.problems.append(
                    scope.template.problem("BAD_VALUE", sentence, (*where, "AutoScalingCreationPolicy"))
                )
