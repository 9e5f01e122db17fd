"""Changes of servers that run, for stacks: their security groups and floating addresses.

Concurrency: calls for one guest never overlap; blocking calls run in the session's threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from pcloud.environment.infrastructure import Run
from pcloud.infrastructure import openstack_firewall as firewall
from pcloud.infrastructure.openstack_addresses import NoPort, OpenStackAddresses
from pcloud.infrastructure.openstack_servers import Servers
from pcloud.infrastructure.openstack_session import Clash, OpenStackSession
from pcloud.infrastructure.openstack_settings import OpenStackSettings
from pcloud.model.deployable import Assembly

_PAUSE = 0.5


class OpenStackChanges:
    """Implements `pcloud.environment.infrastructure.Changes` for one project."""

    def __init__(
        self, session: OpenStackSession, servers: Servers, settings: OpenStackSettings, addresses: OpenStackAddresses
    ) -> None:
        self._addresses = addresses
        self._session = session
        self._servers = servers
        self._settings = settings

    async def settle(self, guest_id: str, wanted: Assembly, run: Run) -> None:
        """Change the rules of the guest's security group, and which floating addresses it has."""
        name = self._settings.prefix + guest_id
        server = await self._servers.one(name)
        if server is not None:
            await self._session.call(partial(firewall.settle, name=name, server=server.id, rules=wanted.firewall))
        if self._settings.floating_network or wanted.addresses:
            await self._give(name, wanted.addresses)

    async def _give(self, name: str, addresses: Sequence[str]) -> None:
        """Bring a server to its floating addresses, once it has a port; one that is not there gets them when it starts."""
        deadline = asyncio.get_running_loop().time() + self._settings.delete_timeout
        while (server := await self._servers.one(name)) is not None:
            try:
                await self._addresses.settle(server.id, addresses)
                return
            except NoPort:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_PAUSE)

    async def remove(self, guest_id: str) -> None:
        """Remove the guest's security group. Nova may still be giving back the port of the server that had it."""
        name = self._settings.prefix + guest_id
        deadline = asyncio.get_running_loop().time() + self._settings.delete_timeout
        while True:
            try:
                await self._session.call(partial(firewall.remove, name=name))
                return
            except Clash:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_PAUSE)
