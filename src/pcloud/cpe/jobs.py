"""Jobs: work that takes a while, with progress, that survives the daemon.

Concurrency: a task a job. A job whose daemon dies stays `running` in the store and is begun again, under the same id, by
whoever owns its kind; so every kind of work must be idempotent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pcloud.events.event import Event, Severity
from pcloud.model.errors import Conflict, NotFound, PcloudError, Problem
from pcloud.store.rows import Job
from pcloud.store.tables import Jobs

_STEP = 0.05
_PAUSE = 1.0


class Progress:
    """What a running job tells about itself."""

    def __init__(self, job: Job, emit: Callable[[Event], None]) -> None:
        self.job = job
        self._emit = emit
        self._told = (0.0, "", 0.0)

    def __call__(self, fraction: float, message: str) -> None:
        """Tell how far the job is, 0 to 1, and what it is doing. Events are sent in steps of 5 % at most once a second."""
        fraction = min(max(fraction, 0.0), 1.0)
        self.job = msgspec.structs.replace(self.job, progress=fraction, message=message, updated=time.time())
        last, said, when = self._told
        now = time.monotonic()
        if now - when < _PAUSE or (abs(fraction - last) < _STEP and said == message):
            return
        self._told = (fraction, message, now)
        kind = "image.progress" if self.job.kind != "deployable.delete" else "job.progress"
        self._emit(job_event(self.job, kind, message))


Work = Callable[[Progress], Awaitable[None]]


class JobRunner:
    """All jobs."""

    def __init__(self, store: Jobs, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._emit = emit
        self._running: dict[str, tuple[Progress, asyncio.Task[None]]] = {}
        self._cancelled: set[str] = set()

    async def start(self, kind: str, subject: str, work: Work, *, arguments: dict[str, Any] | None = None) -> Job:
        """Begin a job; it is stored before this returns."""
        now = time.time()
        job = Job(
            id=secrets.token_hex(6), kind=kind, subject=subject, arguments=arguments or {}, created=now, updated=now
        )
        await self._store.put(job)
        self._emit(job_event(job, "job.started", f"{kind} of {subject} began"))
        self.resume(job, work)
        return job

    def resume(self, job: Job, work: Work) -> None:
        """Begin a stored job (again)."""
        progress = Progress(job, self._emit)
        task = asyncio.create_task(self._run(progress, work), name=f"job-{job.id}")
        self._running[job.id] = (progress, task)

    async def _run(self, progress: Progress, work: Work) -> None:
        identifier = progress.job.id
        try:
            await work(progress)
        except asyncio.CancelledError:
            if identifier not in self._cancelled:
                raise  # the daemon ends; the job is begun again by the next one
            await self._end(progress, "cancelled", "cancelled", ())
        except PcloudError as error:
            await self._end(progress, "failed", error.problems[0].message, error.problems)
        except Exception as error:  # noqa: BLE001 - whatever went wrong must end the job, visibly
            problem = Problem(code="JOB_FAILED", message=f"{type(error).__name__}: {error}")
            await self._end(progress, "failed", problem.message, (problem,))
        else:
            await self._end(progress, "done", progress.job.message, ())
        finally:
            self._running.pop(identifier, None)
            self._cancelled.discard(identifier)

    async def _end(self, progress: Progress, state: str, message: str, errors: tuple[Problem, ...]) -> None:
        """Store how the job ended, however long the store fails: else it would be done again by the next daemon."""
        fraction = 1.0 if state == "done" else progress.job.progress
        job = msgspec.structs.replace(
            progress.job, state=state, progress=fraction, message=message, errors=errors, updated=time.time()
        )
        progress.job = job
        self._emit(job_event(job, f"job.{state}", message or f"{job.kind} of {job.subject} is {state}"))
        while True:
            try:
                await self._store.put(job)
            except PcloudError:
                await asyncio.sleep(1)
            else:
                return

    async def get(self, identifier: str) -> Job:
        """Return a job; NotFound."""
        if identifier in self._running:
            return self._running[identifier][0].job
        job = await self._store.get(identifier)
        if job is None:
            raise NotFound(Problem(code="NO_SUCH_JOB", message=f"there is no job {identifier}"))
        return job

    async def list(self) -> list[Job]:
        """Return the newest jobs, newest first."""
        return [self._running[job.id][0].job if job.id in self._running else job for job in await self._store.list()]

    async def cancel(self, identifier: str) -> Job:
        """Cancel a running job; Conflict for one that has ended or must not be left half-done."""
        job = await self.get(identifier)
        if identifier not in self._running or job.state != "running":
            raise Conflict(Problem(code="JOB_ENDED", message=f"job {identifier} is {job.state} already"))
        if job.kind == "deployable.delete":
            raise Conflict(Problem(code="JOB_NOT_CANCELLABLE", message="a deletion that began is carried through"))
        progress, task = self._running[identifier]
        self._cancelled.add(identifier)
        task.cancel()
        await asyncio.wait({task})
        return progress.job

    async def close(self) -> None:
        """Interrupt all jobs; they go on under the next daemon."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def job_event(job: Job, kind: str, reason: str) -> Event:
    """Return the event that tells of a job."""
    data = {"job": job.id, "kind": job.kind, "subject": job.subject, "progress": round(job.progress, 3)}
    deployable = job.subject if job.kind.startswith("deployable.") else ""
    severity = Severity.WARNING if job.state == "failed" else Severity.INFO
    return Event(
        time=time.time(), type=kind, deployable=deployable, state="", reason=reason, severity=severity, data=data
    )
