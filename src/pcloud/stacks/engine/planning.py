"""Says what an operation would do, nested stacks included; nothing is changed.

Concurrency: answers from what is known at one moment, on the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pcloud.model.errors import InvalidDocument
from pcloud.stacks.assessment import Node, assess
from pcloud.stacks.beneath import Foreseen
from pcloud.stacks.engine.judging import MAX_JUDGED, MAX_NESTING, moved
from pcloud.stacks.engine.services import Services
from pcloud.stacks.functions.evaluation import Scope
from pcloud.stacks.plan import Change, Plan, plan, removals_planned
from pcloud.stacks.records import ResourceRecord, Source, StackRecord
from pcloud.stacks.types.base import Context, ResourceFailed
from pcloud.stacks.types.nested import NestedType

_NOBODY = "00000000-0000-0000-0000-000000000000"


class Planning(Services):
    """The part of the manager that looks ahead."""

    def plan(self, stack: StackRecord | None, source: Source, name: str = "", *, nested: bool = False) -> Plan:
        """Return what an update of a stack (or the creation of one) would do; InvalidDocument with everything wrong.

        With `nested`, what changes in nested stacks and groups stands beneath them, as deep as they go.
        """
        subject = stack or StackRecord(id=_NOBODY, name=name or "plan", status="REVIEW_IN_PROGRESS")
        self.validate(subject, source)
        return _Looking(self, nested=nested).ahead(subject, source, self._depth(subject))


class _Looking:
    """One look ahead. Bounded: nested stacks beyond the bounds of the judgement are not entered."""

    def __init__(self, services: Planning, *, nested: bool) -> None:
        self._services = services
        self._left = MAX_JUDGED if nested else 0

    def ahead(self, subject: StackRecord, source: Source, depth: int, foreseen: Foreseen | None = None) -> Plan:
        """Return the plan of one stack, with those nested in it."""
        services = self._services
        current = services.current(subject) if subject.id in services.stacks else {}
        platform, registry = services.platform, source.registry

        def scope(changes: dict[str, Change]) -> Scope:
            return services.reader.live_scope(
                subject, source, current, facade=services.facade(subject), changes=changes, foreseen=foreseen
            )

        judged = assess(scope({}), registry=registry, capabilities=platform.capabilities, platform=platform)

        def deciding_scope(changes: dict[str, Change]) -> Scope:
            final = scope(changes)
            final.enabled = judged.scope.enabled
            return final

        if any("guests" in node.type.needs for node in judged.nodes.values() if node.type is not None):
            judged.notes.append(f"guests are made on {platform.infrastructure}")

        def context(node: Node, record: ResourceRecord, properties: Mapping[str, Any]) -> Context:
            files, defaults = source.files, source.defaults
            return Context(
                services, subject, record, dict(properties), files=files, registry=registry, defaults=defaults
            )

        def beneath(node: Node, record: ResourceRecord, properties: Mapping[str, Any]) -> bool:
            return bool(node.type.beneath(context(node, record, properties)))

        def nested(change: Change, node: Node, properties: Mapping[str, Any]) -> tuple[Change, ...]:
            if not isinstance(node.type, NestedType) or self._left <= 0 or depth >= MAX_NESTING:
                return ()
            self._left -= 1
            record = current.get(node.name) if change.action != "replace" else None
            stands = services.child(record.physical) if record is not None else None
            record = record or ResourceRecord(
                id=_NOBODY, stack=subject.id, name=node.name, type=node.definition.type, status="CREATE_IN_PROGRESS"
            )
            try:
                known = node.type.foresee_all(context(node, record, properties))
            except ResourceFailed:
                known = None  # its template is not known by now: whoever makes it says why
            if known is None:
                return ()
            known = known.within(source)
            child = stands or StackRecord(id=_NOBODY, name=f"{subject.name}-{node.name}", status="REVIEW_IN_PROGRESS")
            try:
                return self.ahead(child, known.source, depth + 1, known).changes
            except InvalidDocument as problem:
                found = [moved(item, node.path, known) for item in problem.problems]
                raise InvalidDocument.from_problems(found) from None

        told = plan(judged, current, deciding_scope, registry, beneath, nested)
        return msgspec.structs.replace(told, changes=tuple(map(self._with_removed, told.changes)))

    def _with_removed(self, change: Change) -> Change:
        """Return the removal of a nested stack with those of its resources."""
        child = self._services.child(change.physical) if change.action == "delete" and self._left > 0 else None
        if child is None or not child.live:
            return change
        self._left -= 1
        gone = removals_planned(self._services.current(child))
        return msgspec.structs.replace(change, beneath=tuple(map(self._with_removed, gone)))
