"""Drills: one real fault on demand, and how long it took to notice and to mend it, against the drills before and a budget.

A drill refuses where it could do harm. Its report is an event (`drill.passed` or `drill.failed`) and a journal record, so
what was drilled is seen wherever people look. Concurrency: one drill a deployable at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pcloud.cpe import processes
from pcloud.cpe.drilling import Target, choose, unsafe
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.probing import Probe, Probes, check
from pcloud.events.broadcast import Closed, Subscription, TooSlow
from pcloud.events.event import Event, Severity
from pcloud.events.filters import EventFilter
from pcloud.model.deployable import ResourceState
from pcloud.model.errors import Conflict, Problem, Unavailable
from pcloud.model.status import DeployableStatus
from pcloud.store.rows import Entry

LOOK = 0.02
"""Seconds between two looks at whether all runs again: the precision of `recovered_s`."""
MEMORY = 20
"""How many earlier drills of the same kind are compared with."""


class Previous(msgspec.Struct, frozen=True, kw_only=True):
    """The earlier drills of the same fault on the same subject."""

    count: int
    detected_s: float
    """Median of those that passed."""
    recovered_s: float


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one drill; times in seconds after the fault was done."""

    deployable: str
    fault: str
    subject: str
    """`web/httpd`, `web`, or empty for the engine process."""
    time: float
    """When the fault was done, seconds since the epoch."""
    done: str
    """What was done, in words."""
    passed: bool
    """Whether all ran again within the budget."""
    budget_s: float
    detected_s: float | None = None
    recovered_s: float | None = None
    noticed: str = ""
    """What told of it, in the words of the event."""
    restarted: tuple[str, ...] = ()
    """What was started in its course, in order."""
    state: str = ""
    """State of the deployable at the end."""
    reason: str = ""
    previous: Previous | None = None
    slower: bool = False
    """Whether it took more than twice as long to recover as the median of those before."""
    probes: tuple[Probe, ...] = ()
    """What was lost meanwhile: the pages that were asked for."""


