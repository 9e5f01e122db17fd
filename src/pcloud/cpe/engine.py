"""`CloudPolicyEngine`: everything that can be asked of the daemon, as typed methods. `api` and `stacks` call these.

Concurrency: all in one event loop. What changes desired state holds `_changes`; it is stored first, and only then do
the engines hear of it. Errors are PcloudErrors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pcloud.cpe import imagejobs
from pcloud.cpe.desired import Desired, Summary
from pcloud.cpe.fleet import Fleet
from pcloud.cpe.home import Home
from pcloud.cpe.ingest import Ingest
from pcloud.cpe.jobs import JobRunner, Progress
from pcloud.cpe.keys import KeyStore
from pcloud.cpe.library import LibraryService
from pcloud.cpe.link import EngineLink, EngineRefused, new_request
from pcloud.cpe.ports import Documents, Images
from pcloud.cpe.reconcile import Reconciler, absent_image
from pcloud.cpe.settings import DaemonSettings
from pcloud.cpe.slot import Slot
from pcloud.dpe import messages
from pcloud.environment.infrastructure import ExecResult
from pcloud.events.broadcast import Broadcaster, Subscription
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.infrastructure.registry import DRIVERS
from pcloud.model.deployable import Deployable, ResourceState
from pcloud.model.errors import Conflict, InvalidDocument, NotFound, PcloudError, Problem, Unavailable
from pcloud.model.status import AssemblyStatus, DeployableStatus, ResourceStatus
from pcloud.store.deployables import touched
from pcloud.store.rows import Definition, DeployableRow, Job
from pcloud.store.store import Store

_log = logging.getLogger(__name__)
ENGINE_COMMAND = (sys.executable, "-m", "pcloud.dpe.main")


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a document did, or would do."""

    name: str
    created: bool
    changed: tuple[str, ...]


