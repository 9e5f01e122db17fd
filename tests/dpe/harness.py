"""Runs the real engine on the simulated world, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pcloud.dpe.brake import Brake
from pcloud.dpe.environment import Environment
from pcloud.dpe.loop import DeployableEngine
from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import Identity, Image
from pcloud.events.event import Event
from pcloud.model.deployable import (
    Assembly,
    Dependency,
    Deployable,
    Escalation,
    Parameter,
    Reference,
    Resource,
)
from pcloud.model.status import DeployableStatus
from pcloud.policy.state import Memory
from pcloud.simulator.infrastructure import SimulatedInfrastructure
from pcloud.simulator.loop import VirtualClock, run
from pcloud.simulator.scheduler import InlineScheduler
from pcloud.simulator.transport import SimulatedTransport
from pcloud.simulator.world import World


class Notebook:
    """A journal that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.decisions: list[dict[str, Any]] = []
        self.states: dict[str, bytes] = {}

    def event(self, event: Event, state: bytes | None = None) -> None:
        self.events.append(event)
        if state is not None:
            self.state(event.deployable, state)

    def decision(self, deployable: str, record: dict[str, Any]) -> None:
        self.decisions.append(record)

    def state(self, deployable: str, state: bytes) -> None:
        self.states[deployable] = state

    def told(self, kind: str = "", state: str = "") -> list[str]:
        """Return the subjects of events of a kind and state."""
        return [
            "/".join(part for part in (event.assembly, event.resource) if part)
            for event in self.events
            if (not kind or event.type == kind) and (not state or event.state == state)
        ]


def resource(name: str, **changes: Any) -> Resource:
    return Resource(name=name, resource_class="systemd", type=name, **changes)


def shop(**changes: Any) -> Deployable:
    """The main job's deployable: a database and a web server that needs it."""
    database = Assembly(name="db", resources=(resource("mysqld"),))
    reference = Parameter(name="db_host", value=Reference(assembly="db", attribute="ipaddress"))
    web = Assembly(
        name="web", resources=(resource("httpd", parameters=(reference,)),), after=(Dependency(assembly="db"),)
    )
    return msgspec.structs.replace(Deployable(name="shop", assemblies=(database, web)), **changes)


class Scenario:
    """One deployable on a simulated world."""

    def __init__(self, deployable: Deployable, **world: Any) -> None:
        self.world = World(**world)
        self.journal = Notebook()
        self.scheduler = InlineScheduler()
        self.environment = Environment(
            clock=VirtualClock(),
            infrastructure=SimulatedInfrastructure(self.world),
            transports={"remote": SimulatedTransport(self.world)},
            scheduler=self.scheduler,
            journal=self.journal,
            brake=Brake(8),
        )
        self.deployable = deployable
        self.statuses: list[DeployableStatus] = []
        self._make_engine(None)

    def _make_engine(self, memory: Memory | None) -> None:
        self.engine = DeployableEngine(self.environment, self.deployable, memory=memory, publish=self.statuses.append)

    @property
    def state(self) -> str:
        return self.statuses[-1].state.value

    def resource_state(self, assembly: str, name: str) -> str:
        for each in self.statuses[-1].assemblies:
            if each.name == assembly:
                return next(r.state.value for r in each.resources if r.name == name)
        raise KeyError(assembly)

    def configure(
        self, deployable: Deployable | None = None, *, target: str = "started", paused: bool = False, revision: int = 0
    ) -> None:
        self.deployable = deployable or self.deployable
        self.engine.configure(
            self.deployable,
            target=target,
            guests={
                a.name: GuestMaterial(
                    image=Image(name=a.image, digest=f"image-{a.image}"), identity=Identity(hostname=a.name)
                )
                for a in self.deployable.assemblies
            },
            paused=paused,
            places=self.world.places,
            revision=revision,
        )

    async def settle(self, seconds: float = 30.0) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    async def until(self, state: str, seconds: float = 600.0) -> None:
        """Let time pass until the deployable is in a state."""
        async with asyncio.timeout(seconds):
            while not self.statuses or self.state != state:
                await asyncio.sleep(0.05)

    async def crash(self) -> None:
        """The engine dies as by kill -9: nothing is told to anybody; a new one takes over with what was journalled."""
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task() and task is not self._watch:
                task.cancel()
        await asyncio.sleep(0)
        self.world.forget_engine()
        kept = self.journal.states.get(self.deployable.name)
        self._make_engine(msgspec.msgpack.decode(kept, type=Memory) if kept else None)
        self.engine.start()
        self.configure()

    async def _follow(self) -> None:
        async for event in self.environment.infrastructure.watch():
            self.engine.guest_event(event.guest_id.partition(".")[2], event)

    async def run(self, story: Callable[[Scenario], Awaitable[None]]) -> None:
        self._watch = asyncio.create_task(self._follow())
        self.engine.start()
        self.configure()
        try:
            await story(self)
        finally:
            self._watch.cancel()
            await self.engine.close()
            await self.scheduler.close()


def play(deployable: Deployable, story: Callable[[Scenario], Awaitable[None]], **world: Any) -> Scenario:
    """Run a story on a deployable that is started; return the scenario for looking at what happened."""

    async def main() -> Scenario:
        scenario = Scenario(deployable, **world)
        await scenario.run(story)
        return scenario

    return run(main())


__all__ = ["Assembly", "Escalation", "Scenario", "play", "resource", "shop"]
