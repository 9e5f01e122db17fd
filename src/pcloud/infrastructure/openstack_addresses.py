"""Elastic addresses of stacks: Neutron's floating addresses, of one external network.

Owns those whose description names a holder, with the prefix of the settings: the request that makes one sets it, so that
after a crash or a lost answer it is found again, never made twice, and never left. Concurrency: calls for one holder never
overlap, nor do those for one guest; blocking calls run in the session's threads, and each may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.openstack_session import OpenStackSession
from pcloud.infrastructure.openstack_settings import OpenStackSettings

_NOT_FIXED = "addresses of OpenStack are chosen by it, none can be asked for"


class NoPort(InfrastructureError):
    """The server has no port that an address could be given to: it is being made."""


class OpenStackAddresses:
    """Implements `pcloud.environment.infrastructure.Addresses` for one project."""

    def __init__(self, session: OpenStackSession, settings: OpenStackSettings) -> None:
        self._session = session
        self._settings = settings
        self._ours = f"pacemaker-cloud: {settings.prefix}"

    async def offered(self) -> None:
        """Permanent InfrastructureError when the settings name no network of the cloud that has such addresses."""
        await self._session.call(partial(external, wanted=self._settings.floating_network))

    async def take(self, holder: str, wanted: str = "") -> str:
        """Take an address, the same again for the same holder. InfrastructureError: permanent when the quota is used up."""
        if wanted:
            raise InfrastructureError(_NOT_FIXED, permanent=True)
        network = self._settings.floating_network
        address = await self._session.call(partial(_take, mark=self._ours + holder, network=network))
        return f"{address}/32"

    def refusal(self, address: str, own: frozenset[str]) -> str:
        """No address can be asked for."""
        return _NOT_FIXED

    async def give_back(self, holder: str) -> None:
        """Give the holder's address back, whoever has it; no error when there is none."""
        await self._session.call(partial(_give_back, mark=self._ours + holder))

    async def settle(self, server: str, wanted: Sequence[str], *, move: bool = True) -> None:
        """Bring a server (its id) to these addresses, `ADDRESS/PREFIX`, and to no others of ours. Without `move` those
        that another server has stay there: they are on their way from this one to that. NoPort."""
        addresses = [each.partition("/")[0] for each in wanted]
        await self._session.call(partial(_settle, server=server, wanted=addresses, ours=self._ours, move=move))


def external(connection: Any, wanted: str) -> Any:
    """Return the network that gives floating addresses, by name or id; permanent InfrastructureError when it does not."""
    found = connection.network.find_network(wanted) if wanted else None
    if found is None:
        raise InfrastructureError(f"there is no network {wanted!r} for floating addresses", permanent=True)
    if not found.is_router_external:
        raise InfrastructureError(
            f"the network {wanted!r} is no external one: it has no floating addresses", permanent=True
        )
    return found


def _of(connection: Any, mark: str) -> list[Any]:
    """Return the addresses with a description, oldest first."""
    found = [each for each in connection.network.ips(description=mark) if each.description == mark]
    return sorted(found, key=lambda each: (str(each.created_at or ""), each.id))


def _take(connection: Any, mark: str, network: str) -> str:
    if not _of(connection, mark):
        connection.network.create_ip(floating_network_id=external(connection, network).id, description=mark)
    kept, *extra = _of(connection, mark)
    for each in extra:  # an earlier request whose answer was lost came to something after all
        connection.network.delete_ip(each.id, ignore_missing=True)
    return str(kept.floating_ip_address)


def _give_back(connection: Any, mark: str) -> None:
    for each in _of(connection, mark):
        connection.network.delete_ip(each.id, ignore_missing=True)


def _settle(connection: Any, server: str, wanted: Sequence[str], ours: str, move: bool) -> None:
    ports = [each.id for each in connection.network.ports(device_id=server)]
    if wanted and not ports:
        raise NoPort("the server has no port that an address can be given to")
    there = [each for port in ports for each in connection.network.ips(port_id=port)]
    for each in there:
        if each.floating_ip_address not in wanted and str(each.description or "").startswith(ours):
            connection.network.update_ip(each.id, port_id=None)
    kept = {each.floating_ip_address: each.port_id for each in there if each.floating_ip_address in wanted}
    taken = set(kept.values())
    for address in wanted:
        if address in kept:
            continue
        found = next(iter(connection.network.ips(floating_ip_address=address)), None)
        if found is None or not str(found.description or "").startswith(ours):
            raise InfrastructureError(f"the project has no floating address {address} of ours", permanent=True)
        if found.port_id and not move:
            continue
        port = next((each for each in ports if each not in taken), None)
        if port is None:
            sentence = f"{address} can not be given to the server: each of its ports has a floating address"
            raise InfrastructureError(sentence, permanent=True)
        connection.network.update_ip(found.id, port_id=port)
        taken.add(port)
