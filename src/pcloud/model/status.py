"""What users are told about a deployable: the shape of `pcloud status -o json`."""

from __future__ import annotations

import msgspec

from pcloud.model.deployable import ResourceState


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
