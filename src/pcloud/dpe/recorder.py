"""What one deployable's engine writes down and tells: its decisions, its memory, its status, the actions it begins.

Owned by the control loop and called from its task only; writes to the journal, which never blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec

from pcloud.dpe.decisions import Decision
from pcloud.dpe.environment import Environment
from pcloud.events.event import Event
from pcloud.model.status import DeployableStatus
from pcloud.policy.graph import Action, Graph
from pcloud.policy.identifiers import Names
from pcloud.policy.observation import Observation
from pcloud.policy.outcome import Outcome
from pcloud.policy.state import Memory, State
from pcloud.policy.status import status

Key = tuple[str, str, int]
"""An action's identity across graphs: resource id, task, interval."""


class Recorder:
    """The written side of one deployable's engine."""

    __slots__ = ("_decision", "_deployable", "_environment", "_publish", "_saved", "number", "published")

    def __init__(
        self, environment: Environment, deployable: str, memory: Memory, publish: Callable[[DeployableStatus], None]
    ) -> None:
        """`memory` is what the journal holds already; `publish` is told every change of the status."""
        self._deployable = deployable
        self._environment = environment
        self._publish = publish
        self._saved = memory
        self._decision: Decision | None = None
        self.number = 0
        """How many decisions there were."""
        self.published: DeployableStatus | None = None

    # --- decisions

    def observed(self, observation: Observation, outcome: Outcome) -> None:
        """Note what was seen and what followed; what makes a decision due begins a new record."""
        self._tell_all(outcome)
        if self._decision is None or outcome.decide:
            if self._decision is None or self._decision.decided:
                self.finish()
                self.number += 1
                self._decision = Decision(self.number, self._environment.clock.time())
            self._decision.saw(observation, outcome.events)
        self._decision.rules += outcome.rules

    def _tell_all(self, outcome: Outcome) -> None:
        """Journal the events. The memory that they led to goes with one of them, both or neither: with an incident's end,
        which is told exactly once and comes last, else with the first, so that a failure that was told is remembered."""
        events, memory = outcome.events, outcome.state.memory
        if not events:
            return
        bearer = events[-1] if events[-1].type == "incident" else events[0]
        state = msgspec.msgpack.encode(memory) if memory != self._saved else None
        self._saved = memory
        for event in events:
            self._environment.journal.event(event, state if event is bearer else None)

    def made(self, state: State, graph: Graph, names: Names, *, now: float, decide: float, library: float) -> None:
        """Note the graph that was the answer to a state at `now`; costs in seconds."""
        if self._decision is not None:
            self._decision.made(state, graph, names, now=now, decide=decide, library=library)

    def ended(self, key: Key, *, ok: bool, seconds: float) -> None:
        """Note the end of an action."""
        if self._decision is not None:
            self._decision.ended(key, ok=ok, seconds=seconds)

    def finish(self) -> None:
        """Journal the decision when anything was done or any rule applied."""
        if self._decision is not None and self._decision.worth_keeping:
            record = self._decision.record(self._environment.clock.time())
            self._environment.journal.decision(self._deployable, record)
        self._decision = None

    # --- status, memory, actions

    def begins(self, subject: str, action: Action) -> None:
        """Tell that a guest or a service is being started, and why."""
        if action.task != "start" or subject.endswith("!configure"):
            return
        assembly, _, resource = subject.partition("/")
        why = self._decision.why(action.id) if self._decision is not None else ""
        self._environment.journal.event(
            Event(
                time=self._environment.clock.time(),
                type="resource.state" if resource else "assembly.state",
                deployable=self._deployable,
                assembly=assembly,
                resource=resource,
                state="starting",
                reason=why,
            )
        )

    def tell(self, state: State, restarting: AbstractSet[str]) -> None:
        """Publish the status when it changed; a change of the whole is an event. `restarting`: services that are being
        stopped, or will be."""
        now = self._environment.clock.time()
        current = status(state, now, restarting)
        before = self.published
        if before == current:
            return
        self.published = current
        self._publish(current)
        if before is None or before.state != current.state:
            self._environment.journal.event(
                Event(
                    time=now, type="deployable.state", deployable=current.name, state=current.state.value,
                    reason=current.reason,
                )
            )  # fmt: skip

    def save(self, memory: Memory) -> None:
        """Journal the memory when it changed."""
        if memory != self._saved:
            self._saved = memory
            self._environment.journal.state(self._deployable, msgspec.msgpack.encode(memory))
