"""Re-runs journalled decisions and says whether the same actions come out.

A record's `snapshot` holds the state the decision was made from; the same code that made it (CIB, Pacemaker's library,
graph, reasons) is asked again. A difference means that the code, or the library, decides otherwise today.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pcloud.dpe.decisions import Decision
from pcloud.environment.scheduler import SchedulerError
from pcloud.policy import cib
from pcloud.policy.graph import GraphError, parse_graph
from pcloud.policy.recording import unpack
from pcloud.simulator.loop import run
from pcloud.simulator.scheduler import InlineScheduler


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one record."""

    number: int
    time: float
    result: str
    """`same`, `different`, `failed` (it could not be decided), or `nothing recorded` (a record without a snapshot)."""
    actions: int = 0
    missing: tuple[str, ...] = ()
    """Actions of the record that did not come out again."""
    added: tuple[str, ...] = ()
    detail: str = ""


def replay(records: Iterable[dict[str, Any]]) -> list[Verdict]:
    """Return a verdict for each record, in the records' order."""
    return run(_replay(list(records)))


async def _replay(records: list[dict[str, Any]]) -> list[Verdict]:
    scheduler = InlineScheduler()
    try:
        return [await _one(scheduler, record) for record in records]
    finally:
        await scheduler.close()


async def _one(scheduler: InlineScheduler, record: dict[str, Any]) -> Verdict:
    number, time = int(record.get("number", 0)), float(record.get("time", 0.0))
    if not record.get("snapshot"):
        return Verdict(number=number, time=time, result="nothing recorded")
    try:
        snapshot = unpack(str(record["snapshot"]))
        graph = parse_graph(await scheduler.schedule(cib.render(snapshot.state, snapshot.now)))
    except (ValueError, SchedulerError, GraphError) as error:
        return Verdict(number=number, time=time, result="failed", detail=str(error))
    again = Decision(number, time)
    again.made(snapshot.state, graph, cib.names(snapshot.state), now=snapshot.now, decide=0.0, library=0.0)
    then, now = _actions(record), _actions(again.record(snapshot.now))
    missing, added = sorted(then - now), sorted(now - then)
    result = "different" if missing or added else "same"
    return Verdict(
        number=number, time=time, result=result, actions=len(now), missing=tuple(missing), added=tuple(added)
    )


def _actions(record: dict[str, Any]) -> set[str]:
    return {f"{a['action']} {a['subject']}: {a['why']}" for a in record.get("actions", ())}
