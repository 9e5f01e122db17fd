"""Networks that stacks make, on the daemon's event loop: the driver's segments, and routers' addresses outside of them.

Concurrency: what blocks runs in threads; the driver lets one at a time change networks.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.lxc_guest_network import LxcGuestNetwork
from pcloud.infrastructure.lxc_router_rules import Router
from pcloud.infrastructure.lxc_segments import Segments, Subnet
from pcloud.model.errors import Unavailable

_HELD = "_router."
T = TypeVar("T")


class GuestNetworks:
    """The networks of one state folder."""

    def __init__(self, state: Path, own: LxcGuestNetwork) -> None:
        """`own` is the guests' own network."""
        self._segments = Segments(state)
        self._own = own

    def refusal(self, cidr: str) -> str:
        """Say why a network of a stack can not have these addresses; empty when it can."""
        try:
            taken = self._own.planned()
        except InfrastructureError as problem:
            return str(problem)
        if taken.network.overlaps(ipaddress.IPv4Network(cidr, strict=False)):
            return f"{cidr} overlaps the guests' own network, {taken.subnet}"
        return ""

    async def make_network(self, network: str) -> None:
        """Make a network."""
        await self._call(lambda: self._segments.make_network(network))

    async def remove_network(self, network: str) -> None:
        """Remove a network; no error when there is none."""
        await self._call(lambda: self._segments.remove_network(network))

    async def make_subnet(self, subnet: Subnet) -> None:
        """Give a network addresses; Unavailable when another part of it, or the guests' own, has some of them."""
        if why := self.refusal(subnet.cidr):
            raise Unavailable.of("NO_NETWORK", why)
        await self._call(lambda: self._segments.make_subnet(subnet))

    async def remove_subnet(self, subnet: str) -> None:
        """Take them away; no error when there are none."""
        await self._call(lambda: self._segments.remove_subnet(subnet))

    async def take(self, subnet: str, holder: str, wanted: str = "") -> str:
        """Return the holder's address in a subnet as ADDRESS/PREFIX, or the one that is asked for."""
        return await self._call(lambda: self._segments.take(subnet, holder, wanted))

    async def give_back(self, subnet: str, holder: str) -> None:
        """Give the holder's address back."""
        await self._call(lambda: self._segments.give_back(subnet, holder))

    async def put_router(
        self,
        router: str,
        subnets: Sequence[str],
        *,
        outside: bool,
        floating: Sequence[tuple[str, str]],
        ways: Sequence[tuple[str, str]] | None = None,
        within: str = "",
    ) -> None:
        """Make a router, or let it become this; `outside` leads it to the guests' own network. `ways` and `within` are those
        of `lxc_router_rules.Router`."""
        own = await self._take(router) if outside else ""
        wanted = Router(
            name=router,
            subnets=tuple(subnets),
            outside=own,
            floating=tuple(floating) if outside else (),
            ways=None if ways is None else tuple(ways),
            within=within,
        )
        await self._call(lambda: self._segments.put_router(wanted, self._own.current()))
        if not outside:
            await self._own.give_back(f"{_HELD}{router}")

    async def remove_router(self, router: str) -> None:
        """Remove a router; no error when there is none."""
        await self._call(lambda: self._segments.remove_router(router))
        await self._own.give_back(f"{_HELD}{router}")

    async def stands(self, name: str) -> bool:
        """Tell whether this host has the network or router of a name now."""
        return await self._call(lambda: self._segments.stands(name))

    async def _take(self, router: str) -> str:
        try:
            return await self._own.take(f"{_HELD}{router}")
        except InfrastructureError as problem:
            raise Unavailable.of("NO_ADDRESS", f"there is no address to be had: {problem}") from problem

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except (InfrastructureError, OSError) as problem:
            raise Unavailable.of("NO_NETWORK", str(problem)) from problem
