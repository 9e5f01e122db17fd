"""What stacks ask of the machinery below them: deployables that are kept alive, and a few things around them.

`pcloud.cpe`'s engine is behind it in the daemon (an adapter there); tests have their own. Every method may be called again
after a crash and then finishes what the first call began. Errors: PcloudError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from pcloud.environment.infrastructure import ExecResult, SnapshotInfo, VolumeInfo
from pcloud.events.event import Event
from pcloud.model.deployable import Deployable
from pcloud.model.errors import PcloudError, Unavailable
from pcloud.model.status import DeployableStatus
from pcloud.objects.store import ObjectStore


class Platform(Protocol):
    """Keeps deployables alive."""

    capabilities: frozenset[str]
    """`guests`, and what of `pcloud.environment.infrastructure.Capability` these can have. Types that need more are refused
    before anything starts."""

    infrastructure: str
    """Where guests are made."""
    transport: str
    """`remote`, or `none` where nothing in guests is reached: servers are complete when their infrastructure says so."""
    start_timeout: float
    """Seconds that its guests may need until their agent answers."""
    catalogue: Any
    """What image names and instance types of templates mean here (`guests.catalogue.Catalogue`)."""
    networks: Any
    """Makes networks and routers (`guests.networks.GuestNetworks`), where it can."""
    objects: ObjectStore
    """Where buckets and containers are made, and why there are none where there are none."""

    def why(self, lacking: Sequence[str]) -> str:
        """Return why there is not what `capabilities` lacks, in a sentence."""
        ...

    def images(self) -> Sequence[str]:
        """Return the names of the images (JEOS) that guests can be made from."""
        ...

    def read(self, document: Mapping[str, Any]) -> Deployable:
        """Read a manifest that stands in a template; InvalidDocument with every problem."""
        ...

    async def prepare(self) -> str:
        """Be reachable for guests before the first one is made; return the URL of the CloudFormation endpoint for them,
        empty when there are no guests."""
        ...

    async def release(self) -> None:
        """No stack has guests any more: what `prepare` made may go."""
        ...

    async def holds_guest(self, deployable: str, assembly: str) -> bool:
        """Return whether anything of a guest is left."""
        ...

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        """Take an address of the guests' network (`ADDRESS/PREFIX`), the same for the same holder, or the one that is asked
        for; PcloudError when it is somebody else's."""
        ...

    def address_refusal(self, address: str, guests: Sequence[tuple[str, str]], holders: Sequence[str]) -> str:
        """Say why an address of the guests' network can not be had; empty when it can. What one of these guests (deployable
        and assembly) has, or one of these holders of addresses, is free. Blocks no longer than a few small files take."""
        ...

    async def offers_addresses(self) -> None:
        """PcloudError when addresses can not be had though `capabilities` say so: asked before anything starts."""
        ...

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        """Give it back; no error when there is none. `infrastructure` is where it was taken, if that is known."""
        ...

    async def settle(self, deployable: str, assembly: str) -> None:
        """Bring a running guest's addresses, firewall and volumes to its stored definition, without a restart."""
        ...

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        """Make a volume of that size (GiB), empty or as a snapshot is, or let one grow to it; 0 is the snapshot's size.
        PcloudError when that can not be."""
        ...

    async def snapshot_volume(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has; PcloudError when that can not be."""
        ...

    async def volumes(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        ...

    async def snapshots(self) -> list[SnapshotInfo]:
        """Return what snapshots of volumes there are."""
        ...

    async def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot; no error when there is none."""
        ...

    async def delete_volume(self, volume: str) -> None:
        """Remove a volume and what is in it; no error when there is none."""
        ...

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and the guest (`DEPLOYABLE.ASSEMBLY`) that has it, empty when none has."""
        ...

    async def deployables(self) -> Sequence[str]:
        """Return the names of the deployables that there are."""
        ...

    async def definition(self, name: str) -> Deployable | None:
        """Return the stored definition of a deployable; None when there is none."""
        ...

    async def apply(self, deployable: Deployable) -> None:
        """Store a deployable, or its changed form (only what changed is touched), and start it; one that is stopped stays
        so when it only loses something, as a suspended stack's that is being deleted. Returns when stored."""
        ...

    async def stop(self, name: str) -> None:
        """Stop a deployable's guests, in order; they keep their disks. Returns when they are stopped; no error when there
        is none."""
        ...

    async def start(self, name: str) -> None:
        """Have a stopped deployable started, in order; no error when there is none. Returns when stored."""
        ...

    async def status(self, name: str) -> DeployableStatus | None:
        """Return its state; None when there is none."""
        ...

    async def delete(self, name: str) -> None:
        """Stop it, remove its guests and all of it; returns when it is gone. A deployable that is not there is no error."""
        ...

    async def recover(self, deployable: str, assembly: str, *, reason: str) -> None:
        """Restart one assembly's guest and its resources through the engine, in dependency order."""
        ...

    async def execute(
        self, deployable: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Yield what happens to deployables from now on."""
        ...


class NoPlatform:
    """A platform without guests: templates are read, planned and their value types work; types with guests are refused
    before anything starts, so that nothing but `images` and `capabilities` is ever asked."""

    capabilities: frozenset[str] = frozenset()
    infrastructure = ""
    transport = "remote"
    start_timeout = 0.0
    catalogue: Any = None
    networks: Any = None
    objects = ObjectStore()

    def why(self, lacking: Sequence[str]) -> str:
        """Say that it has no guests."""
        return "it has no guests"

    def read(self, document: Mapping[str, Any]) -> Deployable:
        """Refuse."""
        raise _refusal()

    async def prepare(self) -> str:
        """Return no URL."""
        return ""

    async def release(self) -> None:
        """Do nothing."""

    async def holds_guest(self, deployable: str, assembly: str) -> bool:
        """Return False."""
        return False

    async def create_volume(self, volume: str, gigabytes: int, snapshot: str = "") -> None:
        """Refuse."""
        raise _refusal()

    async def snapshot_volume(self, volume: str, snapshot: str, note: str) -> None:
        """Refuse."""
        raise _refusal()

    async def volumes(self) -> list[VolumeInfo]:
        """There is none."""
        return []

    async def snapshots(self) -> list[SnapshotInfo]:
        """There is none."""
        return []

    async def delete_snapshot(self, snapshot: str) -> None:
        """Do nothing."""

    async def delete_volume(self, volume: str) -> None:
        """Do nothing."""

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        """There is none."""
        return False, ""

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        """Refuse."""
        raise _refusal()

    def address_refusal(self, address: str, guests: Sequence[tuple[str, str]], holders: Sequence[str]) -> str:
        """Refuse."""
        return "this platform has no guests"

    async def offers_addresses(self) -> None:
        """Do nothing: types that need some are refused."""

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        """Do nothing."""

    async def settle(self, deployable: str, assembly: str) -> None:
        """Do nothing."""

    def images(self) -> Sequence[str]:
        """Return no image."""
        return ()

    async def deployables(self) -> Sequence[str]:
        """There is none."""
        return ()

    async def definition(self, name: str) -> Deployable | None:
        """Return None."""
        return None

    async def apply(self, deployable: Deployable) -> None:
        """Refuse."""
        raise _refusal()

    async def stop(self, name: str) -> None:
        """Do nothing: there is none."""

    async def start(self, name: str) -> None:
        """Do nothing: there is none."""

    async def status(self, name: str) -> DeployableStatus | None:
        """Return None."""
        return None

    async def delete(self, name: str) -> None:
        """Do nothing: there is none."""

    async def recover(self, deployable: str, assembly: str, *, reason: str) -> None:
        """Refuse."""
        raise _refusal()

    async def execute(
        self, deployable: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Refuse."""
        raise _refusal()

    def events(self) -> AsyncIterator[Event]:
        """Refuse."""
        raise _refusal()


def _refusal() -> PcloudError:
    return Unavailable.of("NO_GUESTS", "this platform has no guests")
