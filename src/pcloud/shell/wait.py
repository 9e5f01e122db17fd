"""Waiting for what the daemon does, and showing it: live on a terminal, a line a change elsewhere.

Everything shown here goes to standard error, so that results stay alone on standard output. A daemon that restarts while
somebody waits is waited for too, up to PATIENCE seconds; Ctrl-C ends the wait, never what is waited for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from pcloud.client.api import Client
from pcloud.client.errors import TimedOut, Unreachable
from pcloud.client.records import Job
from pcloud.model.deployable import LOST, ResourceState
from pcloud.model.errors import Conflict, PcloudError, Problem
from pcloud.model.status import DeployableStatus
from pcloud.shell.output import note
from pcloud.shell.text import clean

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live as RichLive

T = TypeVar("T")
PATIENCE = 30.0
INTERVAL = 0.25
SETTLE = 2.0
"""Seconds for which a state that is exactly the one from before the request does not count as its outcome yet."""
BUILDS = frozenset({"jeos.build", "deployable.images"})


_AGAIN = "what ran before goes on; apply a corrected document, or `pcloud reload` it when the cause is mended"


class Failed(PcloudError):
    """What was waited for can not happen any more."""

    status = 500


class View(Protocol):
    """What shows progress."""

    def status(self, status: DeployableStatus) -> None:
        """Show a deployable's state."""
        ...

    def job(self, job: Job) -> None:
        """Show a job's state."""
        ...

    def say(self, line: str) -> None:
        """Show a line that has nothing to do with the progress, without harm to it."""
        ...


class Lines:
    """Progress as plain lines, one for each change."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def status(self, status: DeployableStatus) -> None:
        """Say which states changed."""
        self._say(status.name, status.state, status.reason)
        for assembly in status.assemblies:
            self._say(f"{status.name}/{assembly.name}", assembly.state, assembly.reason)
            for resource in assembly.resources:
                self._say(f"{status.name}/{assembly.name}/{resource.name}", resource.state, resource.reason)

    def job(self, job: Job) -> None:
        """Say each tenth of a job, and its end."""
        tenth = int(job.progress * 10) * 10
        self._say(f"{job.kind} {job.subject}", f"{tenth} %" if job.state == "running" else job.state, job.message)

    def say(self, line: str) -> None:
        """Say it."""
        note(line)

    def _say(self, what: str, state: str, why: str) -> None:
        if self._seen.get(what) != state:
            self._seen[what] = state
            note(f"{what}: {state}" + (f" ({clean(why)})" if why else ""))


class Live:
    """Progress as a picture that is drawn anew in place: bars for jobs, a tree of states for deployables."""

    def __init__(self, live: RichLive) -> None:
        self._live = live
        self._jobs: dict[str, Job] = {}
        self._status: DeployableStatus | None = None

    def status(self, status: DeployableStatus) -> None:
        """Draw the tree."""
        self._status = status
        self._draw()

    def job(self, job: Job) -> None:
        """Draw the bar."""
        self._jobs[job.id] = job
        self._draw()

    def _draw(self) -> None:
        from rich.console import Group

        from pcloud.shell.picture import bar, tree

        parts: list[RenderableType] = [bar(job) for job in self._jobs.values()]
        if self._status is not None:
            parts.append(tree(self._status))
        self._live.update(Group(*parts))

    def say(self, line: str) -> None:
        """Print it above the picture."""
        self._live.console.print(line)


@contextmanager
def view() -> Iterator[View]:
    """Give what fits standard error: Live on a terminal, Lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.live import Live as RichLive

    from pcloud.shell.output import console

    with RichLive(console=console(stderr=True), refresh_per_second=8, transient=False) as live:
        yield Live(live)


class Patience:
    """Bridges a daemon's restart: `ask` repeats a question while nobody answers, up to PATIENCE seconds in a row."""

    def __init__(self) -> None:
        self._since: float | None = None

    def ask(self, question: Callable[[], T]) -> T | None:
        """Return the answer, or None when there is none at the moment. Unreachable when it lasted too long."""
        try:
            answer = question()
        except Unreachable:
            now = time.monotonic()
            if self._since is None:
                self._since = now
                note("the daemon does not answer; waiting for it to come back")
            if now - self._since > PATIENCE:
                raise
            return None
        self._since = None
        return answer


def for_state(
    client: Client,
    name: str,
    goal: ResourceState,
    *,
    timeout: float,
    show: View,
    before: DeployableStatus | None = None,
) -> DeployableStatus:
    """Return once the deployable is in state `goal` with all that is in it.

    `before` is the status from before the request: while the present one still is that one it is not taken for the
    outcome, for SETTLE seconds. Failed when the goal can not be reached, TimedOut after `timeout` seconds.
    """
    started = settled = time.monotonic()
    patience = Patience()
    building: Job | None = None
    while True:
        status = patience.ask(lambda: client.status(name))
        jobs = builds(client, patience) if status is not None else []
        for job in jobs:
            show.job(job)
        if building is not None:
            _raise_if_failed(client, patience, building)
        building = next((job for job in jobs if job.subject == name), None)
        passed = time.monotonic() - started
        if building is not None:
            # What ran before goes on until the images of the change are there: its state is not the outcome.
            settled = time.monotonic()
        if status is not None:
            show.status(status)
            stale = before is not None and (status.state, status.since) == (before.state, before.since)
            pending = status.change == "pending"  # the state is that of what was wished before
            waits = building is not None or pending or (stale and time.monotonic() - settled < SETTLE)
            if not waits and status.change == "failed" and goal == ResourceState.RUNNING:
                raise Failed(Problem(code="CHANGE_FAILED", message=f"{name}: {status.reason}", hint=_AGAIN))
            if not waits and _arrived(client, patience, status, goal):
                return status
        if passed >= timeout:
            state = status.state if status is not None else "unknown"
            raise TimedOut.of(
                "TIMED_OUT",
                f"{name} is not {goal} after {timeout:g} s; it is {state}",
                hint=f"it goes on: `pcloud status {name}` shows where it is, `pcloud explain {name}` why",
            )
        time.sleep(INTERVAL)


