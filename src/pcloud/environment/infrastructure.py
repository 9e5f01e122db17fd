"""What the engine asks of an infrastructure: to make, watch, locate and end guests.

Concurrency: every method may be called for many guests at once; calls for *one* guest never overlap (each deployable is
handled strictly in sequence). A driver bounds its own parallelism. Every method is idempotent: it may be called again
after a crash at any point and then finishes what the first call began.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from pcloud.model.deployable import Assembly, AttachedVolume, FirewallRule, Interface, SeedFile
from pcloud.model.image import Identity as Identity
from pcloud.model.image import Image as Image


class GuestState(StrEnum):
    """What the infrastructure says of a guest."""

    RUNNING = "running"
    STOPPED = "stopped"
    """Defined here, but has no process."""
    ABSENT = "absent"
    """Nothing of it exists here."""
    UNKNOWN = "unknown"
    """The infrastructure did not say; never a reason to act on the guest."""


class Vitality(StrEnum):
    """A second opinion on a guest whose transport is silent, from a signal that does not use the guest's network agent."""

    ALIVE = "alive"
    """Something inside demonstrably executes (a command ran in it, say)."""
    HUNG = "hung"
    """It exists, but demonstrably does not execute (frozen, stopped, paused, crashed kernel)."""
    GONE = "gone"
    UNKNOWN = "unknown"
    """No second signal was to be had."""


class Capability(StrEnum):
    """What an infrastructure can do beyond the basics; read by `doctor`, validation and policy."""

    EXECUTE = "execute"
    CONSOLE = "console"
    SAVED_STATE = "saved-state"
    LIVE_MIGRATION = "live-migration"
    ANTI_AFFINITY = "anti-affinity"
    SECOND_SIGNAL = "second-signal"
    """`check` gives an answer that is independent of the transport."""
    LIMITS = "limits"
    """Memory and CPU limits can be changed while the guest runs; the driver has `limits`, see `HasLimits`."""
    USERS = "users"
    """Guests are made in the name of the deployable's `username`, with that user's credentials."""
    SEED = "seed"
    """A guest can be given files of its own (`GuestSpec.seed`)."""
    FIREWALL = "firewall"
    """What may reach a guest can be said (`GuestSpec.firewall`) and changed while it runs; the driver has `changes`."""
    ADDRESSES = "addresses"
    """A guest can have further addresses (`GuestSpec.addresses`), that `take` of its `GuestNetwork` or `Addresses` gives."""
    RESIZE = "resize"
    """A guest that is started again has the memory and cores that are asked for then, with its disk."""
    NETWORK = "network"
    """Guests reach this host at an address in their network; the driver has `network`, see `HasNetwork`."""
    VOLUMES = "volumes"
    """A guest can have disks that outlive it (`GuestSpec.volumes`); the driver has `volumes`, see `HasVolumes`."""
    SNAPSHOTS = "snapshots"
    """Volumes can be copied as they are, and be made from such a copy; `volumes` are `Snapshots` too."""
    FIXED_ADDRESSES = "fixed-addresses"
    """An address can be asked for (`GuestSpec.address`)."""
    NETWORKS = "networks"
    """Stacks can make networks and routers (`GuestSpec.interfaces`)."""
    FIREWALL_GROUPS = "firewall-groups"
    """Rules may name groups of guests (`FirewallRule.group`, `GuestSpec.groups`)."""


class GuestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an infrastructure needs to make one guest."""

    guest_id: str
    """Unique and stable: `DEPLOYABLE.ASSEMBLY`; at most 127 characters of [a-z0-9._-]."""
    deployable: str
    assembly: str
    image: Image
    identity: Identity
    memory: int = 0
    """MiB; 0 is the infrastructure's default."""
    cpus: float = 0.0
    place: str = ""
    """Where to run it, one of `places()`; empty lets the driver choose."""
    host: str = ""
    """The host that it is, by its name in the configuration, where guests are hosts that are there already."""
    digest: str = ""
    """Digest of what the guest is made from. When the existing guest's differs, `start` makes it anew."""
    start_timeout: float = 120.0
    saved_state: bool = False
    """Restore it from its own saved state instead of booting it, where the infrastructure can
    (`Capability.SAVED_STATE`): its disk begins anew at each start."""
    seed: tuple[SeedFile, ...] = ()
    """Files that this guest alone gets when it is made."""
    address: str = ""
    """The address that it shall have, of the infrastructure's network; empty leaves it to that. Permanent
    InfrastructureError when it can not have it. No part of `digest`."""
    addresses: tuple[str, ...] = ()
    """Further addresses, `ADDRESS/PREFIX`, given to it at every start; no part of `digest`."""
    firewall: tuple[FirewallRule, ...] | None = None
    """What may reach it, set at every start; None lets everything pass; no part of `digest`."""
    interfaces: tuple[Interface, ...] = ()
    """Networks of stacks that it is in; no part of `digest`."""
    groups: tuple[str, ...] = ()
    """Names by which rules of other guests mean this one; no part of `digest`."""
    volumes: tuple[AttachedVolume, ...] = ()
    """Disks that outlive it, attached at every start; no part of `digest`."""


class GuestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one guest."""

    guest_id: str
    state: GuestState
    address: str = ""
    """IP address; empty while it has none."""
    port_map: dict[int, tuple[str, int]] = {}
    """Guest port → (address, port) to use from this host, where the guest is only reachable by forwarded ports."""
    place: str = ""
    digest: str = ""
    """The `GuestSpec.digest` it was made with."""
    boot_id: str = ""
    """Changes with every start of the guest."""

    def reach(self, port: int) -> tuple[str, int]:
        """Return the address and port under which this host reaches a port of the guest."""
        return self.port_map.get(port, (self.address, port))


class GuestEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened to a guest that we may or may not have asked for."""

    guest_id: str
    state: GuestState
    reason: str = ""
    """`crashed`, `shutdown`, `killed`, … as far as the infrastructure tells."""


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a command in a guest."""

    returncode: int
    stdout: bytes = b""
    stderr: bytes = b""


class InfrastructureError(Exception):
    """The infrastructure did not do what was asked. `permanent` errors (quota, no such image) are not tried again."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class InfrastructureUnavailable(InfrastructureError):
    """The infrastructure's API does not answer: nothing is known, nothing may be concluded about guests."""


Run = Callable[[Sequence[str]], Awaitable[ExecResult]]
"""Runs a command in a guest; InfrastructureError or PcloudError when that can not be."""


class GuestNetwork(Protocol):
    """The network of guests, in which this host has an address: the part of an infrastructure with `Capability.NETWORK`.

    It is made where it is missing, and stays while anybody has an address in it. Errors: InfrastructureError.
    """

    async def host(self) -> str:
        """Return this host's address in it; somebody must have taken an address."""
        ...

    async def take(self, holder: str, wanted: str = "") -> str:
        """Return an address of it as ADDRESS/PREFIX, the same for the same holder until it is given back, or the one that is
        `wanted` (`Capability.FIXED_ADDRESSES`). Guests hold theirs under their id."""
        ...

    def refusal(self, address: str, own: frozenset[str]) -> str:
        """Say why an address can not be had; empty when it can. What one of `own` holds is free. Blocks no longer than a few
        small files take."""
        ...

    async def give_back(self, holder: str) -> None:
        """Give it back; no error when the holder has none."""
        ...

    async def holds(self, holder: str) -> bool:
        """Tell whether the holder has an address; a guest has one until all of it is gone."""
        ...


class Addresses(Protocol):
    """Addresses that guests can be given, of a network in which this host has none: the part of an infrastructure with
    `Capability.ADDRESSES` and without `Capability.NETWORK`. Errors: InfrastructureError."""

    async def offered(self) -> None:
        """Permanent InfrastructureError when there is nothing that gives such addresses."""
        ...

    async def take(self, holder: str, wanted: str = "") -> str:
        """As `GuestNetwork.take`."""
        ...

    def refusal(self, address: str, own: frozenset[str]) -> str:
        """As `GuestNetwork.refusal`."""
        ...

    async def give_back(self, holder: str) -> None:
        """Give it back, whoever has it; no error when the holder has none."""
        ...


class Changes(Protocol):
    """Changes of guests that run: the part of an infrastructure with `Capability.FIREWALL` or `Capability.ADDRESSES`."""

    async def settle(self, guest_id: str, wanted: Assembly, run: Run) -> None:
        """Bring a guest that runs to the addresses and firewall of its definition, without a restart; `run` is used where
        that takes a command in it. One that does not run gets them when it starts. InfrastructureError."""
        ...


class Bounded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a guest's limits."""

    changed: tuple[str, ...] = ()
    """What was changed at once, in words; empty when the guest had it already, or does not run."""
    later: tuple[str, ...] = ()
    """What the guest has from its next start on, in words."""


class Limits(Protocol):
    """Memory and CPU limits of guests that run: the part of an infrastructure with `Capability.LIMITS`."""

    async def bound(self, guest_id: str, *, memory: int, cpus: float) -> Bounded:
        """Bring a guest that runs to these limits (MiB and cores; 0 is the infrastructure's default) without a restart: all
        of them, or none. What it has already is not touched; one that does not run gets them when it starts.
        InfrastructureError when it can not have them, such as less memory than it uses now."""
        ...


