"""`CloudPolicyEngine`: everything that can be asked of the daemon, as typed methods. `api` and `stacks` call these.

Concurrency: all in one event loop. What changes desired state holds `changes`; it is stored first, and only then do
the engines hear of it. Errors are PcloudErrors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from pcloud.cpe import imagejobs
from pcloud.cpe.applying import Applied, Applying
from pcloud.cpe.deletion import Deletions
from pcloud.cpe.desired import Desired, Summary
from pcloud.cpe.directing import Directing
from pcloud.cpe.fleet import Fleet
from pcloud.cpe.home import Home
from pcloud.cpe.ingest import Ingest
from pcloud.cpe.inside import Inside
from pcloud.cpe.jobs import JobRunner, Progress
from pcloud.cpe.keys import KeyStore
from pcloud.cpe.library import LibraryService
from pcloud.cpe.ports import Documents, Images
from pcloud.cpe.reconcile import Reconciler
from pcloud.cpe.settings import DaemonSettings
from pcloud.cpe.stranded import Stranded
from pcloud.cpe.telling import Telling
from pcloud.environment.infrastructure import ExecResult
from pcloud.events.broadcast import Broadcaster, Subscription
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.model.deployable import Deployable, ResourceState
from pcloud.model.errors import NotFound, PcloudError, Problem, Unavailable
from pcloud.model.status import DeployableStatus, Standstill
from pcloud.store.deployables import touched
from pcloud.store.lease import Grant, Holder
from pcloud.store.rows import Definition, DeployableRow, Job
from pcloud.store.store import Store

_log = logging.getLogger(__name__)
FLUSH = 5.0
"""Seconds that the daemon waits at its end for its last events to be stored."""
ENGINE_COMMAND = (sys.executable, "-m", "pcloud.dpe.main")


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
        grant: Grant | None = None,
        who: Holder | None = None,
    ) -> None:
        """`grant` is what this daemon, `who`, owns the store by, where the store can have several daemons."""
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
            stranded=Stranded(who, self.keys, lambda: self.settings.infrastructures),
            prepare=self.preparations.begin,
            shared_slots=self.shared_slots,
            infrastructures=lambda: self.settings.infrastructures,
        )
        self._directing = Directing(self)
        self.fleet = Fleet(
            home,
            command=command,
            settings=lambda: self.settings.engine,
            log=store.log,
            ingest=self.ingest,
            on_link=self._directing.connected,
            on_status=self._directing.told,
            on_end=self._directing.ended,
            on_silence=self._directing.silent,
        )
        self.reconciler.fleet = self.fleet
        self.library = LibraryService(self)
        self.started = time.time()
        self.grant = grant or Grant(token=0, until=math.inf)
        """What this daemon owns the store by."""
        self.changes = asyncio.Lock()
        """Held by whoever changes desired state."""
        self._applying = Applying(self)
        self._deletions = Deletions(self)
        self._inside = Inside(self)
        self._telling = Telling(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._housekeep = asyncio.Event()

    # --- life

    async def start(self) -> None:
        """Take up desired state, adopt or start the engine processes, go on with interrupted jobs."""
        self._tasks.append(asyncio.create_task(self.ingest.run(), name="ingest"))
        self.documents.know_images(self.images.imported())
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
        with contextlib.suppress(TimeoutError):  # a store that can not be written must not keep the daemon from ending
            async with asyncio.timeout(FLUSH):
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
        """Take over changed settings, as far as they can change while running: of engines, guests and retention."""
        old = self.settings
        drivers = (settings.infrastructures, settings.transports) != (old.infrastructures, old.transports)
        self.settings = settings
        self.store.log.keep_decisions = settings.store.keep_decisions
        self._housekeep.set()
        for name in self.shared_slots():
            self.fleet.ensure(name)
        if drivers:
            self._directing.start_anew()
        else:
            self._directing.tell_settings()

    def renewed(self, grant: Grant) -> None:
        """The lease lasts longer, and so may the engine processes."""
        self.grant = grant
        self._directing.tell_settings()

    def emit(
        self, kind: str, reason: str, *, deployable: str = "", severity: Severity = Severity.INFO, **data: Any
    ) -> None:
        """Record an event of the daemon's own."""
        event = Event(
            time=time.time(), type=kind, deployable=deployable, reason=reason, severity=severity, data=dict(data)
        )
        self.ingest.emit(event)

    async def _housekeeping(self) -> None:
        while True:
            kept = self.settings.store
            try:
                await self.store.log.retain(count=kept.keep_events, age=kept.keep_events_days * 86400)
                await self.store.jobs.retain(age=kept.keep_jobs_days * 86400)
            except PcloudError as error:
                _log.error("old records were not removed: %s", error)
            self._housekeep.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(600):
                    await self._housekeep.wait()

    async def _resume_jobs(self) -> None:
        for job in reversed(await self.store.jobs.list(state="running", limit=10_000)):
            if job.kind == "deployable.delete" and job.subject in self.desired.rows:
                await self._deletions.resume(job)
            elif job.kind == "deployable.images" and job.subject in self.desired.rows:
                self.preparations.resume(job)
            elif job.kind == "jeos.build":
                self.library.resume_jeos(job)
            else:
                self.jobs.resume(job, _nothing)
        await self._deletions.begin_left()

    # --- documents

    async def read(self, body: bytes, form: str, *, file: str = "") -> Deployable:
        """Return the deployable of a document (`yaml`, `xml` or `json`); `file` is its name, for what is said of it.
        InvalidDocument with every problem."""
        return await asyncio.to_thread(self.documents.read, body, form, file)

    async def put(
        self, deployable: Deployable, *, start: bool = True, dry_run: bool = False, library: Sequence[str] = ()
    ) -> Applied:
        """Store a deployable, new or changed, and have it brought about; only what differs is touched. Without `start` it is
        left as it is, and a new one stays stopped."""
        return await self._applying.put(deployable, start=start, dry_run=dry_run, library=library)

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
        async with self.changes:
            row = self.desired.active(name)
            if any(getattr(row, key) != value for key, value in changes.items()):
                await self.set_row(touched(row, **changes))
            if row.target == "started" and changes.get("target") == "stopped":
                await self.preparations.stop(name)
            self.desired.clear(name)
            self.reconciler.mark(name)
        return await self.status(name)

    async def set_row(self, row: DeployableRow) -> None:
        """Store and take over a row whose definition did not change; whoever calls holds `changes`."""
        await self.store.deployables.put_row(row)
        self.desired.renew(row)

    async def take(self, name: str, who: Holder) -> None:
        """Have a deployable's guests be this daemon's from now on, whoever had them before."""
        async with self.changes:
            row = self.desired.active(name)
            await self.store.deployables.taken(name, who)
            self.desired.rows[name] = msgspec.structs.replace(row, holder=who.id, host=who.host)

    async def delete(self, name: str) -> Job:
        """Stop it in order and remove guests, disks, addresses, keys and definition; carried through in any case."""
        return await self._deletions.delete(name)

    # --- asked of its engine

    async def recover(self, name: str, *, assembly: str = "", resource: str = "") -> DeployableStatus:
        """Take it (or one assembly or resource) up again after it was given up."""
        return await self._inside.recover(name, assembly=assembly, resource=resource)

    async def command(self, name: str, action: str, arguments: dict[str, Any], *, timeout: float = 30.0) -> Any:
        """Ask the deployable's engine for something; Unavailable while no engine process holds it."""
        return await self._inside.command(name, action, arguments, timeout=timeout)

    async def execute(
        self, name: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest, without a shell."""
        return await self._inside.execute(name, assembly, argv, stdin=stdin, timeout=timeout)

    async def console(self, name: str, assembly: str) -> bytes:
        """Return the newest part of a guest's console log."""
        return await self._inside.console(name, assembly)

    # --- what is

    def summaries(self) -> list[Summary]:
        """Return one line a deployable, by name."""
        return self._telling.summaries()

    async def status(self, name: str) -> DeployableStatus:
        """Return the state of a deployable with all that is in it."""
        return await self._telling.status(name)

    async def explain(
        self, name: str, *, assembly: str = "", resource: str = "", limit: int = 20
    ) -> list[dict[str, Any]]:
        """Return the newest decisions, newest first; those that are about an assembly or resource when one is given."""
        return await self._telling.explain(name, assembly=assembly, resource=resource, limit=limit)

    async def standstill(self, name: str, *, assembly: str = "", resource: str = "") -> tuple[Standstill, ...]:
        """Return what is not being done now, and why."""
        return await self._telling.standstill(name, assembly=assembly, resource=resource)

    async def decisions(self, name: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest decision records as they were journalled, newest first: with what `replay` needs."""
        return await self._telling.decisions(name, limit=limit)

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


async def _nothing(progress: Progress) -> None:
    """A job whose subject is gone."""
