"""The walk through a transition graph: what may start now, and what a result changes.

Owns the state of one transition. Pure and synchronous: the executor starts what `ready()` names, tells `started()` and
`finished()`, and is through when `done`. The rules are those of Pacemaker's controller:

- a synapse fires when all its inputs are confirmed; one whose priority is INFINITY also when inputs failed (such are
  the notifications that must go out whatever happened);
- a failed action confirms nothing else, and raises the abort priority over that of its synapse: what has a lower priority
  and is not started yet is left to the next decision, which the failure will cause anyway;
- milestones (pseudo actions) pass whatever the abort priority is;
- at most `batch_limit` synapses are in flight.

Termination: every action is started at most once, nothing new becomes ready except by `finished()`, and each `finished()`
takes one out of the finite number in flight; so an executor that finishes what it started (a time-out is a failure)
always arrives at `done`. Inputs that are no action of the graph, or wait for each other, are never confirmed: what
waits for them never starts, and the outcome is `incomplete`.
"""

from __future__ import annotations

from enum import StrEnum

from pcloud.policy.graph import INFINITY, Action, Graph


class Outcome(StrEnum):
    """How a walk stands."""

    ACTIVE = "active"
    """Something is in flight or may start."""
    COMPLETE = "complete"
    """Everything was confirmed."""
    STOPPED = "stopped"
    """It was aborted or cancelled before everything ran."""
    INCOMPLETE = "incomplete"
    """Some actions can never run, though nobody aborted: the graph itself does not work out."""


class _Synapse:
    """Actions that fire together, and what they still wait for."""

    __slots__ = ("actions", "inputs", "priority", "pseudo", "unconfirmed")

    def __init__(self, first: Action) -> None:
        self.actions: list[Action] = []
        self.priority = first.priority
        self.inputs = frozenset(first.inputs)
        self.unconfirmed = len(self.inputs)
        self.pseudo = True


class Walk:
    """One transition on its way; see the module's text for the rules."""

    def __init__(self, graph: Graph, *, batch_limit: int = 0, abort_on_failure: bool = True) -> None:
        """`batch_limit`: synapses in flight at once, 0 for what the graph says (or no limit). `abort_on_failure`: raise
        the abort priority when an action fails; otherwise only what waits for the failed one stays behind."""
        self.graph = graph
        self.abort_priority = 0
        self.cancelled = False
        self._limit = batch_limit or graph.batch_limit
        self._abort_on_failure = abort_on_failure
        self._synapses: dict[int, _Synapse] = {}
        self._of: dict[int, _Synapse] = {}
        for action in graph.actions:
            if action.id in self._of:
                raise ValueError(f"action {action.id} stands in the graph twice")
            synapse = self._synapses.get(action.synapse)
            if synapse is None:
                synapse = self._synapses[action.synapse] = _Synapse(action)
            synapse.actions.append(action)
            synapse.pseudo = synapse.pseudo and action.pseudo
            self._of[action.id] = synapse
        self._waiting_for: dict[int, list[_Synapse]] = {}
        for synapse in self._synapses.values():
            for cause in synapse.inputs:
                self._waiting_for.setdefault(cause, []).append(synapse)
        self._ready: dict[int, Action] = {}
        for synapse in self._synapses.values():
            if not synapse.unconfirmed:
                self._ready.update((action.id, action) for action in synapse.actions)
        self._flying: dict[int, Action] = {}
        self._confirmed: dict[int, bool] = {}

    # --- what is asked

    def ready(self) -> tuple[Action, ...]:
        """Return the actions to start now, most important first, milestones included; within the batch limit."""
        if self.cancelled:
            return ()
        chosen = sorted(
            (action for action in self._ready.values() if self._allowed(action)),
            key=lambda action: (-action.priority, action.synapse, action.id),
        )
        if not self._limit:
            return tuple(chosen)
        firing = {id(self._of[key]) for key in self._flying}
        admitted: list[Action] = []
        for action in chosen:
            synapse = self._of[action.id]
            if not synapse.pseudo and id(synapse) not in firing:
                if len(firing) >= self._limit:
                    continue
                firing.add(id(synapse))
            admitted.append(action)
        return tuple(admitted)

    @property
    def in_flight(self) -> tuple[Action, ...]:
        """Started and not finished."""
        return tuple(self._flying.values())

    @property
    def confirmed(self) -> dict[int, bool]:
        """Ids of the finished actions in the order in which they finished, with whether they succeeded."""
        return dict(self._confirmed)

    @property
    def left(self) -> tuple[Action, ...]:
        """The actions that were not started."""
        return tuple(
            action
            for action in self.graph.actions
            if action.id not in self._confirmed and action.id not in self._flying
        )

    @property
    def done(self) -> bool:
        """Nothing is in flight and nothing more will start."""
        return not self._flying and (self.cancelled or not any(map(self._allowed, self._ready.values())))

    @property
    def outcome(self) -> Outcome:
        """How the walk stands; final once `done`."""
        if not self.done:
            return Outcome.ACTIVE
        if all(self._confirmed.values()) and len(self._confirmed) == len(self._of):
            return Outcome.COMPLETE
        if self.cancelled or self.abort_priority > 0 or len(self._confirmed) == len(self._of):
            return Outcome.STOPPED
        return Outcome.INCOMPLETE

    # --- what is told

    def started(self, key: int) -> Action:
        """Note that a ready action was started, and return it; ValueError when it was not ready."""
        action = self._ready.get(key)
        if action is None or self.cancelled or not self._allowed(action):
            raise ValueError(f"action {key} is not ready")
        del self._ready[key]
        self._flying[key] = action
        return action

    def finished(self, key: int, ok: bool) -> None:
        """Note the result of an action in flight (a time-out is a failure); ValueError when it was not in flight."""
        action = self._flying.pop(key, None)
        if action is None:
            raise ValueError(f"action {key} is not in flight")
        ok = ok or action.can_fail
        self._confirmed[key] = ok
        for synapse in self._waiting_for.get(key, ()):
            if ok or synapse.priority >= INFINITY:
                synapse.unconfirmed -= 1
                if not synapse.unconfirmed:
                    self._ready.update((each.id, each) for each in synapse.actions)
        if not ok and self._abort_on_failure:
            self.abort(self._of[key].priority + 1)

    def pass_milestones(self) -> tuple[Action, ...]:
        """Confirm every pseudo action that is ready, and those that become ready by that; return them in order."""
        passed: list[Action] = []
        while milestones := [action for action in self.ready() if action.pseudo]:
            for action in milestones:
                self.started(action.id)
                self.finished(action.id, ok=True)
            passed += milestones
        return tuple(passed)

    def abort(self, priority: int = INFINITY) -> None:
        """Start nothing more of a lower priority than this (milestones apart); what is in flight goes on."""
        self.abort_priority = max(self.abort_priority, min(priority, INFINITY))

    def cancel(self) -> None:
        """Start nothing more at all: a newer decision takes over; what is in flight is still to be finished."""
        self.cancelled = True

    def _allowed(self, action: Action) -> bool:
        synapse = self._of[action.id]
        return synapse.pseudo or synapse.priority >= self.abort_priority
