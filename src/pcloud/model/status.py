"""What users are told about a deployable: the shape of `pcloud status -o json`."""

from __future__ import annotations

import msgspec

from pcloud.model.deployable import ResourceState


class Standstill(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not being done at the moment, and why."""

    subject: str = ""
    """`web` for a guest, `web/httpd` for a service; empty for the whole deployable."""
    rule: str
    """A stable name: PAUSED, STOPPED, BLOCKED, GAVE_UP, UNRECOVERABLE, BACK_OFF, STORM_BRAKE, SECOND_SIGNAL, ISOLATION,
    INFRASTRUCTURE_DOWN, GUEST, ORDER, CONFIGURE, ENGINE_AWAY, IMAGES, DELETING."""
    text: str
    """What is not done, and why, in a sentence."""
    next: str = ""
    """What makes it go on: by itself, or what to do."""
    since: float = 0.0
    """Wall-clock time since when, where that is known."""
    until: float = 0.0
    """Wall-clock time at which it is tried again, where there is one."""


class ResourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One resource."""

    name: str
    state: ResourceState
    reason: str = ""
    failures: int = 0
    """Failures counted in the current escalation period."""
    since: float = 0.0
    """Wall-clock time of the last change of state."""


class AssemblyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One assembly."""

    name: str
    state: ResourceState
    address: str = ""
    place: str = ""
    reason: str = ""
    failures: int = 0
    since: float = 0.0
    resources: tuple[ResourceStatus, ...] = ()
    answers: bool = False
    """Whether the guest runs and its agent answers, whatever its resources do."""


class DeployableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One deployable."""

    name: str
    state: ResourceState
    reason: str = ""
    infrastructure: str = ""
    target: str = "started"
    """What it shall be: `started` or `stopped`."""
    paused: bool = False
    change: str = ""
    """What was applied last and is not brought about, while what ran before goes on: `pending` until its engine has taken it
    up, `building` its images, or `failed`."""
    revision: int = 0
    """Which of the user's wishes the engine carries out; 0 where it does not tell."""
    since: float = 0.0
    assemblies: tuple[AssemblyStatus, ...] = ()
