"""What users are told: lists, states, and the journal's decisions. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pcloud.cpe.desired import Summary
from pcloud.cpe.parts import check_part
from pcloud.model.deployable import ResourceState
from pcloud.model.status import AssemblyStatus, DeployableStatus, ResourceStatus

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class Telling:
    """States and decisions."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner

    def summaries(self) -> list[Summary]:
        """Return one line a deployable, by name."""
        return [
            self._owner.desired.summary(self._owner.desired.rows[name]) for name in sorted(self._owner.desired.rows)
        ]

    async def status(self, name: str) -> DeployableStatus:
        """Return the state of a deployable with all that is in it."""
        row = self._owner.desired.row(name)
        if name in self._owner.desired.statuses:
            return self._owner.desired.status(row)
        found = await self._owner.store.deployables.definition(name)
        state, _, since = self._owner.desired.head(row)
        blank = ResourceState.STOPPED if state is ResourceState.STOPPED else ResourceState.UNKNOWN
        assemblies = tuple(
            AssemblyStatus(
                name=assembly.name,
                state=blank,
                since=since,
                resources=tuple(ResourceStatus(name=one.name, state=blank, since=since) for one in assembly.resources),
            )
            for assembly in (found.deployable.assemblies if found else ())
        )
        return self._owner.desired.status(row, assemblies)

    async def explain(
        self, name: str, *, assembly: str = "", resource: str = "", limit: int = 20
    ) -> list[dict[str, Any]]:
        """Return the newest decisions, newest first; those that are about an assembly or resource when one is given.

        NotFound where there is neither such a part nor a decision about one (of a part that is gone there may be).
        """
        subject = "/".join(part for part in (assembly, resource) if part)
        records = await self.decisions(name, limit=limit if not subject else 10_000)
        found = [record for record in records if concerns(record, assembly, resource)][:limit]
        if not found and assembly and (definition := await self._owner.store.deployables.definition(name)):
            check_part(definition.deployable, assembly, resource)
        return [{key: value for key, value in record.items() if key != "snapshot"} for record in found]

    async def decisions(self, name: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest decision records as they were journalled, newest first: with what `replay` needs."""
        self._owner.desired.row(name)
        return await self._owner.store.log.explain(name, limit=limit)


def concerns(record: Mapping[str, Any], assembly: str, resource: str) -> bool:
    """Tell whether a decision record is about an assembly, or about one resource."""
    if not assembly and not resource:
        return True
    for part in (*record.get("actions", ()), *record.get("rules", ())):
        subject = str(part.get("subject", "")).split("/")
        if (not assembly or assembly in subject) and (not resource or resource in subject[1:]):
            return True
    if resource and not assembly:
        return False
    mentioned = (str(one.get("what", "")) for one in record.get("observations", ()))
    wanted = "/".join(part for part in (assembly, resource) if part)
    return any(wanted in text for text in mentioned)
