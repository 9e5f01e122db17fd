"""Digests that decide whether what runs is what shall run, and the values of references."""

from __future__ import annotations

import hashlib

import msgspec

from pcloud.model.deployable import Parameter, Reference, Resource
from pcloud.policy.state import State, needs_configure


def resolve(state: State, parameter: Parameter) -> str | None:
    """Return a parameter's value; None while it refers to something that is not known yet."""
    value = parameter.value
    if not isinstance(value, Reference):
        return value
    if value.attribute == "hostname":
        return state.hostnames.get(value.assembly, value.assembly)
    return state.guest(value.assembly).address or None


def resolved(state: State, resource: Resource) -> dict[str, str] | None:
    """Return all parameters with their values; None while one of them is not known."""
    values: dict[str, str] = {}
    for parameter in resource.parameters:
        value = resolve(state, parameter)
        if value is None:
            return None
        values[parameter.name] = value
    return values


def service_digest(state: State, resource: Resource) -> str | None:
    """Return the digest of what makes a service another service; None while a reference is not known.

    The parameters of a service with a configure step belong to that step: its restart restarts the service in order.
    """
    parameters = None if needs_configure(resource) else resolved(state, resource)
    if parameters is None and not needs_configure(resource):
        return None
    return _digest([resource.resource_class, resource.provider, resource.type, parameters])


def configure_digest(state: State, resource: Resource) -> str | None:
    """Return the digest of a configure step; None while a reference is not known."""
    parameters = resolved(state, resource)
    return None if parameters is None else _digest([resource.configure, parameters])


def _digest(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]
