"""Where guests reach this daemon: the CloudFormation endpoint, on the address that this host has in the guests' network.

Listens only while some stack may have guests. The network is held by an address of our own, so that it is there before the
first guest (whose user data names the address) and stays until the last stack is gone. Every request is signed, carries a
token, or is a URL with its own proof; guests of other deployables in the network have none of these.
Concurrency: `open` and `close` hold one lock; both may be called again at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from pcloud.environment.infrastructure import GuestNetwork, InfrastructureError
from pcloud.model.errors import Unavailable

_log = logging.getLogger(__name__)
HOLDER = "_stacks"
"""Who holds the address; no guest's id."""


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
    """The address for guests in one network."""

    def __init__(self, network: GuestNetwork, ports: Sequence[int], serve: Callable[[str, int], Server]) -> None:
        """The first port is that of the URL that guests are given; the others serve the same. `serve` makes the server."""
        self._network = network
        self._ports = ports
        self._lock = asyncio.Lock()
        self._servers: list[Server] = []
        self._serve = serve

    async def open(self) -> str:
        """Listen, unless that is so already; return the URL. Unavailable when there is no network or no port."""
        async with self._lock:
            if self._servers:
                return self._servers[0].url
            try:
                await self._network.take(HOLDER)
                host = await self._network.host()
            except InfrastructureError as problem:
                raise Unavailable.of("NO_BRIDGE", f"the guests' network can not be made: {problem}") from problem
            servers = [self._serve(host, port) for port in self._ports]
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

    async def close(self, *, leave: bool) -> None:
        """Stop listening. `leave` keeps the network for the next start."""
        async with self._lock:
            for server in self._servers:
                await server.close()
            self._servers = []
            if not leave:
                try:
                    await self._network.give_back(HOLDER)
                except InfrastructureError as problem:  # it is away: the next stack's end gives the address back
                    _log.warning("the guests' network can not be left: %s", problem)
