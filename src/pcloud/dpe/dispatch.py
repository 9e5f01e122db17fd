"""Which work carries an action of a transition graph out. Pure: nothing is begun here."""

from __future__ import annotations

from functools import partial

from pcloud.dpe.executor import Executor
from pcloud.dpe.flights import Work
from pcloud.model.deployable import Assembly, Resource
from pcloud.policy.graph import Action
from pcloud.policy.identifiers import Names
from pcloud.policy.state import State


def work_of(executor: Executor, state: State, names: Names, action: Action) -> tuple[str, Work] | None:
    """Return whom people are told of and what carries the action out; None when there is nothing to do for it."""
    if action.resource in names.services:
        subject = names.services[action.resource]
        resource = _resource(state, subject)
        if resource is None or action.task not in ("start", "stop", "monitor", "cancel"):
            return None
        return subject, partial(executor.operate, state, subject, resource, action)
    if action.resource in names.guests:
        assembly = _assembly(state, names.guests[action.resource])
        if action.task == "monitor":
            return None if action.interval_ms else ("", partial(executor.look, state, assembly.name))
        if action.task in ("start", "stop"):
            return assembly.name, partial(executor.guest, state, assembly, action.task)
        return None
    if action.resource in names.connections:
        assembly = _assembly(state, names.connections[action.resource])
        if action.task == "start":
            return "", partial(executor.connect, state, assembly)
        if action.task == "stop":
            return "", partial(executor.disconnect, assembly.name)
    return None


def _assembly(state: State, name: str) -> Assembly:
    return next(a for a in state.assemblies() if a.name == name)


def _resource(state: State, subject: str) -> Resource | None:
    assembly, _, name = subject.removesuffix("!configure").partition("/")
    found = state.resources(_assembly(state, assembly))
    return next((resource for resource in found if resource.name == name), None)
