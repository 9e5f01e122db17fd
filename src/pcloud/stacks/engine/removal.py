"""Deletes resources of a stack, each after those that need it.

Concurrency: part of a stack's one operation; one task a resource. A record goes only when its thing is gone, so that
repeating a removal carries on where it was left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.walk import walk
from pcloud.stacks.records import ResourceRecord, StackRecord
from pcloud.stacks.salvage import unknown_of
from pcloud.stacks.types.base import Context, ResourceFailed, failed
from pcloud.stacks.types.registry import type_made

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager

_RETRIES = 3


class Removal:
    """The part of one stack's operation that takes things away."""

    def __init__(self, manager: StackManager, stack: StackRecord) -> None:
        self.manager = manager
        self.stack = stack

    async def delete(self, records: Iterable[ResourceRecord]) -> list[ResourceRecord]:
        """Delete records, each after those that need it; return those that could not be deleted."""
        doomed = {record.id: record for record in records}
        by_name: dict[str, set[str]] = {}
        for record in doomed.values():
            by_name.setdefault(record.name, set()).add(record.id)
        after: dict[str, set[str]] = {identity: set() for identity in doomed}
        for record in doomed.values():
            for name in record.requires:
                for other in by_name.get(name, ()):
                    if other != record.id:
                        after[other].add(record.id)
        left: list[ResourceRecord] = []

        async def step(identity: str) -> None:
            record = doomed[identity]
            if any(other in [item.id for item in left] for other in after[identity]):
                left.append(record)
                return
            if not await self._delete_one(record):
                left.append(record)

        await walk({key: frozenset(value) for key, value in after.items()}, step, lambda: False)
        return left

    async def _delete_one(self, record: ResourceRecord) -> bool:
        manager, stack, operation = self.manager, self.stack, self.stack.operation
        assert operation is not None
        policy = (
            record.update_replace_policy
            if record.condemned and operation.action == "UPDATE"
            else record.deletion_policy
        )
        undoing = operation.phase in ("undo", "rollback-cleanup")
        if "deletion_policy" in unknown_of(record):
            sentence = f"kept ({record.physical}): its record can not be read, and so not whether it may be deleted"
            manager.set_status(stack, record, "DELETE_SKIPPED", sentence)
            manager.drop(record)
            return True
        if policy in ("Retain", "RetainExceptOnCreate") and not undoing and record.state != "FAILED":
            manager.set_status(stack, record, "DELETE_SKIPPED", "")
            manager.drop(record)
            return True
        source = operation.target or operation.previous or stack.source
        registry, files = (source.registry, source.files) if source else ({}, {})
        kind, refusal = type_made(record.type, record.made_as, registry, files)
        if kind is None and stack.source is not None:
            kind, refusal = type_made(record.type, record.made_as, stack.source.registry, stack.source.files)
        manager.set_status(stack, record, "DELETE_IN_PROGRESS", "")
        if kind is None:
            manager.set_status(stack, record, "DELETE_FAILED", refusal)
            return False
        context = Context(
            manager,
            stack,
            record,
            dict(record.properties),
            metadata=record.metadata,
            policy=None,
            update_policy=None,
            files=source.files if source else {},
            registry=source.registry if source else {},
        )
        for attempt in range(_RETRIES):
            try:
                if policy == "Snapshot" and not undoing and record.state != "FAILED":
                    made = await kind.snapshot(context)
                    manager.set_status(stack, record, "DELETE_IN_PROGRESS", f"snapshot {made}")
                await kind.delete(context)
            except (ResourceFailed, PcloudError) as problem:
                if attempt + 1 < _RETRIES:
                    await asyncio.sleep(0.2 * 4**attempt)
                    continue
                manager.set_status(stack, record, "DELETE_FAILED", failed(problem))
                return False
            break
        manager.set_status(stack, record, "DELETE_COMPLETE", "")
        manager.drop(record)
        return True
