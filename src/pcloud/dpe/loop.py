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
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from pcloud.dpe.decisions import Decision
from pcloud.dpe.environment import Environment
from pcloud.dpe.executor import Executor, operated
from pcloud.dpe.links import Links
from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import GuestEvent, InfrastructureError
from pcloud.environment.scheduler import SchedulerError
from pcloud.environment.transport import OperationResult
from pcloud.events.event import Event
from pcloud.model.deployable import Assembly, Deployable, Resource
from pcloud.model.status import DeployableStatus
from pcloud.policy import change, cib, escalation
from pcloud.policy.fold import fold
from pcloud.policy.graph import Action, GraphError, parse_graph
from pcloud.policy.observation import (
    Blocked,
    Configured,
    GuestActed,
    InfrastructureState,
    Observation,
    Operated,
    Recover,
    Tick,
)
from pcloud.policy.state import Memory, Power, initial
from pcloud.policy.status import status
from pcloud.policy.walk import Walk

log = logging.getLogger(__name__)

RECHECK = 60.0
"""Seconds after which a deployable that is not as it shall be is looked at again, whatever was (not) observed."""
ASK_AGAIN = 5
"""How often the scheduler is asked anew in succession because of news that ended no action."""
FAULT_PAUSE = 1.0
"""Seconds until an engine that failed by a fault of ours works again: a fault that stays must not spin."""
INFRASTRUCTURE_RETRY = 2.0
"""Seconds between attempts to reach an infrastructure that went away."""

