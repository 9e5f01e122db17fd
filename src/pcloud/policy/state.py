"""The snapshot that decisions are made from.

A `State` holds what one deployable shall be and what is known of it: guests, services, failure counters, back-off. It is
immutable; `fold` makes the next one. Persisted parts (`Memory`) survive a crash of the engine, the rest is gathered anew.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pcloud.model.deployable import Assembly, Deployable, Resource, ResourceLimits


class Health(StrEnum):
    """What is known of a service (or of its configure step) in its guest."""

    UNKNOWN = "unknown"
    """Not asked since the guest was reached; the scheduler will probe it."""
    STOPPED = "stopped"
    RUNNING = "running"
    FAILED = "failed"
    """It ran, and its monitor found it failed."""
    START_FAILED = "start-failed"


class Link(StrEnum):
    """The transport to a guest."""

    NONE = "none"
    CONNECTED = "connected"
    LOST = "lost"
    """It was connected and fell silent; the engine tries again."""


class Power(StrEnum):
    """The guest itself, as its infrastructure tells it."""

    UNKNOWN = "unknown"
    OFF = "off"
    ON = "on"


class Fault(StrEnum):
    """Why a guest must be stopped and started again, whatever runs in it."""

    NONE = ""
    GONE = "gone"
    """It died."""
    HUNG = "hung"
    """Its transport is silent and a second signal says that nothing executes in it."""
    UNSTOPPABLE = "unstoppable"
    """A service in it could not be stopped."""
    UNREACHABLE = "unreachable"
    """It can not be reached, and it shall be stopped or was never reached after its start."""
    ESCALATED = "escalated"
    """Something in it failed too often."""


ISOLATING = frozenset({Fault.GONE, Fault.HUNG, Fault.UNSTOPPABLE, Fault.UNREACHABLE})
"""Faults in which the guest is destroyed at once and seen to be gone; otherwise it is shut down in order."""


class Backoff(msgspec.Struct, frozen=True):
    """Waiting before something that failed to start is tried again."""

    attempts: int = 0
    until: float = 0.0
    """Wall-clock time before which nothing is tried."""
    began: float = 0.0
    """When the first of these attempts failed: failures from then on count together, however long they are apart."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one service, or of the configure step before it."""

    health: Health = Health.UNKNOWN
    rc: int = 0
    """The exit code behind FAILED and START_FAILED."""
    reason: str = ""
    signal: str = ""
    """What told of the failure: `exit`, `interval`, `request`."""
    monitored: float = 0.0
    """Interval in seconds of the recurring monitor that is installed in the guest; 0 when none is."""
    monitor_timeout: float = 0.0
    """Its time-out in seconds."""
    digest: str = ""
    """Digest of definition and resolved parameters with which it was last started."""
    definition: Resource | None = None
    """The definition it was last started with; what stops it."""
    since: float = 0.0
    failed_at: float = 0.0
    """When the failure that is being recovered from was seen; 0 when there is none."""
    limits: ResourceLimits | None = None
    """What it is known to be limited to; None until that was brought about."""
    refused: ResourceLimits | None = None
    """What it could not be limited to."""
    retry: float = 0.0
    """When that is tried again."""


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one assembly's guest."""

    power: Power = Power.UNKNOWN
    link: Link = Link.NONE
    fault: Fault = Fault.NONE
    reason: str = ""
    signal: str = ""
    address: str = ""
    place: str = ""
    """Where it is, or shall be made (`pcloud.policy.placement`)."""
    digest: str = ""
    """What the guest was made from; empty while it is not known to be made."""
    boot: str = ""
    since: float = 0.0
    silent_since: float = 0.0
    """When the transport fell silent; 0 while it speaks."""
    failed_at: float = 0.0
    probed: bool = False
    """Whether the infrastructure was asked since this engine took the deployable over."""
    bounds: tuple[int, float] | None = None
    """MiB and cores that it is known to have, 0 for the infrastructure's own; None until that was asked."""
    refused: tuple[int, float] | None = None
    """Those that it could not be given."""
    retry: float = 0.0
    """When that is tried again."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Something that failed and whose outcome was not told yet."""

    subject: str
    """What failed first; empty for the deployable."""
    cause: str
    signal: str = ""
    """What told of the first failure."""
    began: float
    failures: int = 0
    escalated: tuple[str, ...] = ()
    """How far it went up: `guest web`, `deployable`, `another place`."""
    well_since: float = 0.0
    """Since when all of it runs again; 0 while it does not."""
    overdue: bool = False
    """Whether it was told that it does not end."""

    def identity(self, deployable: str) -> str:
        """Return a name that no other incident has: who is told the same one twice can know."""
        return f"{deployable}/{self.subject}@{self.began:.6f}" if self.subject else f"{deployable}@{self.began:.6f}"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What must survive the engine; keys are subjects such as `web`, `web/httpd`, or empty for the deployable."""

    failures: dict[str, tuple[float, ...]] = {}
    """Times of the failures that count toward the next escalation."""
    backoff: dict[str, Backoff] = {}
    unrecoverable: dict[str, str] = {}
    """Subject → why trying again can not help."""
    gave_up: str = ""
    """Why the deployable was given up; empty while it is not."""
    started: dict[str, tuple[str, Resource | None]] = {}
    """Subject → (digest, definition) of the last start."""
    excluded: dict[str, tuple[str, ...]] = {}
    """Assembly → places that it was moved away from, or could not be brought to."""
    excluded_at: dict[str, dict[str, float]] = {}
    """Assembly → place → when that was; what a former version left has no time."""
    faults: dict[str, tuple[Fault, str]] = {}
    """Assembly → a fault whose recovery has begun and is not finished."""
    limited: tuple[str, ...] = ()
    """Services that may have limits of ours, in order: where they shall have none any more, those are taken away."""
    assemblies: tuple[str, ...] = ()
    """Assemblies that may have a guest: what is no longer wanted is removed even when no engine ran as that changed."""
    incidents: dict[str, Incident] = {}
    """By scope (a service, a guest, or all of it): what failed and whose outcome was not told yet."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision is made from."""

    deployable: Deployable
    target: str = "started"
    paused: bool = False
    revision: int = 0
    """Which of the user's wishes this is; 0 where nobody counts them."""
    guests: dict[str, Guest] = {}
    """By assembly."""
    services: dict[str, Service] = {}
    """By `ASSEMBLY/RESOURCE`, and `ASSEMBLY/RESOURCE!configure` for the step before it."""
    memory: Memory = Memory()
    leaving: tuple[Assembly, ...] = ()
    """Assemblies, and resources of assemblies, that are no longer part of the deployable and still have to be stopped."""
    leaving_resources: dict[str, tuple[Resource, ...]] = {}
    places: tuple[str, ...] = ()
    hostnames: dict[str, str] = {}
    images: dict[str, str] = {}
    """Assembly → digest of what its guest shall be made from."""
    live_limits: bool = False
    """Whether guests' memory and cores can be changed while they run."""
    infrastructure_down: str = ""
    """Why the infrastructure does not answer; empty while it does."""
    blocked: str = ""
    """Why no decision can be made (the scheduler died on this state twice)."""

    def assemblies(self) -> tuple[Assembly, ...]:
        """Return the deployable's assemblies and the leaving ones."""
        return self.deployable.assemblies + self.leaving

    def resources(self, assembly: Assembly) -> tuple[Resource, ...]:
        """Return an assembly's resources and the leaving ones."""
        return assembly.resources + self.leaving_resources.get(assembly.name, ())

    def guest(self, name: str) -> Guest:
        """Return what is known of a guest."""
        return self.guests.get(name, _NOTHING_KNOWN)

    def service(self, subject: str) -> Service:
        """Return what is known of a service or configure step."""
        return self.services.get(subject, _NEVER_SEEN)

    def is_leaving(self, assembly: str, resource: str = "") -> bool:
        """Tell whether an assembly, or a resource of it, is to be stopped for good."""
        if any(leaver.name == assembly for leaver in self.leaving):
            return True
        return bool(resource) and any(r.name == resource for r in self.leaving_resources.get(assembly, ()))


_NOTHING_KNOWN = Guest()
_NEVER_SEEN = Service()


def configure_step(subject: str) -> str:
    """Return the subject of the configure step before a service."""
    return subject + "!configure"


def needs_configure(resource: Resource) -> bool:
    """Tell whether a resource has a configure step: parameters of an OCF agent reach it directly, others' do not."""
    return bool(resource.configure) or (bool(resource.parameters) and resource.resource_class != "ocf")


def initial(deployable: Deployable, memory: Memory) -> State:
    """Return the state of a deployable that an engine takes over: nothing is known but what survived."""
    guests = {name: Guest(fault=fault, reason=why) for name, (fault, why) in memory.faults.items()}
    return State(deployable=deployable, memory=memory, guests=guests)
