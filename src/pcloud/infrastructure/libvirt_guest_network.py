"""The libvirt network as stacks use it: this host's address, further addresses, changes of running guests.

An address that is kept is a `host` entry of the network, as a guest's own is, so that the network stays while somebody has
one. Concurrency: blocking parts run in the connection's threads; calls for one guest never overlap.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pcloud.environment.infrastructure import GuestState, InfrastructureError, Run
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure import libvirt_firewall as firewall
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_network import Networks
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.model.deployable import Assembly
from pcloud.model.errors import PcloudError

_PATIENCE = 120.0
"""Seconds in which a guest that runs must take a command; one that boots does not yet."""
_PAUSE = 0.5
_NOT_FIXED = "addresses of machines are chosen here, none can be asked for"


class _Address(msgspec.Struct, frozen=True):
    local: str
    prefixlen: int


class _Interface(msgspec.Struct, frozen=True):
    """What `ip -j addr` says of one interface."""

    addr_info: tuple[_Address, ...] = ()

    def addresses(self, subnet: ipaddress.IPv4Network, own: str) -> list[ipaddress.IPv4Interface]:
        """Return its addresses in the network but the guest's own; ValueError when it has something else."""
        found = [ipaddress.IPv4Interface((each.local, each.prefixlen)) for each in self.addr_info]
        return [each for each in found if each.ip in subnet and str(each.ip) != own]


_shown = msgspec.json.Decoder(tuple[_Interface, ...])


class LibvirtGuestNetwork:
    """The network of one driver. Implements `GuestNetwork` and `Changes`."""

    def __init__(
        self,
        settings: LibvirtSettings,
        connection: LibvirtConnection,
        networks: Networks,
        unused: Callable[[Any], bool],
    ) -> None:
        """`unused` tells whether no guest needs the network."""
        self._settings = settings
        self._libvirt = connection
        self._networks = networks
        self._unused = unused

    async def host(self) -> str:
        """Return the network's gateway, which is libvirtd's host."""
        return (await self._view()).gateway

    def refusal(self, address: str, own: frozenset[str]) -> str:
        """No address can be asked for."""
        return _NOT_FIXED

    async def take(self, holder: str, wanted: str = "") -> str:
        """Reserve an address for the holder, the same again while it has it."""
        if wanted:
            raise InfrastructureError(_NOT_FIXED, permanent=True)
        address = await self._libvirt.call(lambda c: self._networks.reserve(c, self._name(holder)))
        return f"{address}/{(await self._view()).prefix}"

    async def give_back(self, holder: str) -> None:
        """Give the holder's address back, and with the last one the network, where we made it."""

        def release(connection: Any) -> None:
            self._networks.release(connection, self._name(holder))
            self._networks.remove_unused(connection, lambda: self._unused(connection))

        await self._libvirt.call(release)

    async def holds(self, holder: str) -> bool:
        """Tell whether the holder has an address, or is a guest of which something is left."""
        name = self._name(holder)

        def look(connection: Any) -> bool:
            view = self._networks.view(connection)
            leased = view is not None and xml.mac_address(name) in view.leases
            return leased or domains.find(connection, name) is not None

        return await self._libvirt.call(look)

    async def settle(self, guest_id: str, wanted: Assembly, run: Run) -> None:
        """Change the guest's filter at its port of the host, and its addresses by commands in it."""
        name = self._name(guest_id)
        if await self._libvirt.call(lambda c: domains.find(c, name)) is None:
            return
        host = await self.host()
        await self._libvirt.call(lambda c: firewall.settle(c, name, wanted.firewall, host))
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            info = await self._libvirt.call(lambda c: domains.look(c, name, guest_id))
            if info.state is not GuestState.RUNNING:
                return  # it gets them when it starts
            try:
                await self._addresses(info.address, wanted.addresses, run)
                return
            except (InfrastructureError, PcloudError) as problem:
                if asyncio.get_running_loop().time() > deadline:
                    raise InfrastructureError(f"the guest does not take its addresses: {problem}") from problem
            await asyncio.sleep(_PAUSE)

    async def _addresses(self, own: str, wanted: Sequence[str], run: Run) -> None:
        subnet = (await self._view()).subnet
        shown = await run(["ip", "-j", "-4", "addr", "show", "dev", "eth0"])
        if shown.returncode:
            raise InfrastructureError(f"ip: {shown.stderr.decode(errors='replace').strip()[-300:]}")
        try:
            found = [
                each.with_prefixlen for entry in _shown.decode(shown.stdout) for each in entry.addresses(subnet, own)
            ]
        except (msgspec.DecodeError, ValueError) as problem:  # the guest may say what it likes
            raise InfrastructureError(f"the guest does not tell its addresses: {problem}") from problem
        now = set(found)
        changes = [("add", each) for each in wanted if each not in now]
        changes += [("del", each) for each in now if each not in wanted]
        for word, address in changes:
            done = await run(["ip", "addr", word, address, "dev", "eth0"])
            if done.returncode:
                said = done.stderr.decode(errors="replace").strip()[-300:]
                raise InfrastructureError(f"ip addr {word} {address}: {said}")

    async def _view(self) -> xml.NetworkView:
        view = await self._libvirt.call(self._networks.view)
        if view is None:
            raise InfrastructureError(f"this host has no address in libvirt's network {self._settings.network}")
        return view

    def _name(self, holder: str) -> str:
        return self._settings.prefix + holder
