"""A platform that keeps definitions in memory, and the guests that are in them."""

from __future__ import annotations

import asyncio

from pcloud.cpe.settings import StackSettings
from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.status import AssemblyStatus, DeployableStatus
from pcloud.stacks.guests.catalogue import Catalogue
from tests.stacks.fake_platform import NotingPlatform

JEOS = {
    "bookworm": frozenset({"dbus"}),
    "bookworm-cfntools": frozenset({"dbus", "cloud-init", "heat-cfntools"}),
    "noble": frozenset({"dbus"}),
}


class MemoryPlatform(NotingPlatform):
    """Keeps definitions; whatever is stored runs at once, but for guests whose images fail."""

    capabilities = frozenset({"guests", "access", "addresses", "network", "firewall", "firewall-groups", "resize"})

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, Deployable] = {}
        self.applied: list[Deployable] = []
        self.settled: list[tuple[str, str]] = []
        self.failing = ""
        self.hold: asyncio.Event | None = None
        self.catalogue = Catalogue(StackSettings(), JEOS)

    async def deployables(self) -> list[str]:
        return sorted(self.stored)

    async def definition(self, name: str) -> Deployable | None:
        await asyncio.sleep(0)
        return self.stored.get(name)

    async def apply(self, deployable: Deployable) -> None:
        await asyncio.sleep(0.001)
        self.stored[deployable.name] = deployable
        self.applied.append(deployable)

    async def status(self, name: str) -> DeployableStatus | None:
        if (self.hold is not None and not self.hold.is_set()) or name not in self.stored:
            return None
        state = ResourceState.FAILED if self.failing else ResourceState.RUNNING
        guests = tuple(
            AssemblyStatus(name=one.name, state=ResourceState.RUNNING, address="10.88.0.9", answers=True, since=9e9)
            for one in self.stored[name].assemblies
        )
        return DeployableStatus(name=name, state=state, reason=self.failing, assemblies=() if self.failing else guests)

    async def holds_guest(self, deployable: str, assembly: str) -> bool:
        found = self.stored.get(deployable)
        return found is not None and assembly in {one.name for one in found.assemblies}

    async def delete(self, name: str) -> None:
        self.stored.pop(name, None)

    async def settle(self, deployable: str, assembly: str) -> None:
        self.settled.append((deployable, assembly))


def guests(platform: MemoryPlatform) -> dict[str, Assembly]:
    """Every guest by the part of its name that is the resource's."""
    return {one.name.rpartition("-")[0]: one for each in platform.stored.values() for one in each.assemblies}
