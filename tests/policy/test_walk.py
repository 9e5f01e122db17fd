"""The walk: order always holds, and it always ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcloud.policy.graph import INFINITY, Action, ActionKind, Graph
from pcloud.policy.walk import Outcome, Walk


def action(
    key: int, *inputs: int, priority: int = 0, pseudo: bool = False, synapse: int | None = None, **meta: str
) -> Action:
    return Action(
        id=key,
        kind=ActionKind.PSEUDO if pseudo else ActionKind.RESOURCE,
        task="start",
        synapse=key if synapse is None else synapse,
        priority=priority,
        inputs=inputs,
        meta=meta,
    )


def ready(walk: Walk) -> list[int]:
    return [each.id for each in walk.ready()]


def test_order_and_milestones() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, 1, pseudo=True), action(3, 2), action(4, 2, pseudo=True))))
    assert ready(walk) == [1]
    walk.started(1)
    assert ready(walk) == []
    assert not walk.done
    walk.finished(1, ok=True)
    assert [each.id for each in walk.pass_milestones()] == [2, 4]
    assert ready(walk) == [3]
    walk.started(3)
    assert [each.id for each in walk.in_flight] == [3]
    walk.finished(3, ok=True)
    assert walk.done
    assert walk.outcome is Outcome.COMPLETE
    assert walk.confirmed == {1: True, 2: True, 4: True, 3: True}


def test_a_failure_keeps_what_waits_for_it_and_aborts_the_rest() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, 1), action(3), action(4, priority=5))))
    for key in (4, 1):
        walk.started(key)
    walk.finished(1, ok=False)
    assert ready(walk) == []
    assert not walk.done, "4 is still in flight"
    walk.finished(4, ok=True)
    assert walk.done
    assert walk.outcome is Outcome.STOPPED
    assert [each.id for each in walk.left] == [2, 3]


def test_without_abort_only_dependents_stay_behind() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, 1), action(3))), abort_on_failure=False)
    walk.started(1)
    walk.finished(1, ok=False)
    assert ready(walk) == [3]
    walk.started(3)
    walk.finished(3, ok=True)
    assert walk.done
    assert walk.outcome is Outcome.INCOMPLETE
    assert [each.id for each in walk.left] == [2]


def test_an_infinite_priority_runs_whatever_failed() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, 1, priority=INFINITY), action(3, 1, pseudo=True))))
    walk.started(1)
    walk.finished(1, ok=False)
    assert ready(walk) == [2]


def test_an_action_that_may_fail() -> None:
    walk = Walk(Graph(actions=(action(1, op_allow_fail="true"), action(2, 1))))
    walk.started(1)
    walk.finished(1, ok=False)
    assert ready(walk) == [2]


def test_batch_limit_counts_synapses_and_not_milestones() -> None:
    actions = (action(1, synapse=1), action(2, synapse=1), action(3), action(4), action(5, pseudo=True))
    walk = Walk(Graph(actions=actions), batch_limit=2)
    assert ready(walk) == [1, 2, 3, 5]
    walk.started(1)
    walk.started(3)
    assert ready(walk) == [2, 5], "a synapse fires as a whole"
    walk.finished(3, ok=True)
    assert ready(walk) == [2, 4, 5]


def test_most_important_first() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, priority=10), action(3, priority=5)), batch_limit=2))
    assert ready(walk) == [2, 3]


def test_cancel_starts_nothing_more() -> None:
    walk = Walk(Graph(actions=(action(1), action(2), action(3, pseudo=True))))
    walk.started(1)
    walk.cancel()
    assert ready(walk) == []
    assert not walk.done
    with pytest.raises(ValueError, match="not ready"):
        walk.started(2)
    walk.finished(1, ok=True)
    assert walk.done
    assert walk.outcome is Outcome.STOPPED


def test_milestones_pass_an_abort() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, pseudo=True))))
    walk.abort()
    assert [each.id for each in walk.pass_milestones()] == [2]
    assert walk.done


@pytest.mark.parametrize("actions", [(action(1, 2), action(2, 1)), (action(1, 99),), (action(1, 1),)])
def test_a_graph_that_does_not_work_out(actions: tuple[Action, ...]) -> None:
    walk = Walk(Graph(actions=actions))
    assert walk.done
    assert walk.outcome is Outcome.INCOMPLETE


def test_what_an_executor_can_do_wrong() -> None:
    walk = Walk(Graph(actions=(action(1), action(2, 1))))
    with pytest.raises(ValueError, match="not ready"):
        walk.started(2)
    with pytest.raises(ValueError, match="not in flight"):
        walk.finished(1, ok=True)
    walk.started(1)
    with pytest.raises(ValueError, match="not ready"):
        walk.started(1)
    walk.finished(1, ok=True)
    with pytest.raises(ValueError, match="not in flight"):
        walk.finished(1, ok=True)
    with pytest.raises(ValueError, match="twice"):
        Walk(Graph(actions=(action(1), action(1))))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph: mostly without cycles, sometimes with them or with inputs that do not exist."""
    size = draw(st.integers(0, 14))
    actions = []
    for key in range(size):
        upper = draw(st.sampled_from([key, key, key, size + 1]))
        inputs = draw(st.sets(st.integers(0, upper - 1), max_size=4)) if upper else set()
        priority = draw(st.sampled_from([0, 0, 0, 5, INFINITY]))
        actions.append(action(key, *sorted(inputs), priority=priority, pseudo=draw(st.booleans())))
    return Graph(actions=tuple(actions), batch_limit=draw(st.sampled_from([0, 0, 1, 3])))


@given(graphs(), st.data())
def test_any_executor_arrives_in_order(graph: Graph, data: st.DataObject) -> None:
    """Whatever fails, in whatever order results come, with or without cancellation: the order holds and it ends."""
    walk = Walk(graph, abort_on_failure=data.draw(st.booleans()))
    steps = 0
    while not walk.done:
        steps += 1
        assert steps <= 2 * len(graph.actions) + 4, "no progress"
        startable, flying = walk.ready(), walk.in_flight
        assert startable or flying, "a walk that is not done must have something to do"
        if graph.batch_limit:
            assert sum(not each.pseudo for each in flying) <= graph.batch_limit
        choice = data.draw(st.sampled_from(["start", "finish", "cancel"] if steps % 7 == 0 else ["start", "finish"]))
        if choice == "cancel":
            walk.cancel()
        elif startable and (choice == "start" or not flying):
            chosen = data.draw(st.sampled_from(startable))
            for cause in chosen.inputs:
                assert cause in walk.confirmed
                assert walk.confirmed[cause] or chosen.priority >= INFINITY
            walk.started(chosen.id)
        else:
            chosen = data.draw(st.sampled_from(flying))
            walk.finished(chosen.id, ok=data.draw(st.booleans()))
    assert walk.outcome is not Outcome.ACTIVE
    assert walk.ready() == ()
    begun = set(walk.confirmed)
    assert begun | {each.id for each in walk.left} == {each.id for each in graph.actions}
    if walk.outcome is Outcome.COMPLETE:
        assert walk.left == ()
