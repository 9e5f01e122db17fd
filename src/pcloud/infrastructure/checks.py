"""What `doctor` says of an infrastructure: what it can do, as data, and what this machine lacks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure import hosts_checks, libvirt_checks, lxc_checks, openstack_checks
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.model.check import Check

_CHECKS: dict[str, Callable[[Mapping[str, Any]], list[Check]]] = {
    "hosts": hosts_checks.checks,
    "lxc": lambda _: lxc_checks.checks(),
    "libvirt": libvirt_checks.checks,
    "openstack": openstack_checks.checks,
}


_LACKING: dict[str, Callable[[Mapping[str, Any]], dict[Capability, str]]] = {
    "lxc": lambda _: lxc_checks.lacking(),
    "libvirt": libvirt_checks.lacking,
    "openstack": openstack_checks.lacking,
}


def able(name: str, settings: Mapping[str, Any]) -> tuple[frozenset[Capability], dict[Capability, str]]:
    """Return what guests of an infrastructure can have on this machine with these settings (nothing where it is unknown, or
    the settings are no good), and why not what others can have."""
    could = CAPABILITIES.get(name, frozenset())
    look = _LACKING.get(name)
    try:
        lacking = look(settings) if look is not None else {}
    except msgspec.ValidationError as error:
        lacking = dict.fromkeys(could, str(error))
    return could - lacking.keys(), lacking


def checks_of(name: str, settings: Mapping[str, Any] | None = None) -> list[Check]:
    """Return what is to be said of one infrastructure with these settings; of an unknown one, that it is unknown."""
    look = _CHECKS.get(name)
    if look is None:
        known = ", ".join(sorted(_CHECKS))
        return [
            Check(check=f"infrastructure {name}", state="missing", detail="there is none", hint=f"use one of: {known}")
        ]
    words = ", ".join(sorted(able(name, settings or {})[0]))
    return [Check(check=f"infrastructure {name}", state="ok", detail=f"can do: {words}"), *look(settings or {})]
