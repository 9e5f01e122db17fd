"""The names under which a deployable's parts stand in a CIB, and how values are written there. Pure."""

from __future__ import annotations

from functools import lru_cache
from xml.sax import saxutils

import msgspec

from pcloud.policy.state import State, configure_step

PLACE = "place."
"""Prefix of the node name of a place, which keeps it apart from assemblies' names."""


class Names(msgspec.Struct, frozen=True):
    """What the ids in a CIB stand for."""

    guests: dict[str, str]
    """`guest_web` → `web`."""
    connections: dict[str, str]
    """`web` → `web`."""
    services: dict[str, str]
    """`rsc_web_httpd` → `web/httpd`, `cfg_web_httpd` → `web/httpd!configure`."""


def guest_id(assembly: str) -> str:
    """Return the id of an assembly's guest."""
    return f"guest_{assembly}"


def resource_id(subject: str) -> str:
    """Return the id of a service or configure step, which is also its name in the guest's executor."""
    assembly, _, resource = subject.partition("/")
    if resource.endswith("!configure"):
        return f"cfg_{assembly}_{resource.removesuffix('!configure')}"
    return f"rsc_{assembly}_{resource}"


def names(state: State) -> Names:
    """Return what the ids in this state's CIB stand for."""
    services: dict[str, str] = {}
    for assembly in state.assemblies():
        for resource in state.resources(assembly):
            subject = f"{assembly.name}/{resource.name}"
            services[resource_id(subject)] = subject
            services[resource_id(configure_step(subject))] = configure_step(subject)
    return Names(
        {guest_id(a.name): a.name for a in state.assemblies()}, {a.name: a.name for a in state.assemblies()}, services
    )


@lru_cache(maxsize=4096)
def quoteattr(text: str) -> str:
    """Return a value as a quoted XML attribute; the same few names are written over and over."""
    return saxutils.quoteattr(text)


def boolean(value: bool) -> str:
    """Return a truth value as Pacemaker writes it."""
    return "true" if value else "false"


def milliseconds(seconds: float) -> int:
    """Return seconds in Pacemaker's unit of intervals and time-outs."""
    return round(seconds * 1000)
