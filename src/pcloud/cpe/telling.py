"""What users are told: lists, states, and the journal's decisions. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pcloud.cpe.desired import Summary
from pcloud.cpe.parts import check_part
from pcloud.model.deployable import ResourceState
from pcloud.model.errors import PcloudError
from pcloud.model.status import AssemblyStatus, DeployableStatus, ResourceStatus, Standstill

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


ANSWERS = 5.0
"""Seconds in which an engine that works says what stands still."""


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

    async def standstill(self, name: str, *, assembly: str = "", resource: str = "") -> tuple[Standstill, ...]:
        """Return what is not being done now, and why; of a part what is about it, about what it is in, and about the whole.

        NotFound where there is no such part. What no engine can say, because none is there, the daemon says.
        """
        owner, row = self._owner, self._owner.desired.row(name)
        if assembly and (definition := await owner.store.deployables.definition(name)):
            check_part(definition.deployable, assembly, resource)
        found = []
        if row.phase == "deleting":
            found.append(Standstill(rule="DELETING", text="nothing but its removal is done: it is being deleted"))
        if overlay := owner.desired.overlays.get(name):
            what = "what was applied last is not brought about" if row.loaded else "nothing is started"
            hint = (
                "" if overlay.change == "building" else f"`pcloud reload {name}` tries again when the cause is mended"
            )
            found.append(Standstill(rule="IMAGES", text=f"{what}: {overlay.reason}", next=hint, since=overlay.since))
        slot = owner.fleet.slots.get(row.slot)
        held = slot is not None and slot.link is not None and name in slot.link.loaded
        if held and row.phase != "deleting":
            try:
                answer = await owner.command(name, "standstill", {}, timeout=ANSWERS)
                found += msgspec.convert(answer, tuple[Standstill, ...])
            except msgspec.ValidationError as error:
                found.append(_away(f"the answer of its engine process is not usable: {error}"))
            except PcloudError as error:
                found.append(_away(f"its engine process does not answer: {error.problems[0].message}"))
        elif not held:
            if row.target == "stopped":
                text, hint = "nothing is started: it shall be stopped", f"`pcloud start {name}`"
                found.append(Standstill(rule="STOPPED", text=text, next=hint))
            if row.paused:
                found.append(
                    Standstill(rule="PAUSED", text="nothing is recovered: it is paused", next=f"`pcloud resume {name}`")
                )
            if row.loaded or (row.target == "started" and not found):
                found.append(_away("no engine process holds it at present"))
        part = "/".join(each for each in (assembly, resource) if each)
        return tuple(one for one in found if not part or _same_line(one.subject, part))

    async def decisions(self, name: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest decision records as they were journalled, newest first: with what `replay` needs."""
        self._owner.desired.row(name)
        return await self._owner.store.log.explain(name, limit=limit)


def _away(what: str) -> Standstill:
    text = f"nothing is observed or recovered: {what}; guests and services go on"
    hint = "an engine process is started again by itself within seconds; `pcloud doctor` and the daemon's log tell more"
    return Standstill(rule="ENGINE_AWAY", text=text, next=hint)


def _same_line(one: str, other: str) -> bool:
    """Tell whether one of two subjects is the other, or holds it."""
    shorter, longer = sorted((one, other), key=len)
    return not shorter or longer == shorter or longer.startswith(shorter + "/")


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
