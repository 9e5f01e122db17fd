"""Keeps load balancers right while guests come and go, and measures them.

Concurrency: one task for all balancers. It is woken by the engine's events of guests that came up, and looks at everything
every few seconds besides, for an event may have been missed while the daemon was away.
"""

from __future__ import annotations

import asyncio
import csv
import io
import logging
from typing import TYPE_CHECKING

from pcloud.events.event import Event
from pcloud.model.errors import PcloudError
from pcloud.stacks.alarms.metrics import Datum
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.types.balancing import SOCKET

if TYPE_CHECKING:
    from pcloud.stacks.engine.scaling import Scaling

_log = logging.getLogger(__name__)
EVERY_SECONDS = 15.0
NAMESPACE = "AWS/ELB"
_SHOW = 'printf "show stat\\n" | socat - "UNIX-CONNECT:$1"'


class Balancing:
    """The balancers of this host."""

    def __init__(self, state: Scaling) -> None:
        self._state = state
        self._wake = asyncio.Event()
        self._started: set[tuple[str, str]] = set()
        """Guests that came up since the last look."""
        self._requests: dict[str, float] = {}
        """Balancer → requests counted at the last look."""
        self._looked = False

    def seen(self, event: Event) -> None:
        """Take an event of the engine."""
        if event.type == "assembly.state" and event.state == "running" and self._state.balancers:
            self._started.add((event.deployable, event.assembly))
            self._wake.set()

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def look(self) -> None:
        """Refresh every balancer that needs it, and measure all."""
        started, self._started = self._started, set()
        for record in list(self._state.balancers.values()):
            place = self._state.place_of(record)
            if place is None or record.condemned or record.state != "COMPLETE" or record.action == "DELETE":
                continue
            try:
                await self._state.refresh_balancer(record, force=place in started or not self._looked)
                await self._measure(record, place)
            except PcloudError as problem:  # its guest is on its way up or down: the next look tries again
                _log.info("balancer %s: %s", record.name, problem)
                self._started |= {place} & started
        self._looked = True

    async def _measure(self, record: ResourceRecord, place: tuple[str, str]) -> None:
        done = await self._state.platform.execute(*place, ["sh", "-c", _SHOW, "sh", SOCKET], timeout=10)
        if done.returncode != 0:
            return
        scope, now = self._state.root_of(record.stack), self._state.now()
        name = str(record.data.get("reference") or record.physical)
        for metric, value in self.values(record.id, done.stdout.decode(errors="replace")).items():
            datum = Datum.single(NAMESPACE, metric, value, now, LoadBalancerName=name)
            self._state.watcher.put(scope, datum)

    def values(self, identity: str, text: str) -> dict[str, float]:
        """Read haproxy's statistics: hosts, their latency in seconds, and the requests since the last look."""
        rows = list(csv.DictReader(io.StringIO(text.removeprefix("# "))))
        servers = [row for row in rows if row.get("svname") not in ("FRONTEND", "BACKEND", None)]
        if not rows:
            return {}
        up = sum((row.get("status") or "").startswith(("UP", "no check")) for row in servers)
        total = sum(float(row.get("req_tot") or row.get("stot") or 0) for row in rows if row["svname"] == "FRONTEND")
        before = self._requests.get(identity)
        self._requests[identity] = total
        result = {"HealthyHostCount": float(up), "UnHealthyHostCount": float(len(servers) - up)}
        if before is not None:
            result["RequestCount"] = total - before if total >= before else total
        delays = [float(row["rtime"]) / 1000 for row in servers if row.get("rtime")]
        if delays:
            result["Latency"] = max(delays)
        return result
