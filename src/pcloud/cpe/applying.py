"""Taking in what users want deployables to be: read, checked, compared, stored, and only then brought about.

Concurrency: whoever changes desired state holds the owner's `changes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pcloud.cpe import hosts
from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.registry import DRIVERS
from pcloud.model.deployable import Deployable
from pcloud.model.errors import Conflict, InvalidDocument, Problem
from pcloud.model.validation import HOSTS
from pcloud.store.deployables import touched
from pcloud.store.rows import Definition, DeployableRow

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a document did, or would do."""

    name: str
    created: bool
    changed: tuple[str, ...]


class Applying:
    """Documents into desired state."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner

    async def put(
        self, deployable: Deployable, *, start: bool = True, dry_run: bool = False, library: Sequence[str] = ()
    ) -> Applied:
        """Store a deployable, new or changed, and have it brought about; only what differs is touched."""
        async with self._owner.changes:
            return await self._put(deployable, start=start, dry_run=dry_run, library=library)

    async def _put(
        self, deployable: Deployable, *, start: bool, dry_run: bool = False, library: Sequence[str] = ()
    ) -> Applied:
        name = deployable.name
        self._check_infrastructure(deployable)
        await self._check_hosts(deployable)
        old = self._owner.desired.rows.get(name)
        if old is None:
            if dry_run:
                return Applied(name=name, created=True, changed=())
            now = time.time()
            row = DeployableRow(
                name=name,
                infrastructure=deployable.infrastructure,
                assemblies=len(deployable.assemblies),
                priority=deployable.priority,
                target="started" if start else "stopped",
                slot=self._owner.desired.place(name, deployable.isolation, self._owner.shared_slots()),
                created=now,
                updated=now,
            )
            await self._owner.store.deployables.put(row, deployable, library, new=True)
            self._owner.desired.rows[name] = row
            self._owner.emit("deployable.created", f"deployable {name} was created", deployable=name)
            self._owner.reconciler.mark(name)
            return Applied(name=name, created=True, changed=())
        self._owner.desired.active(name)
        before = await self._owner.definition(name)
        _check_username(old, before.deployable, deployable)
        changed = tuple(self._owner.documents.changes(before.deployable, deployable))
        if dry_run:
            return Applied(name=name, created=False, changed=changed)
        row = touched(
            old,
            infrastructure=deployable.infrastructure,
            assemblies=len(deployable.assemblies),
            priority=deployable.priority,
            target="started" if start else old.target,
        )
        if changed or before.deployable != deployable or row.target != old.target or tuple(library) != before.library:
            await self._owner.store.deployables.put(
                row, deployable, library, new=False, applied=_what_runs(old, before, deployable)
            )
            self._owner.desired.renew(row)
            await self._owner.preparations.overtaken(name, deployable)
        if changed:
            self._owner.emit(
                "deployable.changed", f"deployable {name} was changed", deployable=name, changed=list(changed)[:100]
            )
        self._owner.desired.clear(name)
        self._owner.reconciler.mark(name)
        return Applied(name=name, created=False, changed=changed)

    async def _check_hosts(self, deployable: Deployable) -> None:
        if deployable.infrastructure != HOSTS:
            return
        await asyncio.to_thread(hosts.check, deployable, self._owner.settings.infrastructures)
        rows = self._owner.desired.rows.values()
        others = [row.name for row in rows if row.infrastructure == HOSTS and row.name != deployable.name]
        hosts.taken(deployable, await self._owner.store.deployables.definitions(others))

    def _check_infrastructure(self, deployable: Deployable) -> None:
        known = {*DRIVERS, *self._owner.settings.infrastructures}
        if deployable.infrastructure not in known:
            raise InvalidDocument.of(
                "UNKNOWN_INFRASTRUCTURE",
                f"there is no infrastructure {deployable.infrastructure!r} here",
                path="infrastructure",
                hint=f"use one of: {', '.join(sorted(known))}",
            )
        old = self._owner.desired.rows.get(deployable.name)
        if old is not None and old.loaded and old.infrastructure != deployable.infrastructure:
            raise Conflict(
                Problem(
                    code="INFRASTRUCTURE_FIXED",
                    message=f"{deployable.name} has guests on {old.infrastructure}; they can not move to another one",
                    path="infrastructure",
                    hint="delete the deployable first, or give the new one another name",
                )
            )


def _check_username(row: DeployableRow, before: Deployable, after: Deployable) -> None:
    knows = Capability.USERS in CAPABILITIES.get(after.infrastructure, ())
    if row.loaded and knows and before.username != after.username:
        raise Conflict(
            Problem(
                code="USERNAME_FIXED",
                message=f"the guests of {after.name} were made in the name of {before.username or 'the default user'}",
                path="username",
                hint="delete the deployable first, or give the new one another name",
            )
        )


def _what_runs(old: DeployableRow, before: Definition, new: Deployable) -> Deployable | None:
    """Return what an engine was given, where that is another definition: it goes on until the new one's images are there."""
    if not old.loaded or old.target == "stopped":
        return None
    runs = before.applied or before.deployable
    return runs if runs != new else None