class Volumes(Protocol):
    """Disks that outlive the guests that have them: the part of an infrastructure with `Capability.VOLUMES`.

    A guest has the volumes of `GuestSpec.volumes` from its start until it is deleted or `attach` says otherwise, whether it
    runs or not; one guest at a time has a volume. Errors: InfrastructureError.
    """

    def open(self) -> None:
        """Follow, from now on, what guests do with their volumes, where that is needed."""
        ...

    async def close(self) -> None:
        """Stop following; volumes stay as they are."""
        ...

    async def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow to it; permanent InfrastructureError when it would shrink."""
        ...

    async def delete(self, volume: str) -> None:
        """Remove a volume and what is in it; no error when there is none. InfrastructureError while a guest has it."""
        ...

    async def holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and the guest that has it, empty when none has."""
        ...

    async def attach(self, guest_id: str, wanted: Sequence[AttachedVolume]) -> None:
        """Give a guest these volumes and no others, at once where it runs. One that is not there gets them when it starts.
        InfrastructureError when another guest has one of them."""
        ...


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as it is."""

    volume: str
    size: int
    """Bytes."""
    taken: int
    """Bytes of its storage that it takes now."""
    holder: str = ""
    """The guest that has it; empty when none has."""


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a volume."""

    snapshot: str
    volume: str
    """What it is of; empty when that is not known."""
    size: int
    """Bytes."""
    taken: int
    """Bytes of its storage; what it shares with others is counted for each."""
    created: float
    """Wall-clock time."""
    note: str = ""
    """For whom it was made."""


@runtime_checkable
class Snapshots(Protocol):
    """What the volumes of an infrastructure with `Capability.SNAPSHOTS` are besides. Errors: InfrastructureError."""

    async def take(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has; does nothing when there is such a snapshot."""
        ...

    async def restore(self, snapshot: str, volume: str, size: int) -> None:
        """Make a volume that begins as a snapshot, of `size` bytes (0: the snapshot's), or let one that is there grow."""
        ...

    async def all_snapshots(self) -> list[SnapshotInfo]:
        """Return what snapshots there are."""
        ...

    async def all_volumes(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        ...

    async def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot; no error when there is none."""
        ...


class Infrastructure(Protocol):
    """One way to run guests. Errors: InfrastructureError, and InfrastructureUnavailable when its API is away."""

    name: str
    """The word used in manifests."""
    capabilities: frozenset[Capability]

    async def places(self) -> Sequence[str]:
        """Return the names of the hosts or zones where guests can run, at least one."""
        ...

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return all guests of ours, in one call where the infrastructure has one."""
        ...

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return what is known of one guest; state ABSENT when there is none."""
        ...

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Make the guest where needed, start it, and return once it has an address. A guest that runs already with the
        same digest is left alone, wherever it is; with another digest it is destroyed and made anew. One that does not run
        and is at another place than `spec.place` is made anew there, where the driver can, and nothing is left where it was;
        `GuestInfo.place` says where it is."""
        ...

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Shut down in order, destroy after `timeout` seconds; return when it is seen to be gone. Its disk stays."""
        ...

    async def destroy(self, guest_id: str) -> None:
        """End the guest at once and return only when it is *seen* to be gone (confirmed isolation). Its disk stays."""
        ...

    async def delete(self, guest_id: str) -> None:
        """Destroy the guest and remove everything of it: disk, address, definition."""
        ...

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Ask for a second opinion on a guest whose transport is silent. Never raises for a hung guest."""
        ...

    def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield changes of guests of ours as they happen, until closed. May yield the same state twice."""
        ...

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest, without a shell. Output is bounded to 1 MiB a stream."""
        ...

    async def console(self, guest_id: str) -> bytes:
        """Return the newest part (64 KiB at most) of the guest's console log."""
        ...

    async def close(self) -> None:
        """Release what the driver holds; guests go on running."""
        ...


@runtime_checkable
class HasNetwork(Protocol):
    """What a driver with `Capability.NETWORK` is beside an `Infrastructure`."""

    network: GuestNetwork


@runtime_checkable
class HasAddresses(Protocol):
    """What a driver with `Capability.ADDRESSES` and without `Capability.NETWORK` is beside an `Infrastructure`."""

    addresses: Addresses


@runtime_checkable
class HasChanges(Protocol):
    """What a driver with `Capability.FIREWALL` or `Capability.ADDRESSES` is beside an `Infrastructure`."""

    changes: Changes


@runtime_checkable
class HasLimits(Protocol):
    """What a driver with `Capability.LIMITS` is beside an `Infrastructure`."""

    limits: Limits


@runtime_checkable
class HasVolumes(Protocol):
    """What a driver with `Capability.VOLUMES` is beside an `Infrastructure`."""

    volumes: Volumes
