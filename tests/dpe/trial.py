"""A scenario that watches over itself: what must hold at every moment of any run, whatever faults are asked for."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec

from pcloud.environment.infrastructure import GuestInfo, GuestSpec
from pcloud.environment.transport import Operation, OperationResult
from pcloud.model.deployable import Deployable, Reference
from pcloud.policy import cib
from pcloud.policy.cib import resource_id
from pcloud.policy.state import ISOLATING, Health, Memory
from pcloud.simulator.loop import run
from pcloud.simulator.scheduler import InlineScheduler
from pcloud.simulator.transport import SimulatedConnection, SimulatedTransport
from tests.dpe.harness import Notebook, Scenario

DECISION_SECONDS = 0.003
"""A real scheduler takes time, in which things happen."""
PER_MINUTE = 600
"""More decisions, or actions, in one virtual minute are a hot loop."""


class Trial(Scenario):
    """Checks order, isolation, rates and the journal while a story runs; `violations` says what did not hold."""

    def __init__(self, deployable: Deployable, **world: Any) -> None:
        super().__init__(deployable, **world)
        self.violations: list[str] = []
        self.cibs: list[bytes] = []
        self.target, self.paused = "started", False
        self.stopping: Counter[str] = Counter()
        self.rates: Counter[tuple[str, int]] = Counter()
        self.main: asyncio.Task[Any] | None = None
        self._tie()

    def _tie(self) -> None:
        """Put the checks between the engine and its world."""
        schedule, note = self.scheduler.schedule, self.world.note

        async def watched_schedule(cib: bytes) -> bytes:
            self.cibs.append(cib)
            self._rate("decisions")
            await asyncio.sleep(DECISION_SECONDS)
            return await schedule(cib)

        def watched_note(action: str, subject: str) -> None:
            note(action, subject)
            self._rate("actions")

        self.scheduler.schedule = watched_schedule  # type: ignore[method-assign]
        self.world.note = watched_note  # type: ignore[method-assign]
        infrastructure = self.environment.infrastructure
        start = infrastructure.start

        async def watched_start(spec: GuestSpec) -> GuestInfo:
            guest, known = self.world.guests.get(spec.guest_id), self.engine.state.guest(spec.assembly)
            if guest is not None and guest.running and known.fault in ISOLATING:
                self.violations.append(f"{spec.guest_id} is started though it was not seen to be gone: {known}")
            walk, name = self.engine._walk, cib.guest_id(spec.assembly)
            nodes = [a.node for a in walk.graph.actions if (a.resource, a.task) == (name, "start")] if walk else []
            if nodes != [cib.PLACE + spec.place]:
                self.violations.append(f"{spec.guest_id} is started at {spec.place}, the scheduler said {nodes}")
            return await start(spec)

        infrastructure.start = watched_start  # type: ignore[method-assign]
        trial = self

        class WatchedConnection(SimulatedConnection):
            async def execute(self, operation: Operation) -> OperationResult:
                if operation.action == "start":
                    trial._may_start(operation.resource)
                if operation.action == "stop":
                    trial.stopping[operation.resource] += 1
                try:
                    return await super().execute(operation)
                finally:
                    if operation.action == "stop":
                        trial.stopping[operation.resource] -= 1

        transport = self.environment.transports["remote"]
        assert isinstance(transport, SimulatedTransport)
        transport.connection = WatchedConnection
        self.journal.state = self._remember  # type: ignore[method-assign]

    def _remember(self, deployable: str, state: bytes) -> None:
        memory = msgspec.msgpack.decode(state, type=Memory)
        if memory != self.engine.state.memory or msgspec.msgpack.encode(memory) != state:
            self.violations.append("the memory does not survive being written and read")
        Notebook.state(self.journal, deployable, state)

    def _rate(self, what: str) -> None:
        key = (what, int(asyncio.get_running_loop().time() // 60))
        self.rates[key] += 1
        if self.rates[key] == PER_MINUTE:
            self.violations.append(f"more than {PER_MINUTE} {what} in minute {key[1]}: {self.world.log[-12:]}")
            if self.main is not None:
                self.main.cancel()

    def _may_start(self, started: str) -> None:
        for first in before(self.engine.state.deployable).get(started, ()):
            assembly, _, rest = first.partition("/")
            guest = self.world.guests.get(f"{self.deployable.name}.{assembly}")
            runs = guest is not None and guest.services.get(resource_id(first), False)
            believed = self.engine.state.service(first).health is Health.RUNNING
            if not (runs or believed) or self.stopping[resource_id(first)] > 0:
                self.violations.append(
                    f"{started} starts, and {rest} of {assembly} which it is ordered after does not run"
                )

    # --- what a story may ask for

    def configure(
        self, deployable: Deployable | None = None, *, target: str | None = None, paused: bool | None = None
    ) -> None:
        self.target = self.target if target is None else target
        self.paused = self.paused if paused is None else paused
        super().configure(deployable, target=self.target, paused=self.paused)

    async def crash(self) -> None:
        self.stopping.clear()
        await super().crash()

    def world_differs(self) -> list[str]:
        """Return what in the world is not as the deployable wants it (started)."""
        differs: list[str] = []
        wanted = {f"{self.deployable.name}.{a.name}": a for a in self.deployable.assemblies}
        for guest_id, guest in self.world.guests.items():
            if guest_id not in wanted:
                differs.append(f"{guest_id} is left")
                continue
            shall = {resource_id(f"{wanted[guest_id].name}/{r.name}") for r in wanted[guest_id].resources}
            does = {name for name, runs in guest.services.items() if runs and name.startswith("rsc_")}
            if shall != does:
                differs.append(f"{guest_id} runs {sorted(does)} instead of {sorted(shall)}")
            watched = {name for name, _ in guest.recurring}
            differs += [f"{name} is not watched" for name in shall & does - watched]
        differs += [
            f"{name} does not run" for name in wanted if not (g := self.world.guests.get(name)) or not g.running
        ]
        return differs


def before(deployable: Deployable) -> dict[str, set[str]]:
    """Return, by resource id, the subjects of all services that must run when it starts: from the model, not from a CIB."""
    table: dict[str, set[str]] = {}
    for assembly in deployable.assemblies:
        for resource in assembly.resources:
            mine = table.setdefault(resource_id(f"{assembly.name}/{resource.name}"), set())
            mine |= {f"{assembly.name}/{other}" for other in resource.after}
            for dependency in assembly.after:
                mine |= {f"{dependency.assembly}/{r.name}" for r in deployable.assembly(dependency.assembly).resources}
            mine |= {
                c.first.replace(".", "/")
                for c in deployable.constraints
                if c.then == f"{assembly.name}.{resource.name}"
            }
            if any(isinstance(p.value, Reference) for p in resource.parameters):
                table[resource_id(f"{assembly.name}/{resource.name}!configure")] = mine
    return table


def attempt(deployable: Deployable, story: Any, **world: Any) -> Trial:
    """Run a story as a trial."""

    async def main() -> Trial:
        trial = Trial(deployable, **world)
        trial.main = asyncio.current_task()
        try:
            await trial.run(story)
        except asyncio.CancelledError:
            if not trial.violations:
                raise
        return trial

    return run(main())


__all__ = ["InlineScheduler", "Trial", "attempt", "before"]
