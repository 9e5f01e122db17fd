"""Networks, subnets and routers kept in memory, and a platform that has them beside its guests."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

from pcloud.infrastructure.lxc_segments import Subnet
from pcloud.model.errors import Unavailable
from tests.stacks.memory_platform import MemoryPlatform


class MemoryNetworks:
    """What a host would have of networks. Whatever needs something that is not there is an error."""

    def __init__(self) -> None:
        self.networks: set[str] = set()
        self.subnets: dict[str, Subnet] = {}
        self.leases: dict[tuple[str, str], str] = {}
        self.routers: dict[str, tuple[list[str], bool, list[tuple[str, str]]]] = {}
        self.ways: dict[str, list[tuple[str, str]] | None] = {}
        self.told = 0

    def refusal(self, cidr: str) -> str:
        own = ipaddress.IPv4Network("10.88.0.0/16")
        return "overlaps the guests' own" if own.overlaps(ipaddress.IPv4Network(cidr, strict=False)) else ""

    async def make_network(self, network: str) -> None:
        self.networks.add(network)

    async def remove_network(self, network: str) -> None:
        self.networks.discard(network)

    async def make_subnet(self, subnet: Subnet) -> None:
        assert subnet.network in self.networks
        for other in self.subnets.values():
            if other.name != subnet.name and other.network == subnet.network and other.range.overlaps(subnet.range):
                raise Unavailable.of("NO_NETWORK", "it overlaps another one")
        self.subnets[subnet.name] = subnet

    async def remove_subnet(self, subnet: str) -> None:
        self.subnets.pop(subnet, None)
        for subnets, _, _ in self.routers.values():
            if subnet in subnets:
                subnets.remove(subnet)

    async def take(self, subnet: str, holder: str, wanted: str = "") -> str:
        span, pools = self.subnets[subnet].range, self.subnets[subnet].pools
        first = ipaddress.IPv4Address(pools[0][0]) if pools else span[2]
        free = (str(each) for each in span.hosts() if each >= first and str(each) not in self.leases.values())
        return f"{self.leases.setdefault((subnet, holder), wanted or next(free))}/{span.prefixlen}"

    async def give_back(self, subnet: str, holder: str) -> None:
        self.leases.pop((subnet, holder), None)

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
        await asyncio.sleep(0)
        assert set(subnets) <= self.subnets.keys()
        self.routers[router] = (list(subnets), outside, list(floating))
        self.ways[router] = None if ways is None else sorted(ways)
        self.told += 1

    async def remove_router(self, router: str) -> None:
        await asyncio.sleep(0)
        self.routers.pop(router, None)
        self.ways.pop(router, None)

    async def stands(self, name: str) -> bool:
        return name in self.networks or name in self.routers

    @property
    def empty(self) -> bool:
        return not (self.networks or self.subnets or self.leases or self.routers)


class Networked(MemoryPlatform):
    """Guests and networks in memory."""

    capabilities = frozenset({"guests", "addresses", "network", "fixed-addresses", "firewall", "networks"})

    def __init__(self) -> None:
        super().__init__()
        self.networks = MemoryNetworks()
        self.outer: dict[str, str] = {}

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        return f"{self.outer.setdefault(holder, wanted or f'10.88.1.{len(self.outer) + 1}')}/16"

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        self.outer.pop(holder, None)
