"""Many engines in one process: takes the daemon's messages, gives each deployable its engine, watches infrastructures.

Concurrency: messages are handled in order of arrival; what takes time (removing a deployable, a command in a guest) runs
in a task of its own and answers with a `Reply`. When the daemon goes away engines go on, and it is called again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from pcloud.dpe.brake import Brake
from pcloud.dpe.commands import Commands, not_loaded
from pcloud.dpe.environment import Environment
from pcloud.dpe.loop import DeployableEngine
from pcloud.dpe.messages import (
    Acknowledge,
    Command,
    Down,
    Hello,
    Load,
    Reply,
    Settings,
    Shutdown,
    Statistics,
    Status,
    Unload,
    Up,
    encode,
    receive_down,
)
from pcloud.dpe.spool import Spool
from pcloud.environment.clock import Clock
from pcloud.environment.infrastructure import (
    Infrastructure,
    InfrastructureError,
    InfrastructureUnavailable,
)
from pcloud.environment.scheduler import Scheduler
from pcloud.environment.transport import Transport
from pcloud.events.event import Event, Severity
from pcloud.model.deployable import Deployable, ResourceState
from pcloud.model.errors import PcloudError
from pcloud.model.status import DeployableStatus
from pcloud.policy.observation import InfrastructureState
from pcloud.policy.state import Memory
from pcloud.transport.opening import configure

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.2
WATCH_RETRY_SECONDS = 2.0
STATISTICS_SECONDS = 5.0
PLACES_SECONDS = 5.0
PLACES_AGAIN_SECONDS = 30.0

World = tuple[str, str]
"""Infrastructure and the user in whose name guests are made there; the user is empty where that makes no difference."""


class Host:
    """The engines of one engine process."""

    def __init__(
        self,
        *,
        clock: Clock,
        spool: Spool,
        scheduler: Scheduler,
        transports: dict[str, Transport],
        open_infrastructure: Callable[[str, dict[str, Any]], Infrastructure],
        users: Callable[[str], bool] = lambda _: False,
        deadline: Callable[[float], None] = lambda _: None,
        hello: Callable[[tuple[str, ...]], Hello],
    ) -> None:
        """`open_infrastructure` makes the driver of a name from its settings; `users` tells whether an infrastructure
        makes guests in the name of a deployable's `username`: each then has a driver of its own, told by the setting of
        that name; `deadline` is told when this process must have ended (infinite: never); `hello` makes our first
        message."""
        self._clock = clock
        self._spool = spool
        self._scheduler = scheduler
        self._transports = transports
        self._open = open_infrastructure
        self._users = users
        self._deadline = deadline
        self._hello = hello
        self._settings = Settings()
        self._engines: dict[str, DeployableEngine] = {}
        self._environments: dict[World, Environment] = {}
        self._brakes: dict[str, Brake] = {}
        """By infrastructure: its users share it."""
        self._worlds: dict[str, World] = {}
        """Deployable → where its engine works; that stays so for the engine's life."""
        self._places: dict[World, tuple[str, ...]] = {}
        self._places_again: dict[World, float] = {}
        self._statuses: dict[str, DeployableStatus] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands = Commands(
            self._engines, lambda name: self._environment(self._worlds[name]), transports, self._send
        )
        self._writer: asyncio.StreamWriter | None = None
        self._ended = asyncio.Event()

    # --- the daemon

    async def serve(self, connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]) -> None:
        """Work until told to end; connect to the daemon again whenever it goes away."""
        self._spawn(self._report_statistics())
        while not self._ended.is_set():
            try:
                reader, writer = await connect()
            except OSError:
                await self._pause(RECONNECT_SECONDS)
                continue
            try:
                await self._converse(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                log.info("the daemon went away; engines go on")
            except (ValueError, msgspec.MsgspecError):
                log.exception("the daemon sent something that makes no sense; connecting anew")
                await self._pause(RECONNECT_SECONDS)
            finally:
                self._writer = None
                self._spool.disconnected()
                writer.close()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._send(self._hello(tuple(self._engines)))
        self._spool.connected(writer)
        for status in self._statuses.values():
            self._send(Status(status=status))
        while not self._ended.is_set():
            await self._handle(await receive_down(reader))

    def _send(self, message: Up) -> None:
        if self._writer is not None:
            self._writer.write(encode(message))

    async def _handle(self, message: Down) -> None:
        match message:
            case Settings():
                self._settings = message
                self._deadline(math.inf if message.until is None else message.until)
                configure(self._transports, message.transports)
                for brake in self._brakes.values():
                    brake.resize(message.starts_in_flight)
            case Load():
                await self._load(message)
            case Unload():
                self._spawn(self._unload(message))
            case Command(name="", action="ping"):
                self._send(Reply(request=message.request))
            case Command():
                self._spawn(self._commands.carry_out(message))
            case Acknowledge():
                self._spool.acknowledged(message.sequence)
            case Shutdown():
                self._ended.set()

    def end(self) -> None:
        """End the process's work; guests go on."""
        self._ended.set()
        if self._writer is not None:
            self._writer.close()

    # --- deployables

    async def _load(self, load: Load) -> None:
        name = load.deployable.name
        world = self._worlds.setdefault(name, self._world(load.deployable))
        try:
            environment = self._environment(world)
        except (InfrastructureError, PcloudError) as error:
            self._refuse(load, str(error))
            return
        engine = self._engines.get(name)
        if engine is None:
            memory = self._memory(name, load.state)
            publish = partial(self._publish, name)
            engine = DeployableEngine(environment, load.deployable, memory=memory, publish=publish)
            self._engines[name] = engine
            engine.start()
        engine.configure(
            load.deployable,
            target=load.target,
            guests=load.guests,
            paused=load.paused,
            places=await self._known_places(world),
            revision=load.revision,
        )

    def _memory(self, name: str, state: bytes | None) -> Memory | None:
        """Read what a former engine left; what can not be read costs its counters, not the deployable."""
        try:
            return msgspec.msgpack.decode(state, type=Memory) if state else None
        except msgspec.MsgspecError as error:
            reason = f"the engine's memory can not be read, failure counters begin afresh: {error}"
            self._spool.event(
                Event(time=self._clock.time(), type="engine", deployable=name, reason=reason, severity=Severity.WARNING)
            )
            return None

    def _refuse(self, load: Load, reason: str) -> None:
        name = load.deployable.name
        self._spool.event(
            Event(
                time=self._clock.time(), type="deployable.state", deployable=name, state="failed", reason=reason,
                severity=Severity.CRITICAL,
            )
        )  # fmt: skip
        self._publish(
            name,
            DeployableStatus(
                name=name, state=ResourceState.FAILED, reason=reason, target=load.target, revision=load.revision
            ),
        )

    def _publish(self, name: str, status: DeployableStatus) -> None:
        self._statuses[name] = status
        self._send(Status(status=status))

    async def _known_places(self, world: World) -> tuple[str, ...]:
        now = asyncio.get_running_loop().time()
        if world not in self._places and now >= self._places_again.get(world, now):
            try:
                async with asyncio.timeout(PLACES_SECONDS):  # the daemon's messages wait for this
                    self._places[world] = tuple(await self._environment(world).infrastructure.places())
            except (InfrastructureError, TimeoutError) as error:
                log.warning("%s does not tell its places: %s", world[0], error)
                # Other messages wait, too, such as the one that lets this process go on beyond its deadline.
                self._places_again[world] = asyncio.get_running_loop().time() + PLACES_AGAIN_SECONDS
        return self._places.get(world, ())

    async def _unload(self, unload: Unload) -> None:
        engine = self._engines.get(unload.name)
        if engine is None and unload.delete:
            # Its guests may exist all the same: nothing was removed, so nothing must be called removed.
            self._send(Reply(request=unload.request, error=not_loaded(unload.name)))
            return
        if engine is not None:
            if unload.delete:
                engine.remove()
                await engine.removed.wait()
            await engine.close()
            if self._engines.get(unload.name) is engine:
                del self._engines[unload.name]
        self._worlds.pop(unload.name, None)
        self._statuses.pop(unload.name, None)
        self._send(Reply(request=unload.request))

    # --- infrastructures

    def _world(self, deployable: Deployable) -> World:
        name = deployable.infrastructure
        return name, deployable.username if self._users(name) else ""

    def _environment(self, world: World) -> Environment:
        if world not in self._environments:
            name, username = world
            settings = self._settings.infrastructures.get(name, {})
            infrastructure = self._open(name, {**settings, "username": username} if username else settings)
            if name not in self._brakes:
                self._brakes[name] = Brake(self._settings.starts_in_flight, storm=partial(self._storm, name))
            self._environments[world] = Environment(
                clock=self._clock, infrastructure=infrastructure, transports=self._transports,
                scheduler=self._scheduler, journal=self._spool, brake=self._brakes[name],
            )  # fmt: skip
            self._spawn(self._watch(world, infrastructure))
        return self._environments[world]

    def _storm(self, name: str, waiting: int) -> None:
        reason = (
            f"{waiting} guests wait to be started on {name}; at most {self._settings.starts_in_flight} start at once"
        )
        self._spool.event(
            Event(
                time=self._clock.time(),
                type="storm",
                reason=reason,
                severity=Severity.WARNING,
                data={"waiting": waiting},
            )
        )

    async def _watch(self, world: World, infrastructure: Infrastructure) -> None:
        while True:
            try:
                async for event in infrastructure.watch():
                    deployable, _, assembly = event.guest_id.partition(".")
                    engine = self._engines.get(deployable)
                    if engine is not None and self._worlds.get(deployable) == world:
                        engine.guest_event(assembly, event)
            except InfrastructureUnavailable as error:
                for deployable, engine in self._engines.items():
                    if self._worlds.get(deployable) == world:
                        engine.post(InfrastructureState(error=str(error)))
            except (InfrastructureError, OSError):
                log.exception("the watch of %s ended; it is taken up again", world[0])
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    async def _report_statistics(self) -> None:
        before: dict[str, float] = {}
        while True:
            counters = {
                "deployables": float(len(self._engines)),
                "guests": float(sum(engine.running_guests for engine in self._engines.values())),
                "decisions": float(sum(engine.number for engine in self._engines.values())),
            }
            if counters != before:
                before = counters
                self._send(Statistics(counters=counters))
            await asyncio.sleep(STATISTICS_SECONDS)

    # --- the end

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("a task of the engine process failed", exc_info=task.exception())

    async def close(self) -> None:
        """Let go of everything; guests go on."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for engine in tuple(self._engines.values()):
            await engine.close()
        for environment in self._environments.values():
            await environment.infrastructure.close()
        for transport in self._transports.values():
            await transport.close()
        await self._scheduler.close()
