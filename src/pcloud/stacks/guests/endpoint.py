"""Where guests reach this daemon: the CloudFormation endpoint, on the address that the guests' bridge gives this host.

Listens only while some stack may have guests. The bridge is held by a lease of our own, taken before it is made, so that it
is there before the first guest (whose user data names the address) and stays until the last stack is gone. Every request is
signed, carries a token, or is a URL with its own proof; guests of other deployables on the bridge have none of these.
Concurrency: `open` and `close` hold one lock; both may be called again at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.lxc_network import Bridge, Leases, Network
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.model.errors import Unavailable

HOLDER = "_stacks"
"""Who holds the lease; no guest's id."""


class Server(Protocol):
    """What listens."""

    url: str

    async def start(self) -> None:
        """Listen; PcloudError when that can not be."""
        ...

    async def close(self) -> None:
        """Stop."""
        ...


class GuestEndpoint:
    """The address for guests on LXC's bridge."""

    def __init__(self, state: Path, settings: dict[str, Any], ports: Sequence[int]) -> None:
        """The first port is that of the URL that guests are given; the others serve the same."""
        self._settings = msgspec.convert({"state": str(state), **settings}, LxcSettings)
        self._leases = Leases(state)
        self._bridge = Bridge(self._settings, self._leases)
        self._ports = ports
        self._lock = asyncio.Lock()
        self._servers: list[Server] = []
        self.serve: Callable[[str, int], Server] | None = None
        """Makes the server; set by whoever has the application."""

    async def open(self) -> str:
        """Listen, unless that is so already; return the URL. Unavailable when there is no bridge or no port."""
        async with self._lock:
            if self._servers:
                return self._servers[0].url
            if self.serve is None:
                raise Unavailable.of("NO_ENDPOINT", "there is nothing for guests to talk to")
            try:
                self._leases.take(HOLDER, self._bridge.size())
                network = await self._bridge.ensure()
            except (InfrastructureError, OSError) as problem:
                raise Unavailable.of("NO_BRIDGE", f"the guests' bridge can not be made: {problem}") from problem
            servers = [self.serve(str(network.gateway), port) for port in self._ports]
            started: list[Server] = []
            try:
                for server in servers:
                    await server.start()
                    started.append(server)
            finally:
                if len(started) < len(servers):
                    for server in started:
                        await server.close()
            self._servers = servers
            return servers[0].url

    def refusal(self, address: str, own: frozenset[str]) -> str:
        """Say why a guest of a stack can not have an address; empty when it can. What one of `own` holds is free."""
        try:
            holder = self._leases.holder(self._bridge.planned().index(address))
        except InfrastructureError as problem:
            return str(problem)
        return f"{address} is taken by {holder}" if holder and holder not in own else ""

    async def take(self, holder: str, wanted: str = "") -> str:
        """Return the holder's address in the guests' network as ADDRESS/PREFIX, a new one where it has none, or the one that
        is asked for. Unavailable when there is none or it is somebody else's."""
        async with self._lock:
            try:
                if wanted:
                    index = self._leases.claim(holder, self._bridge.planned().index(wanted))
                else:
                    index = self._leases.take(holder, self._bridge.size())
                network = await self._bridge.ensure()
            except (InfrastructureError, OSError) as problem:
                raise Unavailable.of("NO_ADDRESS", f"there is no address to be had: {problem}") from problem
            return network.address(index).with_prefixlen

    async def give_back(self, holder: str) -> None:
        """Give the holder's address back."""
        async with self._lock:
            self._leases.release(holder)
            await self._bridge.remove_unused()

    def network(self) -> Network | None:
        """Return the guests' network, None where there is none."""
        return self._bridge.read()

    def planned(self) -> Network:
        """Return the guests' network, or what it would be; InfrastructureError when none can be."""
        return self._bridge.planned()

    async def close(self, *, leave: bool) -> None:
        """Stop listening. `leave` keeps the bridge for the next start."""
        async with self._lock:
            for server in self._servers:
                await server.close()
            self._servers = []
            if not leave and HOLDER in self._leases.all():
                self._leases.release(HOLDER)
                await self._bridge.remove_unused()