def for_job(client: Client, identity: str, *, timeout: float, show: View) -> Job:
    """Return the job once it is done. Failed with the job's own problems when it failed or was cancelled."""
    if not identity:
        return Job(id="", state="done", progress=1.0)
    started = time.monotonic()
    patience = Patience()
    while True:
        job = patience.ask(lambda: client.job(identity))
        if job is not None:
            show.job(job)
            if job.state == "done":
                return job
            if job.state != "running":
                raise _job_error(job)
        if time.monotonic() - started >= timeout:
            raise TimedOut.of(
                "TIMED_OUT", f"job {identity} is not done after {timeout:g} s", hint="it goes on in the daemon"
            )
        time.sleep(INTERVAL)


def builds(client: Client, patience: Patience) -> list[Job]:
    """Return the image builds that go on at the moment."""
    jobs = patience.ask(client.jobs) or []
    return [job for job in jobs if job.state == "running" and job.kind in BUILDS]


def _raise_if_failed(client: Client, patience: Patience, building: Job) -> None:
    """Failed when the build of the images that are waited for has failed."""
    job = patience.ask(lambda: client.job(building.id))
    if job is not None and job.state == "failed":
        raise _job_error(job)


def _arrived(client: Client, patience: Patience, status: DeployableStatus, goal: ResourceState) -> bool:
    """Whether the goal is reached; Failed when it never will be."""
    if status.state == goal:
        return goal != ResourceState.RUNNING or all(
            assembly.state == goal and all(resource.state == goal for resource in assembly.resources)
            for assembly in status.assemblies
        )
    if goal == ResourceState.RUNNING and (_beyond_help(status) or _given_up(client, patience, status)):
        raise Failed(*_failures(status))
    if status.state == ResourceState.PAUSED and goal == ResourceState.RUNNING:
        raise Conflict.of("PAUSED", f"{status.name} is paused", hint=f"`pcloud resume {status.name}` lets it go on")
    return False


def _parts(status: DeployableStatus) -> list[ResourceState]:
    """The states of all assemblies and resources."""
    found = [assembly.state for assembly in status.assemblies]
    return found + [resource.state for assembly in status.assemblies for resource in assembly.resources]


def _beyond_help(status: DeployableStatus) -> bool:
    """Whether something in it is not even tried again."""
    return ResourceState.UNRECOVERABLE in (status.state, *_parts(status))


def _given_up(client: Client, patience: Patience, status: DeployableStatus) -> bool:
    """Whether a failed deployable stays so. While recovery goes on, what failed is `failed` too, for a moment or for as
    long as the engine backs off; the event of the final failure says that it is final. Where no part failed, it was
    not the engine that gave up: an image could not be built, say."""
    if status.state != ResourceState.FAILED:
        return status.state == ResourceState.BLOCKED
    if ResourceState.FAILED not in _parts(status):
        return True
    filters = {"deployable": status.name, "type": "deployable.state"}
    page = patience.ask(lambda: client.events(filters, limit=1, newest=True))
    return page is not None and any(event.data.get("final") is True for event in page.events)


def _failures(status: DeployableStatus) -> list[Problem]:
    """The deployable's own problem and those of every part that failed."""
    hint = (
        f"`pcloud explain {status.name}` tells why; `pcloud recover {status.name}` tries again when the cause is mended"
    )
    found = [
        Problem(
            code="RESOURCE_FAILED",
            path=f"{assembly.name}/{resource.name}",
            message=_why(resource.state, resource.reason),
        )
        for assembly in status.assemblies
        for resource in assembly.resources
        if resource.state in LOST
    ]
    found += [
        Problem(code="ASSEMBLY_FAILED", path=assembly.name, message=_why(assembly.state, assembly.reason))
        for assembly in status.assemblies
        if assembly.state in LOST
    ]
    return [
        Problem(code="DEPLOYABLE_FAILED", message=f"{status.name} is {_why(status.state, status.reason)}", hint=hint),
        *found,
    ]


def _why(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state


def _job_error(job: Job) -> Failed:
    """The error that a job which did not get done stands for."""
    what = " ".join(part for part in (job.kind, job.subject) if part) or f"job {job.id}"
    problems = [
        Problem(**{field: getattr(record, field) for field in record.__struct_fields__}) for record in job.errors
    ]
    told = f": {job.message}" if job.message and not problems else ""  # the problems say it, and what to do
    summary = Problem(code="JOB_" + job.state.upper(), message=f"{what} {job.state}{told}")
    return Failed(summary, *problems)
