"""Compares what the resources of a stack really are with what they should be; nested stacks are entered.

Concurrency: only looks, one resource after the other; the answers are kept in the records.
"""

from __future__ import annotations

from typing import Any

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.planning import Planning
from pcloud.stacks.records import ResourceRecord, StackRecord
from pcloud.stacks.types.base import Context, NotChecked, ResourceFailed, failed


class Drift(Planning):
    """The part of the manager that looks at what became of things."""

    async def detect_drift(self, stack: StackRecord, names: list[str] | None = None) -> None:
        """Compare resources with what really runs; the answer is kept in the records, durable on return."""
        drifted = 0
        for record in list(self.current(stack).values()):
            if names and record.name not in names:
                continue
            try:
                status = await self.look(stack, record)
            except (PcloudError, ResourceFailed) as problem:  # who would tell is away
                status = self._looked(record, "NOT_CHECKED", why=failed(problem))
            drifted += status in ("MODIFIED", "DELETED")
            self.save(record)
        stack.drift = {"status": "DRIFTED" if drifted else "IN_SYNC", "time": self.now(), "drifted": drifted}
        self.store.put(stack)
        await self.store.flush()

    async def look(self, stack: StackRecord, record: ResourceRecord) -> str:
        """Compare one resource, and what is nested in it; return its drift status. PcloudError, ResourceFailed."""
        kind = self.type_of(record)
        if kind is None:
            return self._looked(record, "NOT_CHECKED", why=f"{record.type} is no type that is known")
        if kind.nested:
            child = self.child(record.physical)
            if child is None or not child.live:
                return self._looked(record, "DELETED")
            await self.detect_drift(child)
            return self._looked(record, "MODIFIED" if child.drift["status"] == "DRIFTED" else "IN_SYNC")
        try:
            differences = await kind.drift(Context(self, stack, record, dict(record.properties)))
        except NotChecked as reason:
            return self._looked(record, "NOT_CHECKED", why=str(reason))
        if differences is None:
            return self._looked(record, "DELETED")
        return self._looked(record, "MODIFIED" if differences else "IN_SYNC", differences)

    def _looked(
        self, record: ResourceRecord, status: str, differences: dict[str, Any] | None = None, *, why: str = ""
    ) -> str:
        record.drift = {"status": status, "time": self.now(), "differences": differences or {}}
        if why:
            record.drift["why"] = why
        return status
