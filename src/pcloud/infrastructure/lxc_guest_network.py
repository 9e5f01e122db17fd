"""LXC's bridge as stacks use it: this host's address, further addresses, changes of running guests.

Concurrency: lives on one event loop; the bridge's own locks stand between processes. A change waits for the one before.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from pcloud.environment.infrastructure import InfrastructureError, Run
from pcloud.infrastructure import lxc_live
from pcloud.infrastructure.lxc_network import Bridge, Leases, Network
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.model.deployable import Assembly


class LxcGuestNetwork:
    """The bridge of one state folder. Implements `GuestNetwork` and `Changes`."""

    def __init__(self, settings: LxcSettings) -> None:
        self._guests = Path(settings.state) / "guests"
        self._leases = Leases(Path(settings.state))
        self._bridge = Bridge(settings, self._leases)
        self._lock = asyncio.Lock()

    async def host(self) -> str:
        """Return the bridge's address."""
        return str((await self._bridge.ensure()).gateway)

    def planned(self) -> Network:
        """Return the guests' network, or what it would be; InfrastructureError when none can be."""
        return self._bridge.planned()

    def current(self) -> Network | None:
        """Return the guests' network, None where there is none."""
        return self._bridge.read()

    def refusal(self, address: str, own: frozenset[str]) -> str:
        """Say why an address can not be had; what one of `own` holds is free."""
        try:
            holder = self._leases.holder(self._bridge.planned().index(address))
        except InfrastructureError as problem:
            return str(problem)
        return f"{address} is taken by {holder}" if holder and holder not in own else ""

    async def take(self, holder: str, wanted: str = "") -> str:
        """Return the holder's address, a new one where it has none, or the one that is asked for."""
        async with self._lock:
            try:
                if wanted:
                    index = self._leases.claim(holder, self._bridge.planned().index(wanted))
                else:
                    index = self._leases.take(holder, self._bridge.size())  # before the bridge: see lxc_network
                network = await self._bridge.ensure()
            except OSError as problem:
                raise InfrastructureError(f"the guests' bridge can not be made: {problem}") from problem
            return network.address(index).with_prefixlen

    async def give_back(self, holder: str) -> None:
        """Give the holder's address back, and with the last one the bridge."""
        async with self._lock:
            if holder in self._leases.all():
                self._leases.release(holder)
                await self._bridge.remove_unused()

    async def holds(self, holder: str) -> bool:
        """Tell whether the holder has an address; of a guest, it is the last that its deletion gives back."""
        return holder in await asyncio.to_thread(self._leases.all)

    async def settle(self, guest_id: str, wanted: Assembly, run: Run) -> None:
        """Change the guest from this host; no command in it is needed."""
        folder, network = self._guests / guest_id, self._bridge.read()
        if network is not None and await asyncio.to_thread(folder.is_dir):
            await lxc_live.settle(folder, wanted, network)
