"""One deployable's control loop: observe → snapshot → decide → act → record.

Concurrency: observations are handled strictly in sequence in one task. Actions run in tasks of their own, at most one a
resource at a time, and end as observations. A newer decision overtakes an older one: what the old graph had not started
is left, what is in flight and wanted by the new graph as well is taken over, never begun twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from pcloud.dpe import limiting
from pcloud.dpe.dispatch import work_of
from pcloud.dpe.environment import Environment
from pcloud.dpe.executor import Executor, operated
from pcloud.dpe.flights import Flights
from pcloud.dpe.links import Links
from pcloud.dpe.messages import GuestMaterial
from pcloud.dpe.recorder import Key, Recorder
from pcloud.dpe.wakening import Wakener
from pcloud.environment.infrastructure import GuestEvent
from pcloud.environment.scheduler import SchedulerError
from pcloud.environment.transport import OperationResult
from pcloud.model.deployable import Deployable
from pcloud.model.status import DeployableStatus
from pcloud.policy import change, cib, limits
from pcloud.policy.fold import fold
from pcloud.policy.graph import Action, GraphError, parse_graph
from pcloud.policy.observation import (
    Blocked,
    Configured,
    Observation,
    Recover,
    Tick,
)
from pcloud.policy.state import Memory, Power, initial
from pcloud.policy.walk import Walk

log = logging.getLogger(__name__)

ASK_AGAIN = 5
"""How often the scheduler is asked anew in succession because of news that ended no action."""
FAULT_PAUSE = 1.0
"""Seconds until an engine that failed by a fault of ours works again: a fault that stays must not spin."""


class DeployableEngine:
    """The engine of one deployable."""

    def __init__(
        self,
        environment: Environment,
        deployable: Deployable,
        *,
        memory: Memory | None = None,
        publish: Callable[[DeployableStatus], None] = lambda _: None,
    ) -> None:
        """`memory` is what a former engine left; `publish` is told every change of the status."""
        self._environment = environment
        self._queue: deque[Observation] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._links = Links(environment, self.post, self._result_changed)
        self._executor = Executor(environment, self._links)
        self._flights = Flights(self)
        self._look: dict[str, str] = {}
        """Guests that something happened to, and what the watch called it."""
        self._outdated = False
        """Something came while the scheduler was deciding: what it answered is not used, it is asked again."""
        self._asked_again = 0
        self._pardon = False
        """An operator asked to try again what blocked it."""
        self._walk: Walk | None = None
        self._names = cib.Names({}, {}, {})
        self._wakener = Wakener(environment, self._executor, self._flights, self.post, lambda: self.state)
        self._retry_start: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        memory = memory or Memory()
        self._recorder = Recorder(environment, deployable.name, memory, publish)
        self._configured = False
        self.state = initial(deployable, memory)
        self.removed = asyncio.Event()
        """Set when a deployable without assemblies has nothing left."""

    # --- what others call

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"dpe:{self.state.deployable.name}")
        self._task.add_done_callback(self._died)

    def _died(self, task: asyncio.Task[None]) -> None:
        """A fault of ours must not be silent, nor end more than this deployable's recovery."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical("the engine of %s failed", self.state.deployable.name, exc_info=error)
            self._walk = None
            self.post(Blocked(reason=f"internal error: {error!r}"))
            self._retry_start = asyncio.get_running_loop().call_later(FAULT_PAUSE, self.start)

    def configure(
        self,
        deployable: Deployable,
        *,
        target: str,
        guests: dict[str, GuestMaterial],
        paused: bool,
        places: tuple[str, ...],
        revision: int = 0,
    ) -> None:
        """Take the user's newest wishes."""
        self._executor.guests = {**self._executor.guests, **guests}
        self._configured = True
        self.post(
            Configured(
                deployable=deployable,
                target=target,
                paused=paused,
                hostnames={name: material.identity.hostname for name, material in guests.items()},
                images=_digests(deployable, guests),
                places=places,
                revision=revision,
                resizing=limits.resizing(self._environment.infrastructure.capabilities),
            )
        )

    def post(self, observation: Observation) -> None:
        """Give the engine something to know; it is handled in order of arrival."""
        self._queue.append(observation)
        self._idle.clear()
        self._wake.set()

    def guest_event(self, assembly: str, event: GuestEvent) -> None:
        """Tell that the infrastructure's watch saw something of a guest; what is true now is asked for, not assumed."""
        self._look[assembly] = event.reason
        self._wake.set()
        self._idle.clear()

    def remove(self) -> None:
        """Stop everything in order and remove every guest; `removed` tells the end."""
        self.post(Recover(why="it is removed"))  # neither a pause nor a give-up keeps what shall be removed
        self.configure(
            msgspec.structs.replace(self.state.deployable, assemblies=()),
            target="stopped",
            guests={},
            paused=False,
            places=self.state.places,
            revision=self.state.revision,
        )

    async def cut_link(self, assembly: str) -> None:
        """Tear the connection to a guest, for a drill. KeyError when there is no such assembly, TransportError when there is
        no connection."""
        await self._executor.cut(self.state, self.state.deployable.assembly(assembly))

    async def idle(self) -> None:
        """Wait until nothing is queued, nothing in flight, and nothing more to start."""
        await self._idle.wait()

    async def close(self) -> None:
        """Let go of the deployable: guests and services go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._wakener.close()
        await self._flights.close()
        if self._retry_start is not None:
            self._retry_start.cancel()
        await self._links.close()
        self._recorder.save(self.state.memory)

    # --- the loop

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            decide = self._observe() or self._outdated
            self._outdated = False
            if decide and self._configured and not self.state.blocked:
                await self._decide()
            if not self._outdated:
                self._advance()
            self._recorder.save(self.state.memory)
            if self._configured:
                self._recorder.tell(self.state, self._restarting())
            self._wakener.arm(self.state, self._recorder.published)
            if not self._queue and not self._flights and not self._look:
                self._idle.set()
            if self._configured and self.gone:
                self.removed.set()

    def _observe(self) -> bool:
        decide = False
        while self._queue:
            observation = self._queue.popleft()
            self._pardon |= bool(self.state.blocked) and isinstance(observation, Recover)
            outcome = fold(self.state, observation, self._environment.clock.time())
            self.state = outcome.state
            decide = decide or outcome.decide
            self._recorder.observed(observation, outcome)
        return decide

    async def _decide(self) -> None:
        now = self._environment.clock.time()
        loop = asyncio.get_running_loop()
        began, ends = loop.time(), self._flights.ends
        document = cib.render(self.state, now)
        if self._pardon:
            self._environment.scheduler.pardon(document)
            self._pardon = False
        asked = loop.time()
        try:
            graph = parse_graph(await self._environment.scheduler.schedule(document))
        except (SchedulerError, GraphError) as error:
            log.warning("deployable %s is blocked: %s", self.state.deployable.name, error)
            self.post(Blocked(reason=str(error)))
            return
        # What came meanwhile makes it an answer about the past: it is asked again. Above all when an action ended, which
        # the answer could have carried out a second time; a mere flood of news must not keep it from acting for ever.
        self._outdated = ends != self._flights.ends or (bool(self._queue) and self._asked_again < ASK_AGAIN)
        self._asked_again = self._asked_again + 1 if self._outdated else 0
        if self._outdated:
            self._wake.set()
            return
        if self._walk is not None:
            self._walk.cancel()
        self._names = cib.names(self.state)
        # What does not depend on a failed action goes on: the failure is observed, and a newer decision overtakes this one.
        self._walk = Walk(graph, abort_on_failure=False)
        self._recorder.made(
            self.state, graph, self._names, now=now, decide=loop.time() - began, library=loop.time() - asked
        )

    def _advance(self) -> None:
        """Start what may start now."""
        walk = self._walk
        if walk is not None:
            progress = True
            while progress:
                walk.pass_milestones()
                begun = [self._begin(walk, action) for action in walk.ready() if not action.pseudo]
                progress = any(begun)
        known = {assembly.name for assembly in self.state.assemblies()}
        for name in [name for name in self._look if not self._flights.busy(name)]:
            reason = self._look.pop(name)
            if name in known:
                self._flights.launch(
                    (cib.guest_id(name), "monitor", 0), partial(self._executor.look, self.state, name, reason)
                )
        if self._configured:
            limiting.begin(self.state, self._environment.clock.time(), self._flights, self._executor)
        for name in change.removable(self.state):
            assembly = next(a for a in self.state.leaving if a.name == name)
            key: Key = (cib.guest_id(name), "delete", 0)
            if not self._flights.busy(name) and not self._hands_off(name):
                self._flights.launch(key, partial(self._executor.guest, self.state, assembly, "delete"))
        if walk is not None and walk.done and not self._flights:
            self._recorder.finish()

    def _waits(self, subject: str) -> bool:
        backoff = self.state.memory.backoff.get(subject)
        return backoff is not None and backoff.until > self._environment.clock.time()

    def _begin(self, walk: Walk, action: Action) -> bool:
        """Start one action of the graph, or take over the same one in flight; False when its resource is busy."""
        key: Key = (action.resource, action.task, action.interval_ms)
        if key in self._flights:
            walk.started(action.id)  # its end is told to the newest walk
            return True
        busy = self._flights.of(action.resource)
        if busy:
            for other in busy:  # nothing is lost by giving up an attempt to connect, or to change a limit
                if action.resource in self._names.connections or other[1] == "limit":
                    self._flights.cancel(other)
            return False
        if action.task == "start" and action.resource in self._names.services and self._stops_overtaken(walk):
            return False
        walk.started(action.id)
        if action.resource in self._names.guests:
            assembly = self._names.guests[action.resource]
            if action.task in ("start", "stop") and self._hands_off(assembly):
                walk.finished(action.id, ok=False)
                return True
            if action.task == "stop":
                self._flights.cancel((assembly, "start", 0))  # nothing is to be reached in a guest that ends
        found = work_of(self._executor, self.state, self._names, action)
        if found is None:
            walk.finished(action.id, ok=True)
            return True
        subject, work = found
        if subject:
            self._recorder.begins(subject, action)
        self._flights.launch(key, work)
        return True

    def _stops_overtaken(self, walk: Walk) -> bool:
        """Tell whether a service is being stopped that the newest decision takes to run: something it starts may need it.
        The end of that stop causes the next decision."""
        stops = [key for key in self._flights if key[1] == "stop" and key[0] not in self._names.guests]
        if not stops:
            return False
        wanted = {(action.resource, action.task, action.interval_ms) for action in walk.graph.actions}
        return any(key not in wanted for key in stops)

    def _restarting(self) -> frozenset[str]:
        """Return the services that are being stopped, or will be by the newest decision."""
        coming = {resource for resource, task, _ in self._flights if task == "stop"}
        if self._walk is not None and not self._walk.done:
            coming.update(action.resource for action in self._walk.left if action.task == "stop")
        return frozenset(self._names.services[resource] for resource in coming if resource in self._names.services)

    def _hands_off(self, assembly: str) -> bool:
        """Tell whether a guest must be left alone: nothing is known of its infrastructure, or a failed stop waits."""
        return bool(self.state.infrastructure_down) or self._waits(assembly)

    # --- flights

    def flight_ended(self, key: Key, *, ok: bool, seconds: float) -> bool:
        """Note the end of an action; tell whether the newest decision wanted it."""
        wanted = False
        self._recorder.ended(key, ok=ok, seconds=seconds)
        if self._walk is not None:
            for action in self._walk.in_flight:
                if (action.resource, action.task, action.interval_ms) == key:
                    self._walk.finished(action.id, ok=ok)
                    wanted = True
        self._wake.set()
        return wanted

    def flight_landed(self, key: Key, observation: Observation, *, wanted: bool) -> None:
        """Take what an action brought."""
        self.post(observation)
        if not wanted and key[1] in ("start", "stop"):
            self.post(Tick())  # a newer decision did not reckon with what this action changed

    def flight_crashed(self, error: BaseException) -> None:
        """A fault of ours inside an action blocks the deployable with a clear word; nothing is tried again blindly."""
        log.critical("an action on %s failed by a fault of ours", self.state.deployable.name, exc_info=error)
        self.post(Blocked(reason=f"internal error: {error!r}"))

    # --- what comes from the side

    def _result_changed(self, assembly: str, result: OperationResult) -> None:
        """A recurring monitor's result changed."""
        subject = self._names.services.get(result.resource)
        if subject is None or subject.partition("/")[0] != assembly:
            return
        if (result.resource, "stop", 0) in self._flights:
            return  # that a service which is being stopped does not run is no failure
        self.post(operated(subject, result))

    # --- what is

    @property
    def gone(self) -> bool:
        """Whether nothing of a deployable without assemblies is left."""
        return not self.state.assemblies() and not self._flights

    def material(self, assembly: str) -> GuestMaterial:
        """Return an assembly's image and keys; KeyError when there is no such assembly."""
        return self._executor.guests[assembly]

    @property
    def braked(self) -> frozenset[str]:
        """The assemblies whose start waits for the storm brake."""
        return frozenset(self._executor.braked)

    @property
    def number(self) -> int:
        """How many decisions there were."""
        return self._recorder.number

    @property
    def running_guests(self) -> int:
        """How many guests are known to run."""
        return sum(1 for guest in self.state.guests.values() if guest.power is Power.ON)


def _digests(deployable: Deployable, guests: dict[str, GuestMaterial]) -> dict[str, str]:
    """What each guest is made from: its image, and what of its definition only it gets."""
    seeds = {assembly.name: assembly.seed for assembly in deployable.assemblies if assembly.seed}
    return {
        name: hashlib.sha256(material.image.digest.encode() + msgspec.json.encode(seeds[name])).hexdigest()[:32]
        if name in seeds
        else material.image.digest
        for name, material in guests.items()
    }
