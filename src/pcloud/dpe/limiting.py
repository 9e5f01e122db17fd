"""Which flights bring limits of guests and services about, beside the walk: no decision of the scheduler's is needed."""

from __future__ import annotations

from functools import partial

from pcloud.dpe.executor import Executor
from pcloud.dpe.flights import Flights
from pcloud.dpe.recorder import Key
from pcloud.policy import limits, service_limits
from pcloud.policy.identifiers import guest_id, resource_id
from pcloud.policy.state import State


def begin(state: State, now: float, flights: Flights, executor: Executor) -> None:
    """Begin to bring about the limits that differ from the definition's, where nothing else is done to whose they are."""
    for assembly in limits.due(state, now):
        key: Key = (guest_id(assembly.name), "limit", 0)
        if not flights.busy(assembly.name):
            flights.launch(key, partial(executor.bound, state, assembly))
    for subject, resource in service_limits.due(state, now):
        key = (resource_id(subject), "limit", 0)
        if not flights.of(key[0]):
            flights.launch(key, partial(executor.limit, subject, resource))
