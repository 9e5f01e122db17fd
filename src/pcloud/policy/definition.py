"""Digests that decide whether what runs is what shall run, and the values of references."""

from __future__ import annotations

import hashlib

import msgspec

from pcloud.model.deployable import Parameter, Reference, Resource
from pcloud.policy.state import Health, Power, Service, State, configure_step, needs_configure


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


def guest_changed(state: State, name: str) -> bool:
    """Tell whether a guest runs that was made from something else than it shall be made from."""
    guest, wanted = state.guest(name), state.images.get(name, "")
    return guest.power is Power.ON and bool(guest.digest and wanted) and guest.digest != wanted


def service_changed(state: State, subject: str) -> bool:
    """Tell whether a service, or the configure step before it, runs with other parameters than it shall have."""
    assembly, _, name = subject.removesuffix("!configure").partition("/")
    try:
        resource = state.deployable.assembly(assembly).resource(name)
    except KeyError:
        return False
    own = f"{assembly}/{name}"
    if differs(state.service(own), service_digest(state, resource)):
        return True
    return needs_configure(resource) and differs(state.service(configure_step(own)), configure_digest(state, resource))


def differs(service: Service, wanted: str | None) -> bool:
    """Tell whether a service that runs was started as another one than `wanted`; False while either is not known."""
    return service.health is Health.RUNNING and bool(service.digest and wanted) and service.digest != wanted


def _digest(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]
