"""What the engine can learn about a deployable: the only things that change a `State`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pcloud.environment.infrastructure import GuestInfo, Vitality
from pcloud.model.deployable import Deployable, Resource, ResourceLimits


class Resizing(StrEnum):
    """When a guest has the memory and cores that its definition says, by what its infrastructure can."""

    LIVE = "live"
    """At once."""
    RESTART = "restart"
    """From its next start on."""
    ANEW = "anew"
    """When it is made anew."""


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """The user's wishes: first load, change, start, stop, pause, resume."""

    deployable: Deployable
    target: str
    paused: bool
    hostnames: dict[str, str]
    images: dict[str, str]
    places: tuple[str, ...]
    revision: int = 0
    resizing: Resizing = Resizing.ANEW


class GuestSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The infrastructure told of a guest, asked or unasked."""

    assembly: str
    info: GuestInfo
    reason: str = ""


class GuestActed(msgspec.Struct, frozen=True, kw_only=True):
    """An action on a guest ended: `start`, `stop`, `connect`, `disconnect`, `delete`."""

    assembly: str
    action: str
    error: str = ""
    permanent: bool = False
    unavailable: bool = False
    """The infrastructure's API did not answer: nothing may be concluded."""
    info: GuestInfo | None = None
    seconds: float = 0.0


class GuestBounded(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's limits were compared to those of its definition, and changed where they differed."""

    assembly: str
    bounds: tuple[int, float]
    """MiB and cores that it was to have."""
    changed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    """What it has from its next start on."""
    error: str = ""
    """Why it can not have them; then it has what it had."""
    unavailable: bool = False
    """The infrastructure's API did not answer: nothing may be concluded."""


class LinkLost(msgspec.Struct, frozen=True, kw_only=True):
    """The transport to a guest fell silent."""

    assembly: str
    reason: str


class LinkRestored(msgspec.Struct, frozen=True, kw_only=True):
    """The transport to a guest that had fallen silent answers again."""

    assembly: str


class SecondOpinion(msgspec.Struct, frozen=True, kw_only=True):
    """The infrastructure's independent word on a guest whose transport is silent."""

    assembly: str
    vitality: Vitality


class Operated(msgspec.Struct, frozen=True, kw_only=True):
    """A resource operation ended, or a recurring monitor's result changed."""

    subject: str
    """`ASSEMBLY/RESOURCE` or its configure step."""
    action: str
    interval: float = 0.0
    rc: int = 0
    error: str = ""
    """Not empty when it timed out or could not be carried out."""
    not_connected: bool = False
    """The guest was not reached: nothing may be concluded about the service."""
    reason: str = ""
    signal: str = "request"
    seconds: float = 0.0
    digest: str = ""
    definition: Resource | None = None
    limits: ResourceLimits | None = None
    """What the service was limited to before its start or after its stop; None where nobody did or could."""


class InfrastructureState(msgspec.Struct, frozen=True, kw_only=True):
    """The infrastructure's API went away (`error`) or came back (empty)."""

    error: str
    places: tuple[str, ...] = ()
    """Where guests can run, as far as it told when it came back."""


class Recover(msgspec.Struct, frozen=True, kw_only=True):
    """The user asks to try again after a give-up; an empty subject means all of the deployable."""

    subject: str = ""
    why: str = "the operator asked to try again"


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """Something outside, such as an alarm, found a guest at fault."""

    assembly: str
    why: str


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler gave no answer for this state."""

    reason: str


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """A timer of ours ended."""


class Elapsed(msgspec.Struct, frozen=True, kw_only=True):
    """A time has come on which only what is told depends: nothing is decided."""


Observation = (
    Configured
    | GuestSeen
    | GuestActed
    | GuestBounded
    | LinkLost
    | LinkRestored
    | SecondOpinion
    | Operated
    | InfrastructureState
    | Recover
    | Restart
    | Blocked
    | Tick
    | Elapsed
)
