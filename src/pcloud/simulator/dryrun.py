"""What would happen if …: the real engine, from a live deployable's snapshot, in the simulated world.

The simulated engine takes the deployable over as a new engine takes over after a crash: it gathers what runs, keeps
counters and verdicts, restarts nothing. Then the faults happen one after another, each when the former's consequences are
over. Nothing real is touched. Runs in a process of its own (`python -m pcloud.simulator`): it blocks its event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from pcloud.dpe.brake import Brake
from pcloud.dpe.environment import Environment
from pcloud.dpe.loop import DeployableEngine
from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import Capability, Identity, Image
from pcloud.events.event import Event
from pcloud.model.deployable import Assembly, Deployable
from pcloud.model.status import DeployableStatus
from pcloud.policy.cib import resource_id
from pcloud.policy.limits import wanted
from pcloud.policy.observation import InfrastructureState
from pcloud.policy.state import Health, Link, Memory, Power, State, configure_step
from pcloud.simulator.faults import Fault, read
from pcloud.simulator.infrastructure import SimulatedInfrastructure
from pcloud.simulator.loop import VirtualClock, run
from pcloud.simulator.scheduler import InlineScheduler
from pcloud.simulator.transport import SimulatedTransport
from pcloud.simulator.world import SimulatedGuest, World

LONGEST_FAULT = 600.0
"""Virtual seconds that the consequences of one fault are followed."""
QUIET = 12.0
"""Virtual seconds without an action or a change of state after which they are over (and at least a monitor interval)."""
STEP = 0.05
LAST_SHOWN = 2000
"""Entries of a timeline at most."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the timeline."""

    seconds: float
    """Since the first fault."""
    kind: str
    """`fault`, `action` or `event`."""
    subject: str = ""
    """`web`, `web/httpd`, or empty for the deployable."""
    text: str
    """What happens; of an action what is done, of an event the new state."""
    why: str = ""
    state: str = ""
    """Of an action: `done`, `failed` or `cancelled`."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen."""

    name: str
    faults: tuple[str, ...]
    timeline: tuple[Moment, ...]
    seconds: float
    """From the first fault to the last thing that would happen."""
    before: str
    """State of the deployable before the first fault."""
    state: str
    """State of the deployable in the end."""
    reason: str = ""
    restarted: tuple[str, ...] = ()
    """Guests (`web`) and services (`web/httpd`) that would be started again."""
    decisions: int = 0
    status: DeployableStatus
    truncated: bool = False


def simulate(snapshot: bytes, scenario: list[str], changes: dict[str, Deployable] | None = None) -> Report:
    """Return what would happen to a deployable. `snapshot` is a `State` (msgpack, as the command `snapshot` gives it),
    `changes` holds the documents that `apply FILE` names. InvalidDocument when the scenario is not valid."""
    state = msgspec.convert(msgspec.msgpack.decode(snapshot), State)
    faults = read(scenario, state.deployable, changes or {})
    return run(_play(state, faults, changes or {}))


async def _play(state: State, faults: tuple[Fault, ...], changes: dict[str, Deployable]) -> Report:
    return await _DryRun(state, faults, changes).run()