Key = tuple[str, str, int]
"""An action's identity across graphs: resource id, task, interval."""
Work = Callable[[], Awaitable[Observation]]
"""What carries an action out."""


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
        self._publish = publish
        self._queue: deque[Observation] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._links = Links(environment, self.post, self._result_changed)
        self._executor = Executor(environment, self._links)
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._look: dict[str, str] = {}
        """Guests that something happened to, and what the watch called it."""
        self._ends = 0
        """How many actions have ended: whether one did while the scheduler was deciding."""
        self._outdated = False
        """Something came while the scheduler was deciding: what it answered is not used, it is asked again."""
        self._asked_again = 0
        self._walk: Walk | None = None
        self._decision: Decision | None = None
        self._names = cib.Names({}, {}, {})
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.Task[None] | None = None
        self._retry_start: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._published: DeployableStatus | None = None
        self._saved = memory or Memory()
        self._configured = False
        self.state = initial(deployable, self._saved)
        self.number = 0
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
        )

    async def idle(self) -> None:
        """Wait until nothing is queued, nothing in flight, and nothing more to start."""
        await self._idle.wait()

    async def close(self) -> None:
        """Let go of the deployable: guests and services go on."""
        for task in (self._task, self._retry, *self._tasks.values()):
            if task is not None:
                task.cancel()
        await asyncio.gather(
            *(t for t in (self._task, self._retry, *self._tasks.values()) if t is not None), return_exceptions=True
        )
        for timer in (self._timer, self._retry_start):
            if timer is not None:
                timer.cancel()
        await self._links.close()
        self._save()

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
            self._save()
            self._tell_status()
            self._arm()
            if not self._queue and not self._tasks and not self._look:
                self._idle.set()
            if self._configured and self.gone:
                self.removed.set()

    def _observe(self) -> bool:
        decide = False
        while self._queue:
            observation = self._queue.popleft()
            outcome = fold(self.state, observation, self._environment.clock.time())
            self.state = outcome.state
            decide = decide or outcome.decide
            for event in outcome.events:
                self._environment.journal.event(event)
            if self._decision is None or outcome.decide:
                self._note(observation, outcome.events)
            if self._decision is not None:
                self._decision.rules += outcome.rules
        return decide

    def _note(self, observation: Observation, events: list[Event]) -> None:
        if self._decision is None or self._decision.decided:
            self._finish_decision()
            self.number += 1
            self._decision = Decision(self.number, self._environment.clock.time())
        self._decision.saw(observation, events)

    async def _decide(self) -> None:
        now = self._environment.clock.time()
        loop = asyncio.get_running_loop()
        began, ends = loop.time(), self._ends
        document = cib.render(self.state, now)
        asked = loop.time()
        try:
            graph = parse_graph(await self._environment.scheduler.schedule(document))
        except (SchedulerError, GraphError) as error:
            log.warning("deployable %s is blocked: %s", self.state.deployable.name, error)
            self.post(Blocked(reason=str(error)))
            return
        # What came meanwhile makes it an answer about the past: it is asked again. Above all when an action ended, which
        # the answer could have carried out a second time; a mere flood of news must not keep it from acting for ever.
        self._outdated = ends != self._ends or (bool(self._queue) and self._asked_again < ASK_AGAIN)
        self._asked_again = self._asked_again + 1 if self._outdated else 0
        if self._outdated:
            self._wake.set()
            return
        if self._walk is not None:
            self._walk.cancel()
        self._names = cib.names(self.state)
        # What does not depend on a failed action goes on: the failure is observed, and a newer decision overtakes this one.
        self._walk = Walk(graph, abort_on_failure=False)
        if self._decision is not None:
            self._decision.made(
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
        for name in [name for name in self._look if not self._busy(name)]:
            reason = self._look.pop(name)
            if name in known:
                self._launch((cib.guest_id(name), "monitor", 0), partial(self._executor.look, self.state, name, reason))
        for name in change.removable(self.state):
            assembly = next(a for a in self.state.leaving if a.name == name)
            key: Key = (cib.guest_id(name), "delete", 0)
            if not self._busy(name) and not self._hands_off(name):
                self._launch(key, partial(self._executor.guest, self.state, assembly, "delete"))
        if walk is not None and walk.done and not self._tasks:
            self._finish_decision()

    def _busy(self, assembly: str) -> bool:
        return any(key[0] == cib.guest_id(assembly) for key in self._tasks)

    def _waits(self, subject: str) -> bool:
        backoff = self.state.memory.backoff.get(subject)
        return backoff is not None and backoff.until > self._environment.clock.time()

    def _begin(self, walk: Walk, action: Action) -> bool:
        """Start one action of the graph, or take over the same one in flight; False when its resource is busy."""
        key: Key = (action.resource, action.task, action.interval_ms)
        if key in self._tasks:
            walk.started(action.id)  # its end is told to the newest walk
            return True
        busy = [other for other in self._tasks if other[0] == action.resource]
        if busy:
            if action.resource in self._names.connections:
                for other in busy:  # nothing is lost by giving up an attempt to connect
                    self._tasks[other].cancel()
            return False
        if action.task == "start" and action.resource in self._names.services and self._stops_overtaken(walk):
            return False
        walk.started(action.id)
        if action.resource in self._names.guests:
            assembly = self._names.guests[action.resource]
            if action.task in ("start", "stop") and self._hands_off(assembly):
                walk.finished(action.id, ok=False)
                return True
            if action.task == "stop" and (connecting := self._tasks.get((assembly, "start", 0))) is not None:
                connecting.cancel()  # nothing is to be reached in a guest that ends
        work = self._work(action)
        if work is None:
            walk.finished(action.id, ok=True)
            return True
        self._launch(key, work)
        return True

    def _stops_overtaken(self, walk: Walk) -> bool:
        """Tell whether a service is being stopped that the newest decision takes to run: something it starts may need it.
        The end of that stop causes the next decision."""
        stops = [key for key in self._tasks if key[1] == "stop" and key[0] not in self._names.guests]
        if not stops:
            return False
        wanted = {(action.resource, action.task, action.interval_ms) for action in walk.graph.actions}
        return any(key not in wanted for key in stops)

    def _hands_off(self, assembly: str) -> bool:
        """Tell whether a guest must be left alone: nothing is known of its infrastructure, or a failed stop waits."""
        return bool(self.state.infrastructure_down) or self._waits(assembly)

    def _work(self, action: Action) -> Work | None:
        """Return what carries an action out; None when there is nothing to do for it."""
        state = self.state
        if action.resource in self._names.services:
            subject = self._names.services[action.resource]
            resource = self._resource(subject)
            if resource is None or action.task not in ("start", "stop", "monitor", "cancel"):
                return None
            self._tell_action(subject, action)
            return partial(self._executor.operate, state, subject, resource, action)
        if action.resource in self._names.guests:
            assembly = self._assembly(self._names.guests[action.resource])
            if action.task == "monitor":
                return None if action.interval_ms else partial(self._executor.look, state, assembly.name)
            if action.task in ("start", "stop"):
                self._tell_action(assembly.name, action)
                return partial(self._executor.guest, state, assembly, action.task)
            return None
        if action.resource in self._names.connections:
            assembly = self._assembly(self._names.connections[action.resource])
            if action.task == "start":
                return partial(self._executor.connect, state, assembly)
            if action.task == "stop":
                return partial(self._executor.disconnect, assembly.name)
        return None

    def _launch(self, key: Key, work: Work) -> None:
        async def carry_out() -> None:
            began = asyncio.get_running_loop().time()
            ok, wanted = False, False
            try:
                observation = await work()
                ok = _succeeded(observation)
            finally:  # cancelled or failed by a fault of ours: the resource is free again either way
                wanted = self._ended(key, ok=ok, seconds=asyncio.get_running_loop().time() - began)
            self.post(observation)
            if not wanted and key[1] in ("start", "stop"):
                self.post(Tick())  # a newer decision did not reckon with what this action changed

        self._tasks[key] = asyncio.get_running_loop().create_task(carry_out())
        self._tasks[key].add_done_callback(self._action_died)

    def _action_died(self, task: asyncio.Task[None]) -> None:
        """A fault of ours inside an action blocks the deployable with a clear word; nothing is tried again blindly."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.critical("an action on %s failed by a fault of ours", self.state.deployable.name, exc_info=error)
            self.post(Blocked(reason=f"internal error: {error!r}"))

    def _ended(self, key: Key, *, ok: bool, seconds: float) -> bool:
        """Note the end of an action; tell whether the newest decision wanted it."""
        del self._tasks[key]
        self._ends += 1
        wanted = False
        if self._decision is not None:
            self._decision.ended(key, ok=ok, seconds=seconds)
        if self._walk is not None:
            for action in self._walk.in_flight:
                if (action.resource, action.task, action.interval_ms) == key:
                    self._walk.finished(action.id, ok=ok)
                    wanted = True
        self._wake.set()
        return wanted

    # --- what comes from the side

    def _result_changed(self, assembly: str, result: OperationResult) -> None:
        """A recurring monitor's result changed."""
        subject = self._names.services.get(result.resource)
        if subject is None or subject.partition("/")[0] != assembly:
            return
        if (result.resource, "stop", 0) in self._tasks:
            return  # that a service which is being stopped does not run is no failure
        self.post(operated(subject, result))

    def _arm(self) -> None:
        """Set the timer for the next time at which something is due by itself."""
        now = self._environment.clock.time()
        due = escalation.next_wake(self.state.memory, now)
        settled = self._published is not None and self._published.state.value in (
            "running",
            "stopped",
            "paused",
            "failed",
        )
        if due is None and not settled:
            due = now + RECHECK
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            # The wait is over a moment *after* its end, else the state would still hold it back.
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now) + 0.001, self.post, Tick())
        if self.state.infrastructure_down and (self._retry is None or self._retry.done()):
            self._retry = asyncio.get_running_loop().create_task(self._await_infrastructure())

    async def _await_infrastructure(self) -> None:
        """Ask until the infrastructure answers, then look at every guest."""
        while True:
            await asyncio.sleep(INFRASTRUCTURE_RETRY)
            ends = self._ends
            try:
                places = tuple(await self._environment.infrastructure.places())
                looks = [await self._executor.look(self.state, a.name) for a in self.state.assemblies()]
            except InfrastructureError:
                continue
            if any(isinstance(look, GuestActed) for look in looks):
                continue
            if ends != self._ends or any(self._busy(a.name) for a in self.state.assemblies()):
                continue  # what was seen may be older than what an action did
            for look in looks:
                self.post(look)
            self.post(InfrastructureState(error="", places=places))
            return

    # --- telling

    def _tell_action(self, subject: str, action: Action) -> None:
        if action.task != "start" or subject.endswith("!configure"):
            return
        assembly, _, resource = subject.partition("/")
        why = self._decision.why(action.id) if self._decision is not None else ""
        self._environment.journal.event(
            Event(
                time=self._environment.clock.time(),
                type="resource.state" if resource else "assembly.state",
                deployable=self.state.deployable.name,
                assembly=assembly,
                resource=resource,
                state="starting",
                reason=why,
            )
        )

    def _tell_status(self) -> None:
        now = self._environment.clock.time()
        current = status(self.state, now)
        before = self._published
        if before == current or not self._configured:
            return
        self._published = current
        self._publish(current)
        if before is None or before.state != current.state:
            self._environment.journal.event(
                Event(
                    time=now, type="deployable.state", deployable=current.name, state=current.state.value,
                    reason=current.reason,
                )
            )  # fmt: skip

    def _save(self) -> None:
        if self.state.memory != self._saved:
            self._saved = self.state.memory
            self._environment.journal.state(self.state.deployable.name, msgspec.msgpack.encode(self._saved))

    def _finish_decision(self) -> None:
        if self._decision is not None and self._decision.worth_keeping:
            self._environment.journal.decision(
                self.state.deployable.name, self._decision.record(self._environment.clock.time())
            )
        self._decision = None

    # --- small helps

    def _assembly(self, name: str) -> Assembly:
        return next(a for a in self.state.assemblies() if a.name == name)

    def _resource(self, subject: str) -> Resource | None:
        assembly, _, name = subject.removesuffix("!configure").partition("/")
        found = self.state.resources(self._assembly(assembly))
        return next((resource for resource in found if resource.name == name), None)

    @property
    def gone(self) -> bool:
        """Whether nothing of a deployable without assemblies is left."""
        return not self.state.assemblies() and not self._tasks

    def material(self, assembly: str) -> GuestMaterial:
        """Return an assembly's image and keys; KeyError when there is no such assembly."""
        return self._executor.guests[assembly]

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


def _succeeded(observation: Observation) -> bool:
    match observation:
        case Operated(not_connected=True):
            return False
        case Operated(action="monitor", interval=0.0):
            return observation.rc in (0, 5, 7) and not observation.error
        case Operated():
            return observation.rc == 0 and not observation.error
        case GuestActed():
            return not observation.error
        case _:
            return True
