"""Servers brought from one state to another, and seen to be there: on, off, reset, gone.

Nothing is believed that a list of servers did not show. Concurrency: calls for one server never overlap; whoever waits
shares the list calls with all others. While the API is away a wait goes on, to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure.openstack_making import new_boot
from pcloud.infrastructure.openstack_servers import Server, Servers
from pcloud.infrastructure.openstack_session import Clash, Missing, OpenStackSession
from pcloud.infrastructure.openstack_settings import OpenStackSettings

_LOOK = 1.0
"""Seconds between looks at the servers while something is waited for."""
_REBOOT_TIMEOUT = 120.0


class Power:
    """Changes of state of one project's servers."""

    def __init__(self, session: OpenStackSession, servers: Servers, settings: OpenStackSettings) -> None:
        self._session = session
        self._servers = servers
        self._settings = settings

    async def on(self, server: Server) -> None:
        """Start a server that is off."""
        boot = new_boot()
        await self._session.call(lambda c: c.compute.set_server_metadata(server.id, pcloud_boot=boot))
        with contextlib.suppress(Clash):  # it is starting already
            await self._session.call(lambda c: c.compute.start_server(server.id))

    async def active(self, name: str, *, timeout: float, addressed: bool) -> Server:
        """Wait until the server runs and has an address. InfrastructureError with Nova's reason when it does not."""

        def ready(server: Server | None) -> bool:
            if server is None:
                raise InfrastructureError(f"the server of {name} vanished while it was made")
            if server.status == "ERROR":
                permanent = "uota" in server.fault
                raise InfrastructureError(f"Nova could not start {name}: {server.fault}", permanent=permanent)
            return server.status == "ACTIVE" and not server.task and (bool(server.address) or not addressed)

        try:
            server = await self.until(name, ready, timeout, "start")
        except InfrastructureUnavailable:
            raise
        except InfrastructureError:
            # One that is built for ever will never be anything else: the next start makes another.
            for stuck in (await self._servers.all()).get(name, []):
                if stuck.status == "BUILD":
                    await self.delete(stuck)
            raise
        assert server is not None
        return server

    async def reboot(self, name: str) -> None:
        """Reset a server, and return when it is ACTIVE again."""
        server = await self._servers.one(name)
        if server is None:
            raise InfrastructureError(f"there is no server {name}")
        identity, boot = server.id, new_boot()
        await self._session.call(lambda c: c.compute.reboot_server(identity, "HARD"))
        await self._session.call(lambda c: c.compute.set_server_metadata(identity, pcloud_boot=boot))
        await self.until(
            name, lambda s: s is not None and s.status == "ACTIVE" and not s.task, _REBOOT_TIMEOUT, "reboot"
        )

    async def off(self, name: str, timeout: float) -> None:
        """Power a server off, and return when Nova has seen it off. InfrastructureError for one that is in a state from
        which it can not be."""
        server = await self._servers.one(name)
        if server is None or server.status == "SHUTOFF":
            return
        identity = server.id
        if server.status in ("PAUSED", "SUSPENDED", "ERROR", "BUILD"):
            raise InfrastructureError(f"a server that is {server.status} can not be stopped")
        with contextlib.suppress(Missing):
            await self._session.call(lambda c: c.compute.stop_server(identity))
        await self.until(name, lambda s: s is None or (s.status == "SHUTOFF" and not s.task), timeout, "power off")

    async def delete(self, server: Server) -> None:
        """Delete a server and return when it is in no list any more: confirmed isolation."""
        identity = server.id

        def gone(found: dict[str, list[Server]]) -> bool:
            return all(each.id != identity for each in found.get(server.name, []))

        with contextlib.suppress(Missing):
            await self._session.call(lambda c: c.compute.delete_server(identity))
        deadline = asyncio.get_running_loop().time() + self._settings.delete_timeout
        while not gone(await self._servers.all()):
            if asyncio.get_running_loop().time() > deadline:
                raise InfrastructureError(f"server {server.name} was deleted, but still exists")
            await asyncio.sleep(_LOOK)

    async def until(self, name: str, done: Callable[[Server | None], bool], timeout: float, what: str) -> Server | None:
        """Look at the server again and again until `done`; InfrastructureError after `timeout` seconds. Times when the
        API is away do not end the wait."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            server: Server | None = None
            try:
                server = await self._servers.one(name)
                if done(server):
                    return server
            except InfrastructureUnavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            if asyncio.get_running_loop().time() > deadline:
                status = f"{server.status} {server.task}".strip() if server else "gone"
                raise InfrastructureError(f"{what} of {name} is not done after {timeout:g} s: it is {status}")
            await asyncio.sleep(_LOOK)
