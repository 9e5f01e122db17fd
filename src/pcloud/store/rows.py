"""What the store gives out and takes in: small structs, no SQL."""

from __future__ import annotations

from typing import Any

import msgspec

from pcloud.events.event import Event
from pcloud.model.deployable import Deployable
from pcloud.model.errors import Problem


class DeployableRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything about one deployable but its definition: what the daemon holds in memory, thousands of times."""

    name: str
    infrastructure: str
    assemblies: int
    priority: int = 0
    target: str = "stopped"
    paused: bool = False
    phase: str = "active"
    """`active`, or `deleting` from the moment that its end was asked for."""
    slot: str = ""
    loaded: bool = False
    """Whether an engine was ever given it; only then guests of it can exist."""
    revision: int = 1
    created: float = 0.0
    updated: float = 0.0
    holder: str | None = None
    """Id of the daemon that gave it to an engine last, where its store can have several; None where that is not known."""
    host: str | None = None
    """That daemon's host, for people."""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A deployable's definition, and which of its assemblies are copies by reference of library assemblies."""

    deployable: Deployable
    library: tuple[str, ...] = ()
    applied: Deployable | None = None
    """What the engine was given, where that is still another definition: the images of a change are not there yet."""
    images: dict[str, tuple[str, str]] = {}
    """Assembly → what its image was asked to be, and the digest of the image that the engine was given for it."""
    revision: int = 0
    """That of its row when it was read."""
    state: bytes | None = None
    """The newest engine state, when it was asked for."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One record to be committed; exactly one of `event`, `decision`, `state` is set.

    `process` and `sequence` make it idempotent: an entry at or below what that process had committed is dropped.
    An empty `process` is the daemon itself, whose records exist once only.
    """

    process: str = ""
    sequence: int = 0
    deployable: str = ""
    event: Event | None = None
    decision: dict[str, Any] | None = None
    state: bytes | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An API token; the secret itself is never stored, only its SHA-256."""

    name: str
    role: str
    digest: str
    created: float


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work that takes a while."""

    id: str
    kind: str
    """`jeos.build`, `deployable.images`, `deployable.delete`."""
    subject: str
    arguments: dict[str, Any] = {}
    state: str = "running"
    """`running`, `done`, `failed`, `cancelled`."""
    progress: float = 0.0
    message: str = ""
    errors: tuple[Problem, ...] = ()
    created: float = 0.0
    updated: float = 0.0
