"""An engine process's host on the simulated world, in virtual time: a daemon's messages go in, its answers come out."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pcloud.dpe import messages
from pcloud.dpe.host import Host
from pcloud.dpe.messages import GuestMaterial
from pcloud.dpe.spool import Spool
from pcloud.environment.infrastructure import Identity, Image, Infrastructure
from pcloud.model.deployable import Deployable
from pcloud.simulator.infrastructure import SimulatedInfrastructure
from pcloud.simulator.loop import VirtualClock
from pcloud.simulator.scheduler import InlineScheduler
from pcloud.simulator.transport import SimulatedTransport
from pcloud.simulator.world import World

_numbers = itertools.count(1)


class Wire:
    """The writer's end of a connection that a test reads."""

    def __init__(self) -> None:
        self.received: list[messages.Up] = []
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: 0, abort=lambda: None)

    def write(self, data: bytes) -> None:
        while data:
            size = int.from_bytes(data[:4]) + 4
            reader = asyncio.StreamReader()
            reader.feed_data(data[:size])
            frame, data = data[:size], data[size:]
            self.received.append(messages._decoders["up"].decode(frame[4:]))

    def close(self) -> None:
        return


class HostedWorld:
    """A world, and one engine process on it after the other."""

    def __init__(self, folder: Path, world: World | None = None, *, users: bool = False) -> None:
        """`users`: each user's guests are made in the user's own name."""
        self.world = world or World()
        self.users = users
        self.folder = folder
        self.scheduler = InlineScheduler()
        self.refuse = ""
        """Why the infrastructure's driver can not be opened; empty while it can."""
        self.states: dict[str, bytes] = {}
        self.start()

    def start(self) -> None:
        """A fresh process says Hello."""
        self.wire = Wire()
        self.reader = asyncio.StreamReader()
        number = next(_numbers)

        def opened(name: str, settings: dict[str, Any]) -> Infrastructure:
            if self.refuse:
                from pcloud.environment.infrastructure import InfrastructureError

                raise InfrastructureError(self.refuse)
            return SimulatedInfrastructure(self.world)

        self.host = Host(
            clock=VirtualClock(),
            spool=Spool(self.folder / f"spool-{number}"),
            scheduler=self.scheduler,
            transports={"remote": SimulatedTransport(self.world)},
            open_infrastructure=opened,
            users=lambda _: self.users,
            hello=lambda loaded: messages.Hello(process=str(number), slot="0", pid=1, loaded=loaded),
        )

        async def connect() -> Any:
            return self.reader, self.wire

        self.serving = asyncio.create_task(self.host.serve(connect))

    def send(self, message: messages.Down) -> None:
        self.reader.feed_data(messages.encode(message))

    def load(self, deployable: Deployable, *, target: str = "started") -> None:
        """Give it a deployable, with what the former process had journalled."""
        self._take_in()
        self.send(
            messages.Load(
                deployable=deployable,
                target=target,
                guests={
                    a.name: GuestMaterial(
                        image=Image(name=a.image, digest=f"image-{a.image}"), identity=Identity(hostname=a.name)
                    )
                    for a in deployable.assemblies
                },
                state=self.states.get(deployable.name),
            )
        )

    def _take_in(self) -> None:
        for each in self.wire.received:
            if isinstance(each, messages.Record) and each.state is not None:
                self.states[each.deployable] = each.state

    async def state(self, name: str, wanted: str, seconds: float = 300) -> None:
        """Wait until the newest status says so."""

        def now() -> str:
            found = [
                each.status.state.value
                for each in self.wire.received
                if isinstance(each, messages.Status) and each.status.name == name
            ]
            return found[-1] if found else ""

        async with asyncio.timeout(seconds):
            while now() != wanted:
                await asyncio.sleep(0.01)

    async def unload(self, name: str, *, delete: bool, seconds: float = 300) -> messages.Reply:
        """Ask for the end of a deployable and return the answer."""
        request = next(_numbers)
        self.send(messages.Unload(name=name, delete=delete, request=request))
        return await self._answer(request, seconds)

    async def command(self, name: str, action: str, seconds: float = 60, **arguments: object) -> messages.Reply:
        """Ask for something and return the answer."""
        request = next(_numbers)
        self.send(messages.Command(name=name, action=action, request=request, arguments=arguments))
        return await self._answer(request, seconds)

    async def _answer(self, request: int, seconds: float) -> messages.Reply:
        async with asyncio.timeout(seconds):
            while True:
                for each in self.wire.received:
                    if isinstance(each, messages.Reply) and each.request == request:
                        return each
                await asyncio.sleep(0.01)

    def told(self, after: float = 0.0) -> list[tuple[str, str]]:
        """Return subject and state of the events since a wall-clock time."""
        return [
            ("/".join(part for part in (e.assembly, e.resource) if part), e.state)
            for e in (each.event for each in self.wire.received if isinstance(each, messages.Record))
            if e is not None and e.time >= after
        ]

    async def crash(self) -> None:
        """As by kill -9: nothing is told to anybody, the world goes on; a new process follows."""
        self._take_in()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.world.forget_engine()
        self._take_in()
        self.start()

    async def close(self) -> None:
        self.host.end()
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        await self.host.close()