class CloudPolicyEngine:
    """Desired state of all deployables, and the means to bring it about."""

    def __init__(
        self,
        home: Home,
        settings: DaemonSettings,
        store: Store,
        *,
        documents: Documents,
        images: Images,
        command: Sequence[str] = ENGINE_COMMAND,
    ) -> None:
        self.home = home
        self.settings = settings
        self.store = store
        self.documents = documents
        self.images = images
        self.host = socket.gethostname()
        self.broadcaster = Broadcaster()
        self.ingest = Ingest(store.log, self.broadcaster)
        self.jobs = JobRunner(store.jobs, self.ingest.emit)
        self.desired = Desired()
        self.keys = KeyStore(home.keys, images.keys)
        self.preparations = imagejobs.Preparations(self)
        self.reconciler = Reconciler(
            self.desired,
            store.deployables,
            self.keys,
            images,
            prepare=self.preparations.begin,
            shared_slots=self.shared_slots,
        )
        self.fleet = Fleet(
            home,
            command=command,
            hello_timeout=settings.engine.hello_timeout,
            log=store.log,
            ingest=self.ingest,
            on_link=self._on_link,
            on_status=self._on_status,
            on_end=self._on_end,
        )
        self.reconciler.fleet = self.fleet
        self.library = LibraryService(self)
        self.started = time.time()
        self._changes = asyncio.Lock()
        self._deleting: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- life

    async def start(self) -> None:
        """Take up desired state, adopt or start the engine processes, go on with interrupted jobs."""
        self._tasks.append(asyncio.create_task(self.ingest.run(), name="ingest"))
        self.desired.rows = {row.name: row for row in await self.store.deployables.rows()}
        used = {row.slot for row in self.desired.rows.values() if row.loaded or row.target == "started"}
        await self.fleet.start(sorted({*self.shared_slots(), *used}))
        await self._resume_jobs()
        self._tasks.append(asyncio.create_task(self._housekeeping(), name="housekeeping"))
        self.emit("daemon.started", f"the daemon started with {len(self.desired.rows)} deployables")

    async def close(self, *, engines: bool = False) -> None:
        """Stop in order. Guests always go on; engine processes too, unless `engines`."""
        self.emit("daemon.stopped", "the daemon stops; guests go on")
        await self.reconciler.close()
        await self.jobs.close()
        await self.fleet.close(engines=engines)
        if not self.ingest.failing:
            await self.ingest.flush()
        self.broadcaster.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def shared_slots(self) -> tuple[str, ...]:
        """Return the names of the slots that deployables share."""
        count = self.settings.engine.slots or len(os.sched_getaffinity(0))
        return tuple(str(number) for number in range(count))

    def reconfigure(self, settings: DaemonSettings) -> None:
        """Take over changed settings, as far as they can change while running: engine, infrastructures, retention."""
        self.settings = settings
        self.store.log.keep_decisions = settings.store.keep_decisions
        for name in self.shared_slots():
            self.fleet.ensure(name)
        for slot in self.fleet.slots.values():
            if slot.link is not None:
                slot.link.send(self._engine_settings())

    def _engine_settings(self) -> messages.Settings:
        return messages.Settings(
            infrastructures=self.settings.infrastructures, starts_in_flight=self.settings.engine.starts_in_flight
        )

    def emit(
        self, kind: str, reason: str, *, deployable: str = "", severity: Severity = Severity.INFO, **data: Any
    ) -> None:
        """Record an event of the daemon's own."""
        event = Event(
            time=time.time(), type=kind, deployable=deployable, reason=reason, severity=severity, data=dict(data)
        )
        self.ingest.emit(event)

    def _on_link(self, slot: Slot, link: EngineLink) -> None:
        link.send(self._engine_settings())
        self.reconciler.link(slot, link)

    def _on_status(self, slot: Slot, status: DeployableStatus) -> None:
        row = self.desired.rows.get(status.name)
        if row is not None and row.slot == slot.name:
            self.desired.statuses[status.name] = status

    def _on_end(self, slot: Slot) -> None:
        self.desired.forget_slot(slot.name)
        self.emit(
            "engine.ended",
            f"engine process {slot.name} ended and is started again; guests go on",
            severity=Severity.WARNING,
            slot=slot.name,
        )

    async def _housekeeping(self) -> None:
        while True:
            kept = self.settings.store
            try:
                await self.store.log.retain(count=kept.keep_events, age=kept.keep_events_days * 86400)
                await self.store.jobs.retain(age=kept.keep_jobs_days * 86400)
            except PcloudError as error:
                _log.error("old records were not removed: %s", error)
            await asyncio.sleep(600)

    async def _resume_jobs(self) -> None:
        for job in reversed(await self.store.jobs.list(state="running", limit=10_000)):
            if job.kind == "deployable.delete" and job.subject in self.desired.rows:
                row = self.desired.rows[job.subject]
                if row.phase != "deleting":
                    await self._set(touched(row, phase="deleting"))
                self._begin_delete(job)
            elif job.kind == "deployable.images" and job.subject in self.desired.rows:
                self.preparations.resume(job)
            elif job.kind == "jeos.build":
                self.library.resume_jeos(job)
            else:
                self.jobs.resume(job, _nothing)
        for row in list(self.desired.rows.values()):
            if row.phase == "deleting" and row.name not in self._deleting:
                await self._new_delete_job(row.name)

    # --- documents

    async def apply(
        self, body: bytes, form: str, *, file: str = "", start: bool | None = None, dry_run: bool = False
    ) -> Applied:
        """Read a document (`yaml`, `xml` or `json`), check all of it, store it, and have it brought about.

        `start`: True starts it, False leaves it as it is (a new one stays stopped); None is True.
        InvalidDocument with every problem; then nothing was changed.
        """
        deployable = await asyncio.to_thread(self.documents.read, body, form, file)
        return await self.put(deployable, start=start is not False, dry_run=dry_run)

    async def put(
        self, deployable: Deployable, *, start: bool = True, dry_run: bool = False, library: Sequence[str] = ()
    ) -> Applied:
        """Store a deployable, new or changed, and have it brought about; only what differs is touched."""
        async with self._changes:
            return await self._put(deployable, start=start, dry_run=dry_run, library=library)

    async def _put(
        self, deployable: Deployable, *, start: bool, dry_run: bool = False, library: Sequence[str] = ()
    ) -> Applied:
        name = deployable.name
        self._check_infrastructure(deployable)
        old = self.desired.rows.get(name)
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
                slot=self.desired.place(name, deployable.isolation, self.shared_slots()),
                created=now,
                updated=now,
            )
            await self.store.deployables.put(row, deployable, library, new=True)
            self.desired.rows[name] = row
            self.emit("deployable.created", f"deployable {name} was created", deployable=name)
            self.reconciler.mark(name)
            return Applied(name=name, created=True, changed=())
        self.desired.active(name)
        before = await self.definition(name)
        changed = tuple(self.documents.changes(before.deployable, deployable))
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
            await self.store.deployables.put(row, deployable, library, new=False)
            self.desired.rows[name] = msgspec.structs.replace(row, loaded=self.desired.rows[name].loaded)
        if changed:
            self.emit(
                "deployable.changed", f"deployable {name} was changed", deployable=name, changed=list(changed)[:100]
            )
        self.desired.clear(name)
        self.reconciler.mark(name)
        return Applied(name=name, created=False, changed=changed)

    def _check_infrastructure(self, deployable: Deployable) -> None:
        known = {*DRIVERS, *self.settings.infrastructures}
        if deployable.infrastructure not in known:
            raise InvalidDocument.of(
                "UNKNOWN_INFRASTRUCTURE",
                f"there is no infrastructure {deployable.infrastructure!r} here",
                path="infrastructure",
                hint=f"use one of: {', '.join(sorted(known))}",
            )
        old = self.desired.rows.get(deployable.name)
        if old is not None and old.loaded and old.infrastructure != deployable.infrastructure:
            raise Conflict(
                Problem(
                    code="INFRASTRUCTURE_FIXED",
                    message=f"{deployable.name} has guests on {old.infrastructure}; they can not move to another one",
                    path="infrastructure",
                    hint="delete the deployable first, or give the new one another name",
                )
            )

    async def definition(self, name: str) -> Definition:
        """Return a deployable's definition; NotFound."""
        self.desired.row(name)
        found = await self.store.deployables.definition(name)
        if found is None:
            raise NotFound(Problem(code="NO_SUCH_DEPLOYABLE", message=f"there is no deployable `{name}`"))
        return found

    async def manifest(self, name: str, form: str, *, redacted: bool) -> str:
        """Return the document of a deployable."""
        found = await self.definition(name)
        return await asyncio.to_thread(self.documents.write, found.deployable, form, redacted=redacted)

    # --- what it shall do

    async def start_deployable(self, name: str) -> DeployableStatus:
        """Have it started; images that failed to build are tried again."""
        return await self._change(name, target="started")

    async def stop_deployable(self, name: str) -> DeployableStatus:
        """Have it stopped, in order."""
        return await self._change(name, target="stopped")

    async def pause(self, name: str) -> DeployableStatus:
        """Watch, but act on nothing, until `resume`."""
        return await self._change(name, paused=True)

    async def resume(self, name: str) -> DeployableStatus:
        """Act again."""
        return await self._change(name, paused=False)

    async def reload(self, name: str) -> DeployableStatus:
        """Give the engine the definition anew; builds that failed are tried again."""
        return await self._change(name)

    async def _change(self, name: str, **changes: Any) -> DeployableStatus:
        async with self._changes:
            row = self.desired.active(name)
            if any(getattr(row, key) != value for key, value in changes.items()):
                await self._set(touched(row, **changes))
            if row.target == "started" and changes.get("target") == "stopped":
                await self.preparations.stop(name)
            self.desired.clear(name)
            self.reconciler.mark(name)
        return await self.status(name)

    async def _set(self, row: DeployableRow) -> None:
        row = msgspec.structs.replace(row, loaded=self.desired.rows[row.name].loaded)
        await self.store.deployables.put_row(row)
        self.desired.rows[row.name] = row

    async def recover(self, name: str, *, assembly: str = "", resource: str = "") -> DeployableStatus:
        """Take it (or one assembly or resource) up again after it was given up."""
        self.desired.active(name)
        if name in self.desired.overlays and name not in self.desired.statuses:
            return await self.reload(name)  # what failed is its images
        await self._has(name, assembly, resource)
        subject = "/".join(part for part in (assembly, resource) if part)
        await self.command(name, "recover", {"assembly": assembly, "resource": resource, "subject": subject})
        return await self.status(name)

    async def command(self, name: str, action: str, arguments: dict[str, Any], *, timeout: float = 30.0) -> Any:
        """Ask the deployable's engine for something."""
        row = self.desired.active(name)
        slot = self.fleet.slots.get(row.slot)
        link = slot.link if slot is not None else None
        if link is None or name not in link.loaded:
            raise Unavailable(
                Problem(
                    code="ENGINE_AWAY",
                    message=f"no engine process holds {name} at present",
                    hint="see the reason in `pcloud status`; ask again when it runs",
                )
            )
        message = messages.Command(name=name, action=action, request=new_request(), arguments=arguments)
        return await link.request(message, timeout=timeout)

    async def execute(
        self, name: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest, without a shell."""
        await self._has_assembly(name, assembly)
        arguments = {"assembly": assembly, "argv": list(argv), "stdin": stdin, "timeout": timeout}
        result = await self.command(name, "execute", arguments, timeout=timeout + 30)
        try:
            return msgspec.convert(result, ExecResult)
        except msgspec.ValidationError as error:
            raise Unavailable(
                Problem(code="ENGINE_ANSWER", message=f"the engine's answer is not usable: {error}")
            ) from error

    async def console(self, name: str, assembly: str) -> bytes:
        """Return the newest part of a guest's console log."""
        await self._has_assembly(name, assembly)
        result = await self.command(name, "console", {"assembly": assembly})
        if isinstance(result, Mapping):
            result = result.get("console", b"")
        return result.encode() if isinstance(result, str) else bytes(result or b"")

    async def _has(self, name: str, assembly: str, resource: str) -> None:
        """NotFound unless the deployable has that assembly, and the assembly that resource; empty asks for none."""
        if assembly or resource:
            await self._has_assembly(name, assembly)
        if resource:
            assemblies = (await self.definition(name)).deployable.assemblies
            names = [one.name for each in assemblies if each.name == assembly for one in each.resources]
            if resource not in names:
                raise NotFound(
                    Problem(
                        code="NO_SUCH_RESOURCE",
                        message=f"assembly {name}/{assembly} has no resource `{resource[:80]}`",
                        hint=f"it has: {', '.join(names) or 'none'}",
                    )
                )

    async def _has_assembly(self, name: str, assembly: str) -> None:
        names = [one.name for one in (await self.definition(name)).deployable.assemblies]
        if assembly not in names:
            raise NotFound(
                Problem(
                    code="NO_SUCH_ASSEMBLY",
                    message=f"deployable {name} has no assembly `{assembly[:80]}`",
                    hint=f"it has: {', '.join(names) or 'none'}",
                )
            )

    # --- the end of a deployable

    async def delete(self, name: str) -> Job:
        """Stop it in order and remove guests, disks, addresses, keys and definition; carried through in any case."""
        async with self._changes:
            row = self.desired.row(name)
            if row.phase == "deleting" and name in self._deleting:
                return await self.jobs.get(self._deleting[name])
            await self._set(touched(row, phase="deleting", target="stopped"))
            await self.preparations.stop(name)
            return await self._new_delete_job(name)

    async def _new_delete_job(self, name: str) -> Job:
        async def work(progress: Progress) -> None:
            await self._delete(name, progress)

        job = await self.jobs.start("deployable.delete", name, work)
        self._deleting[name] = job.id
        return job

    def _begin_delete(self, job: Job) -> None:
        async def work(progress: Progress) -> None:
            await self._delete(job.subject, progress)

        self._deleting[job.subject] = job.id
        self.jobs.resume(job, work)

    async def _delete(self, name: str, progress: Progress) -> None:
        progress(0.0, "stopping it in order")
        delay = 0.5
        while self.desired.rows[name].loaded:
            try:
                await self._unload(name)
                break
            except (Unavailable, EngineRefused) as error:
                # The engine went away or could not remove everything: the wish stays, so it is tried until it is done.
                reason = f"not removed yet, tried again: {error.problems[0].message}"
                progress(progress.job.progress, reason)
                self.desired.overlay(name, ResourceState.UNKNOWN, reason)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)
        progress(0.9, "removing its definition")
        slot = self.desired.rows[name].slot
        await self.ingest.flush()
        await self.store.deployables.remove(name)
        self.desired.remove(name)
        await asyncio.to_thread(self.keys.remove, name)
        self._deleting.pop(name, None)
        self.reconciler.retire_if_empty(slot)
        progress(1.0, f"{name} is deleted")
        self.emit("deployable.deleted", f"deployable {name} was deleted", deployable=name)

    async def _unload(self, name: str) -> None:
        link = await self.fleet.ensure(self.desired.rows[name].slot).linked()
        if name not in link.loaded:
            found = await self.definition(name)
            deployable = found.deployable
            images = {one.name: self.images.ready(one) or absent_image(one) for one in deployable.assemblies}
            guests = await asyncio.to_thread(self.reconciler.material, deployable, images)
            link.send(messages.Load(deployable=deployable, target="stopped", guests=guests, state=None))
            link.loaded.add(name)
        await link.request(messages.Unload(name=name, delete=True, request=new_request()))
        link.loaded.discard(name)

    # --- what is

    def summaries(self) -> list[Summary]:
        """Return one line a deployable, by name."""
        return [self.desired.summary(self.desired.rows[name]) for name in sorted(self.desired.rows)]

    async def status(self, name: str) -> DeployableStatus:
        """Return the state of a deployable with all that is in it."""
        row = self.desired.row(name)
        if name in self.desired.statuses:
            return self.desired.status(row)
        found = await self.store.deployables.definition(name)
        state, _, since = self.desired.head(row)
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
        return self.desired.status(row, assemblies)

    async def explain(
        self, name: str, *, assembly: str = "", resource: str = "", limit: int = 20
    ) -> list[dict[str, Any]]:
        """Return the newest decisions, newest first; those that are about an assembly or resource when one is given."""
        subject = "/".join(part for part in (assembly, resource) if part)
        records = await self.decisions(name, limit=limit if not subject else 10_000)
        found = [record for record in records if concerns(record, assembly, resource)][:limit]
        return [{key: value for key, value in record.items() if key != "snapshot"} for record in found]

    async def decisions(self, name: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest decision records as they were journalled, newest first: with what `replay` needs."""
        self.desired.row(name)
        return await self.store.log.explain(name, limit=limit)

    async def events(
        self, where: EventFilter, *, after: int = 0, limit: int = 100, newest: bool = False
    ) -> tuple[list[Event], int]:
        """Return events of the log and the cursor to go on from."""
        return await self.store.log.events(where, after=after, limit=limit, newest=newest)

    def subscribe(self, where: EventFilter | None = None) -> Subscription:
        """Return a subscription to live events."""
        return self.broadcaster.subscribe(where)

    async def shutdown_guests(self, *, timeout: float = 300.0) -> None:
        """Stop every deployable and wait until they are; Unavailable when that takes too long."""
        for row in list(self.desired.rows.values()):
            if row.phase == "active" and row.target != "stopped":
                await self.stop_deployable(row.name)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if all(self.desired.head(row)[0] is ResourceState.STOPPED for row in self.desired.rows.values()):
                return
            await asyncio.sleep(0.1)
        raise Unavailable(Problem(code="GUESTS_STILL_RUN", message=f"not every guest stopped within {timeout:g} s"))


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


async def _nothing(progress: Progress) -> None:
    """A job whose subject is gone."""