class _Notes:
    """A journal in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.decisions: list[dict[str, Any]] = []
        self.memory: bytes = b""

    def event(self, event: Event, state: bytes | None = None) -> None:
        if event.type != "incident":  # what would happen is shown, not what would be told of it later
            self.events.append(event)
        self.memory = self.memory if state is None else state

    def decision(self, deployable: str, record: dict[str, Any]) -> None:
        self.decisions.append(record)

    def state(self, deployable: str, state: bytes) -> None:
        self.memory = state


class _DryRun:
    def __init__(self, state: State, faults: tuple[Fault, ...], changes: dict[str, Deployable]) -> None:
        self._state = state
        self._faults = faults
        self._changes = changes
        self._images = dict(state.images)
        self._deployable, self._target, self._paused = state.deployable, state.target, state.paused
        self._world = _world(state)
        self._notes = _Notes()
        self._clock = VirtualClock(_now(state))
        self._scheduler = InlineScheduler()
        infrastructure = SimulatedInfrastructure(self._world)
        if not state.live_limits:
            infrastructure.capabilities -= {Capability.LIMITS}
        self._environment = Environment(
            clock=self._clock,
            infrastructure=infrastructure,
            transports={name: SimulatedTransport(self._world) for name in ("remote", "ssh", "none")},
            scheduler=self._scheduler,
            journal=self._notes,
            brake=Brake(8),
        )
        self._statuses: list[DeployableStatus] = []
        self._follower: asyncio.Task[None] | None = None

    async def run(self) -> Report:
        self._engine = self._take_over(self._state.memory)
        self._follower = asyncio.get_running_loop().create_task(self._follow())
        try:
            await self._settle()
            self._notes.events.clear()
            self._notes.decisions.clear()
            self._world.log.clear()
            before, decided = self._statuses[-1].state.value, self._scheduler.decisions
            began = self._clock.time()
            moments: list[Moment] = []
            for fault in self._faults:
                moments.append(Moment(seconds=self._clock.time() - began, kind="fault", text=fault.text))
                await self._do(fault)
                if fault.kind != "wait":
                    await self._settle()
        finally:
            self._follower.cancel()
            await self._engine.close()
            await self._scheduler.close()
        return self._report(moments, began, before, self._scheduler.decisions - decided)

    def _take_over(self, memory: Memory) -> DeployableEngine:
        engine = DeployableEngine(self._environment, self._deployable, memory=memory, publish=self._statuses.append)
        self._configure(engine)
        engine.start()
        return engine

    def _configure(self, engine: DeployableEngine) -> None:
        engine.configure(
            self._deployable,
            target=self._target,
            guests={
                a.name: GuestMaterial(
                    image=Image(name=a.image, digest=self._images.get(a.name, "new")),
                    identity=Identity(hostname=self._state.hostnames.get(a.name, a.name)),
                )
                for a in self._deployable.assemblies
            },
            paused=self._paused,
            places=self._world.places,
        )

    async def _follow(self) -> None:
        async for event in self._environment.infrastructure.watch():
            self._engine.guest_event(event.guest_id.rpartition(".")[2], event)

    async def _settle(self) -> None:
        """Let time pass until nothing happens any more."""
        intervals = [
            r.monitor_interval + r.monitor_start_delay for a in self._deployable.assemblies for r in a.resources
        ]
        quiet = max(QUIET, *(interval + 2.0 for interval in intervals), 0.0)
        loop = asyncio.get_running_loop()
        ends, since = loop.time() + LONGEST_FAULT, loop.time()
        seen = self._happened()
        while loop.time() < ends and loop.time() - since < quiet:
            await asyncio.sleep(STEP)
            if (now := self._happened()) != seen:
                seen, since = now, loop.time()

    def _happened(self) -> tuple[int, int, int]:
        return len(self._world.log), len(self._notes.events), len(self._statuses)

    async def _do(self, fault: Fault) -> None:
        world, guest_id = self._world, f"{self._state.deployable.name}.{fault.assembly}"
        guest = world.guests.get(guest_id)
        rid = resource_id(f"{fault.assembly}/{fault.resource}")
        match fault.kind:
            case "kill" if guest and guest.services.get(rid):
                world.kill_service(guest_id, rid)
            case "hang":
                world.results[rid, "monitor"] = [1]
            case "kill guest" if guest and guest.running:
                world.kill_guest(guest_id)
            case "hang guest" if guest and guest.running:
                world.freeze(guest_id)
            case "cut off" if guest and guest.running:
                world.cut_off(guest_id)
            case "heal" if guest:
                world.heal(guest_id)
            case "fail start":
                world.results[rid, "start"] = [1] * int(fault.number)
            case "fail stop":
                world.results[rid, "stop"] = [1]
            case "infrastructure down":
                world.down = "it is down in this scenario"
                self._engine.post(InfrastructureState(error=world.down))
                await asyncio.sleep(fault.number)
                world.down = ""
            case "kill engine":
                await self._kill_engine()
            case "wait":
                await asyncio.sleep(fault.number)
            case "pause" | "resume":
                self._paused = fault.kind == "pause"
                self._configure(self._engine)
            case "stop" | "start":
                self._target = "stopped" if fault.kind == "stop" else "started"
                self._configure(self._engine)
            case "apply":
                self._apply(self._changes[fault.file])
            case _:
                return  # what is to be broken does not run

    def _apply(self, new: Deployable) -> None:
        old = {assembly.name: assembly for assembly in self._deployable.assemblies}
        for assembly in new.assemblies:
            before = old.get(assembly.name)
            if before is None or made_from(before) != made_from(assembly):
                self._images[assembly.name] = f"{self._images.get(assembly.name, '')}+"
        self._deployable, self._target = new, "started"
        self._configure(self._engine)

    async def _kill_engine(self) -> None:
        keep = (asyncio.current_task(), self._follower)
        for task in asyncio.all_tasks():
            if task not in keep:
                task.cancel()
        await asyncio.sleep(0)
        self._world.forget_engine()
        memory = self._notes.memory
        kept = msgspec.msgpack.decode(memory, type=Memory) if memory else self._state.memory
        self._engine = self._take_over(kept)

    def _report(self, moments: list[Moment], began: float, before: str, decisions: int) -> Report:
        restarted: dict[str, None] = {}
        for event in self._notes.events:
            subject = "/".join(part for part in (event.assembly, event.resource) if part)
            moments.append(
                Moment(
                    seconds=event.time - began, kind="event", subject=subject, text=event.state or event.type,
                    why=event.reason,
                )
            )  # fmt: skip
        for record in self._notes.decisions:
            for action in record["actions"]:
                if action["state"] == "done" and action["action"] in ("start", "start guest"):
                    restarted[action["subject"]] = None
                moments.append(
                    Moment(
                        seconds=record["time"] - began, kind="action", subject=action["subject"], text=action["action"],
                        why=action["why"], state=action["state"],
                    )
                )  # fmt: skip
        moments.sort(key=lambda m: m.seconds)
        final = self._statuses[-1]
        return Report(
            name=self._deployable.name,
            faults=tuple(fault.text for fault in self._faults),
            timeline=tuple(msgspec.structs.replace(m, seconds=round(m.seconds, 3)) for m in moments[:LAST_SHOWN]),
            seconds=round(max((m.seconds for m in moments), default=0.0), 3),
            before=before,
            state=final.state.value,
            reason=final.reason,
            restarted=tuple(restarted),
            decisions=decisions,
            status=final,
            truncated=len(moments) > LAST_SHOWN,
        )


def made_from(assembly: Assembly) -> tuple[Any, ...]:
    """Return what an assembly's guest is made from: when it changes, the guest is made anew."""
    return (
        assembly.image, assembly.arch, assembly.packages, assembly.files, assembly.file_attributes, assembly.commands,
    )  # fmt: skip


def _now(state: State) -> float:
    """Return a time after everything that the snapshot knows of."""
    times = [g.since for g in state.guests.values()] + [s.since for s in state.services.values()]
    times += [t for counted in state.memory.failures.values() for t in counted]
    return max(times, default=0.0) + 1.0


def _world(state: State) -> World:
    """Return a world in which things are as the snapshot says."""
    world = World(places=state.places or ("here",))
    name = state.deployable.name
    for assembly in state.assemblies():
        known = state.guest(assembly.name)
        if known.power is Power.UNKNOWN:
            continue
        guest = SimulatedGuest(
            f"{name}.{assembly.name}", known.address or f"10.255.0.{len(world.guests) % 250}", known.digest, known.place
        )
        guest.running = known.power is Power.ON
        guest.boots = 1
        guest.bounds = known.bounds or wanted(assembly)
        guest.cut_off = known.link is Link.LOST
        for resource in state.resources(assembly):
            subject = f"{assembly.name}/{resource.name}"
            for each in (subject, configure_step(subject)):
                if guest.running and state.service(each).health is Health.RUNNING:
                    guest.services[resource_id(each)] = True
        world.guests[guest.guest_id] = guest
    return world


__all__ = ["Moment", "Report", "made_from", "simulate"]
