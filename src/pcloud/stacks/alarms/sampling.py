"""Measures what guests do, where an alarm watches it: processor time and memory, through the processes that they see.

Concurrency: one task; guests are asked in parallel, a few at a time. What is asked for is one command in the guest, which
needs nothing there but a shell.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from pcloud.model.errors import PcloudError
from pcloud.stacks.alarms.metrics import Datum
from pcloud.stacks.alarms.rule import Rule
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.types.servers import told

if TYPE_CHECKING:
    from pcloud.stacks.engine.state import State

_log = logging.getLogger(__name__)
EVERY_SECONDS = 15.0
NAMESPACE = "pcloud/guests"
METERS = ("cpu_util", "memory.usage")
"""Percent of the guest's processors; MiB that its processes hold."""
AWS_NAMES = {("AWS/EC2", "CPUUtilization"): "cpu_util"}
_TICKS = 100.0
_AT_ONCE = 8
_COMMAND = "nproc; cat /proc/[0-9]*/stat 2>/dev/null; exit 0"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest's processes came to."""

    time: float
    processors: int
    seconds: float
    """Processor time used since their start, ended children included."""
    memory: float
    """MiB."""


def read(text: str, now: float) -> Reading:
    """Read the number of processors and the lines of /proc/PID/stat."""
    lines = text.splitlines()
    ticks = pages = 0
    for line in lines[1:]:
        fields = line.rpartition(")")[2].split()
        if len(fields) > 21:
            ticks += sum(int(field) for field in fields[11:15])
            pages += int(fields[21])
    processors = int(lines[0]) if lines and lines[0].isdigit() else 1
    return Reading(time=now, processors=max(1, processors), seconds=ticks / _TICKS, memory=pages * 4096 / 2**20)


def values(before: Reading | None, after: Reading) -> dict[str, float]:
    """Return the meters; processor time needs two readings."""
    result = {"memory.usage": after.memory}
    if before is not None and after.time > before.time:
        used = max(0.0, after.seconds - before.seconds)
        result["cpu_util"] = 100 * used / (after.time - before.time) / after.processors
    return result


class Sampling:
    """Reads the guests of stacks that have an alarm over a meter."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._before: dict[str, Reading] = {}

    async def run(self) -> None:
        """Measure again and again."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)

    def wanted(self) -> set[str]:
        """Return the root stacks in which something is measured."""
        result = set()
        for record in self._state.alarms.values():
            rule = msgspec.convert(record.data["alarm"], Rule)
            if rule.namespace == NAMESPACE or (rule.namespace, rule.metric) in AWS_NAMES:
                result.add(self._state.root_of(record.stack))
        return result

    async def look(self) -> None:
        """Measure every guest that is to be measured."""
        roots = self.wanted()
        guests = [
            record
            for stack in list(self._state.stacks.values())
            if roots and stack.live and self._state.root_of(stack.id) in roots
            for record in self._state.current(stack).values()
            if self._state.place_of(record) is not None and record.state == "COMPLETE"
        ]
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(record: ResourceRecord) -> None:
            async with limit:
                await self._measure(record)

        await asyncio.gather(*(one(record) for record in guests))
        known = {record.id for record in guests}
        self._before = {key: value for key, value in self._before.items() if key in known}

    async def _measure(self, record: ResourceRecord) -> None:
        place = self._state.place_of(record)
        assert place is not None
        try:
            done = await self._state.platform.execute(*place, ["sh", "-c", _COMMAND], timeout=10)
        except PcloudError as problem:  # the guest is down: it has no values
            self._before.pop(record.id, None)
            _log.debug("%s is not measured: %s", record.name, problem)
            return
        if done.returncode != 0:
            return
        now = self._state.now()
        reading = read(done.stdout.decode(errors="replace"), now)
        before, self._before[record.id] = self._before.get(record.id), reading
        scope, dimensions = self._state.root_of(record.stack), dimensions_of(record)
        for meter, value in values(before, reading).items():
            try:
                self._state.watcher.put(scope, Datum.single(NAMESPACE, meter, value, now, **dimensions))
                for (namespace, name), same in AWS_NAMES.items():
                    if same == meter:
                        self._state.watcher.put(scope, Datum.single(namespace, name, value, now, **dimensions))
            except PcloudError as problem:
                _log.warning("%s: %s", record.name, problem)


def dimensions_of(record: ResourceRecord) -> dict[str, str]:
    """Return what a guest's values are found by: its id, its tags and its metadata, without the prefix `metering.`."""
    found = {key.removeprefix("metering."): value for key, value in told(record.properties).items()}
    return {**found, "InstanceId": record.physical}