class Drills:
    """Drills of all deployables."""

    def __init__(self, engine: CloudPolicyEngine) -> None:
        self._engine = engine
        self._running: set[str] = set()

    async def run(
        self,
        name: str,
        fault: str,
        *,
        assembly: str = "",
        resource: str = "",
        budget: float = 60.0,
        force: bool = False,
        probes: Sequence[str] = (),
    ) -> Drill:
        """Do one fault to a running deployable, wait until all runs again (at most `budget` seconds), and report. The pages
        `probes` are asked for all the while, and have to answer in the end.

        Conflict with every reason when it is not safe, unless `force`; what does not run at all can not be drilled either
        way. InvalidDocument when a probe is no URL; NotFound, Unavailable as their names say; then nothing was done.
        """
        row = self._engine.desired.active(name)
        check(probes)
        if name in self._running:
            raise Conflict(Problem(code="DRILL_RUNNING", message=f"a drill of {name} goes on already"))
        self._running.add(name)
        try:
            definition = (await self._engine.definition(name)).deployable
            status = await self._engine.status(name)
            target = choose(definition, fault, assembly, resource)
            reasons = unsafe(definition, status, row.paused, target)
            if reasons.impossible or (reasons.risky and not force):
                raise Conflict(*reasons.problems(force))
            async with Probes(probes) as pages:
                if (silent := pages.silent()) and not force:
                    raise Conflict(*silent)
                return await self._drill(target, budget, pages)
        finally:
            self._running.discard(name)

    async def reports(self, name: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest reports of a deployable, newest first."""
        self._engine.desired.row(name)
        events, _ = await self._engine.events(
            EventFilter(deployable=name, type="drill.*"), limit=3 * limit, newest=True
        )
        found = [dict(event.data["drill"]) for event in events if event.type in ("drill.passed", "drill.failed")]
        return sorted(found, key=lambda one: -float(one["time"]))[:limit]

    async def _drill(self, target: Target, budget: float, pages: Probes) -> Drill:
        name = target.deployable
        previous = await self._previous(target)
        # The end of an engine process is told of the process, not of the deployables in it.
        where = EventFilter() if target.fault == "engine-killed" else EventFilter(deployable=name)
        with self._engine.broadcaster.subscribe(where, limit=20_000) as told:
            self._engine.emit(
                "drill.started", f"drill: {target.words}", deployable=name, severity=Severity.NOTICE,
                fault=target.fault, subject=target.subject,
            )  # fmt: skip
            pages.start()
            deadline = asyncio.get_running_loop().time() + budget
            began = time.time()
            done = await self._inject(target)
            drill = Drill(
                deployable=name, fault=target.fault, subject=target.subject, time=began, done=done, passed=False,
                budget_s=budget, previous=previous,
            )  # fmt: skip
            drill = await self._observe(drill, target, told)
        drill = _with(drill, await pages.finish(deadline - asyncio.get_running_loop().time()))
        self._record(drill)
        with contextlib.suppress(
            TimeoutError
        ):  # a store that can not be written must not keep the report from whoever asked
            async with asyncio.timeout(5):
                await self._engine.ingest.flush()
        return drill

    async def _inject(self, target: Target) -> str:
        if target.fault != "engine-killed":
            arguments = {"fault": target.fault, "assembly": target.assembly, "resource": target.resource}
            return str(await self._engine.command(target.deployable, "inject", arguments, timeout=60))
        slot = self._engine.fleet.slots.get(self._engine.desired.rows[target.deployable].slot)
        if slot is None or slot.link is None:
            raise Unavailable(Problem(code="ENGINE_AWAY", message="its engine process is not there at present"))
        processes.kill(slot.link.hello.pid, slot.name)
        return f"engine process {slot.name} (pid {slot.link.hello.pid}) was killed"

    async def _observe(self, drill: Drill, target: Target, told: Subscription) -> Drill:
        """Follow what is told until all runs again or the budget is used up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drill.budget_s
        slot = self._engine.desired.rows[drill.deployable].slot
        seen: list[Event] = []
        noticed: Event | None = None
        mended = target.fault == "engine-killed"
        recovered: float | None = None
        while recovered is None and loop.time() < deadline:
            event = await _next(told)
            if event is not None and event.time >= drill.time:
                if event.deployable == drill.deployable:
                    seen.append(event)
                if noticed is None and target.tells(event, slot):
                    noticed = event
                mended = mended or (noticed is not None and target.mended(event))
            # Only with a word that it was mended: the status that is known may still be the one from before.
            if noticed is not None and mended and self._all_runs(drill.deployable):
                recovered = time.time() if not target.assembly else max(e.time for e in seen if e.state == "running")
        row = self._engine.desired.row(drill.deployable)
        state, why, _ = self._engine.desired.head(row)
        started = (_subject(event) for event in seen if event.state == "starting" and event.assembly)
        took = round(recovered - drill.time, 3) if recovered is not None else None
        return msgspec.structs.replace(
            drill,
            passed=took is not None,
            detected_s=round(noticed.time - drill.time, 3) if noticed is not None else None,
            recovered_s=took,
            noticed=noticed.reason if noticed is not None else "",
            restarted=tuple(dict.fromkeys(started)),
            state=str(state),
            reason=_reason(noticed, took, drill.budget_s, state, why),
            slower=took is not None and drill.previous is not None and took > 2 * drill.previous.recovered_s,
        )

    def _all_runs(self, name: str) -> bool:
        status = self._engine.desired.statuses.get(name)
        return status is not None and all_runs(status)

    async def _previous(self, target: Target) -> Previous | None:
        alike = [
            one
            for one in await self.reports(target.deployable, limit=200)
            if (one.get("fault"), one.get("subject")) == (target.fault, target.subject) and one.get("passed")
        ][:MEMORY]
        if not alike:
            return None
        return Previous(
            count=len(alike), detected_s=_median(alike, "detected_s"), recovered_s=_median(alike, "recovered_s")
        )

    def _record(self, drill: Drill) -> None:
        words = f"drill {drill.fault} {drill.subject}".rstrip()
        outcome = "passed" if drill.passed else "failed"
        self._engine.emit(
            f"drill.{outcome}", f"{words}: {drill.reason}", deployable=drill.deployable,
            severity=Severity.NOTICE if drill.passed else Severity.WARNING, drill=msgspec.to_builtins(drill),
        )  # fmt: skip
        record = {
            "time": drill.time,
            "number": 0,
            "trigger": f"{words}: a fault on demand",
            "observations": [
                {
                    "what": "drill",
                    "subject": drill.subject,
                    "signal": "operator",
                    "detail": drill.done,
                    "time": drill.time,
                }
            ],
            "rules": [{"rule": "DRILL", "subject": drill.subject, "text": drill.reason}],
            "actions": [],
            "cost": {},
            "outcome": outcome,
        }
        self._engine.ingest.record(Entry(deployable=drill.deployable, decision=record))


def all_runs(status: DeployableStatus) -> bool:
    """Tell whether a deployable runs with all that is in it."""
    parts = [one.state for one in status.assemblies] + [r.state for one in status.assemblies for r in one.resources]
    return all(state is ResourceState.RUNNING for state in (status.state, *parts))


def _with(drill: Drill, probes: tuple[Probe, ...]) -> Drill:
    """Put in what the pages said; one that does not answer in the end has not recovered."""
    silent = [probe for probe in probes if not probe.answers]
    if silent and drill.passed:
        why = "; ".join(f"{probe.url} does not answer: {probe.error}" for probe in silent)
        drill = msgspec.structs.replace(drill, passed=False, reason=f"{drill.reason}, but {why}")
    return msgspec.structs.replace(drill, probes=probes)


async def _next(told: Subscription) -> Event | None:
    try:
        return await told.next(timeout=LOOK)
    except (TooSlow, Closed) as error:
        raise Unavailable(
            Problem(
                code="DRILL_LOST", message="the drill can not be followed any more; `pcloud events` tells how it ended"
            )
        ) from error


def _subject(event: Event) -> str:
    return "/".join(part for part in (event.assembly, event.resource) if part)


def _median(reports: Sequence[Mapping[str, Any]], key: str) -> float:
    return round(statistics.median(float(one[key] or 0.0) for one in reports), 3)


def _reason(noticed: Event | None, took: float | None, budget: float, state: ResourceState, why: str) -> str:
    if noticed is None:
        return f"nobody noticed it within {budget:g} s"
    if took is None:
        return f"noticed, but not all ran again within {budget:g} s: it is {state}" + (f" ({why})" if why else "")
    return f"all runs again after {took:g} s"
