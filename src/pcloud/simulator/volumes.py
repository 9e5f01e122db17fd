"""Volumes of simulated guests: which there are, and who has them. Concurrency: as `pcloud.simulator.world`."""

from __future__ import annotations

from collections.abc import Sequence

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.model.deployable import AttachedVolume
from pcloud.simulator.world import World


class SimulatedVolumes:
    """Implements `pcloud.environment.infrastructure.Volumes` over a World."""

    def __init__(self, world: World) -> None:
        self._world = world

    def open(self) -> None:
        """Nothing happens to simulated volumes."""

    async def close(self) -> None:
        """Hold nothing."""

    async def create(self, volume: str, size: int) -> None:
        """Make a volume, or let one grow."""
        if self._world.volumes.get(volume, 0) > size:
            raise InfrastructureError(f"volume {volume} can not shrink to {size}", permanent=True)
        self._world.volumes[volume] = size

    async def delete(self, volume: str) -> None:
        """Remove a volume."""
        if holder := self._holder(volume):
            raise InfrastructureError(f"volume {volume} is attached to {holder}")
        self._world.volumes.pop(volume, None)

    async def holder(self, volume: str) -> tuple[bool, str]:
        """Return whether there is such a volume, and the guest that has it."""
        return volume in self._world.volumes, self._holder(volume)

    async def attach(self, guest_id: str, wanted: Sequence[AttachedVolume]) -> None:
        """Give a guest these volumes and no others."""
        if guest := self._world.guests.get(guest_id):
            self.claim(guest_id, wanted)
            guest.volumes = tuple(wanted)

    def claim(self, guest_id: str, wanted: Sequence[AttachedVolume]) -> None:
        """Refuse what is not there, and what another guest has."""
        for one in wanted:
            if one.volume not in self._world.volumes:
                raise InfrastructureError(f"there is no volume {one.volume}")
            if (holder := self._holder(one.volume)) not in ("", guest_id):
                raise InfrastructureError(f"volume {one.volume} is attached to {holder}")

    def _holder(self, volume: str) -> str:
        for guest in self._world.guests.values():
            if any(one.volume == volume for one in guest.volumes):
                return guest.guest_id
        return ""
