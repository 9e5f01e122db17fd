"""The end of a deployable: stopped in order, every guest removed, then keys and definition; carried through in any case.

Concurrency: a job a deployable. The wish is stored first, so that a daemon that dies goes on where it was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pcloud.cpe.jobs import Progress, Work
from pcloud.cpe.link import EngineRefused, new_request
from pcloud.cpe.reconcile import absent_image
from pcloud.dpe import messages
from pcloud.model.deployable import ResourceState
from pcloud.model.errors import Problem, Unavailable
from pcloud.store.deployables import touched
from pcloud.store.rows import Job

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class Deletions:
    """Deletions asked for, and those that an earlier daemon had begun."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner
        self._jobs: dict[str, str] = {}

    async def delete(self, name: str) -> Job:
        """Stop it in order and remove guests, disks, addresses, keys and definition; carried through in any case."""
        async with self._owner.changes:
            row = self._owner.desired.row(name)
            if row.phase == "deleting" and name in self._jobs:
                return await self._owner.jobs.get(self._jobs[name])
            await self._owner.set_row(touched(row, phase="deleting", target="stopped"))
            await self._owner.preparations.stop(name)
            return await self._begin(name)

    async def resume(self, job: Job) -> None:
        """Go on with a deletion that an earlier daemon had begun."""
        row = self._owner.desired.rows[job.subject]
        if row.phase != "deleting":
            await self._owner.set_row(touched(row, phase="deleting"))
        self._jobs[job.subject] = job.id
        self._owner.jobs.resume(job, self._work(job.subject))

    async def begin_left(self) -> None:
        """Begin those whose wish was stored and whose job was not: the daemon died in between."""
        for row in list(self._owner.desired.rows.values()):
            if row.phase == "deleting" and row.name not in self._jobs:
                await self._begin(row.name)

    async def _begin(self, name: str) -> Job:
        job = await self._owner.jobs.start("deployable.delete", name, self._work(name))
        self._jobs[name] = job.id
        return job

    def _work(self, name: str) -> Work:
        async def work(progress: Progress) -> None:
            try:
                await self._delete(name, progress)
            finally:
                self._jobs.pop(name, None)

        return work

    async def _delete(self, name: str, progress: Progress) -> None:
        progress(0.0, "stopping it in order")
        delay = 0.5
        while self._owner.desired.rows[name].loaded:
            try:
                await self._unload(name)
                break
            except (Unavailable, EngineRefused) as error:
                # The engine went away or could not remove everything: the wish stays, so it is tried until it is done.
                reason = f"not removed yet, tried again: {error.problems[0].message}"
                progress(progress.job.progress, reason)
                self._owner.desired.overlay(name, ResourceState.UNKNOWN, reason)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)
        progress(0.9, "removing its definition")
        slot = self._owner.desired.rows[name].slot
        await self._owner.ingest.flush()
        # Before what names them goes: nobody would look for them after a crash in between.
        await asyncio.to_thread(self._owner.keys.remove, name)
        await self._owner.store.deployables.remove(name)
        self._owner.desired.remove(name)
        self._owner.reconciler.retire_if_empty(slot)
        progress(1.0, f"{name} is deleted")
        self._owner.emit("deployable.deleted", f"deployable {name} was deleted", deployable=name)

    async def _unload(self, name: str) -> None:
        link = await self._owner.fleet.ensure(self._owner.desired.rows[name].slot).linked()
        if name not in link.loaded:
            found = (await self._owner.store.deployables.definitions([name], state=True))[name]
            deployable = found.deployable
            if why := self._owner.reconciler.stranded.why(self._owner.desired.rows[name], deployable):
                raise Unavailable(Problem(code="ELSEWHERE", message=why))
            images = {one.name: self._owner.images.ready(one) or absent_image(one) for one in deployable.assemblies}
            guests = await asyncio.to_thread(self._owner.reconciler.material, deployable, images)
            # With what a former engine left: it knows of guests that the definition no longer has.
            link.send(messages.Load(deployable=deployable, target="stopped", guests=guests, state=found.state))
            link.loaded.add(name)
        try:
            await link.request(messages.Unload(name=name, delete=True, request=new_request()))
        finally:
            link.loaded.discard(name)  # refused: whatever the reason, the next try gives it the deployable anew
