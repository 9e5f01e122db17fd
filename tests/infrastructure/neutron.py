"""A Neutron in memory, as far as floating addresses go: what openstacksdk's network proxy answers, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from openstack.exceptions import HttpException, NotFoundException
from requests import Response


def refused(status: int, text: str) -> HttpException:
    response = Response()
    response.status_code = status
    kind = NotFoundException if status == 404 else HttpException
    return kind(message=text, response=response, details=text)


class Neutron:
    """One project."""

    def __init__(self) -> None:
        self.networks = {"outside": SimpleNamespace(id="n1", is_router_external=True)}
        self.networks["inside"] = SimpleNamespace(id="n2", is_router_external=False)
        self.addresses: dict[str, SimpleNamespace] = {}
        self.server_ports: dict[str, list[str]] = {}
        self.quota = 10
        self.lost = 0
        """How many of the next answers to requests that make one are lost."""
        self.made = 0
        self.moved: list[tuple[str, str | None]] = []

    def find_network(self, wanted: str) -> Any:
        return self.networks.get(wanted)

    def ips(self, **query: Any) -> Iterator[Any]:
        for each in list(self.addresses.values()):
            if all(getattr(each, key) == value for key, value in query.items()):
                yield each

    def ports(self, *, device_id: str) -> Iterator[Any]:
        yield from [SimpleNamespace(id=port) for port in self.server_ports.get(device_id, [])]

    def create_ip(self, *, floating_network_id: str, description: str) -> Any:
        if len(self.addresses) >= self.quota:
            raise refused(409, "Quota exceeded for resources: ['floatingip'].")
        self.made += 1
        found = SimpleNamespace(
            id=f"f{self.made}", floating_ip_address=f"203.0.113.{self.made}", description=description, port_id=None,
            floating_network_id=floating_network_id, created_at=f"2026-01-01T00:00:{self.made:02}Z",
        )  # fmt: skip
        self.addresses[found.id] = found
        if self.lost:
            self.lost -= 1
            raise refused(502, "the answer is lost")
        return found

    def update_ip(self, identity: str, *, port_id: str | None) -> None:
        found = self.addresses.get(identity)
        if found is None:
            raise refused(404, f"Floating IP {identity} could not be found")
        if port_id and any(each.port_id == port_id for each in self.addresses.values() if each is not found):
            raise refused(409, "Cannot associate floating IP: the fixed IP already has one")
        found.port_id = port_id
        self.moved.append((found.floating_ip_address, port_id))

    def delete_ip(self, identity: str, *, ignore_missing: bool) -> None:
        if self.addresses.pop(identity, None) is None and not ignore_missing:
            raise refused(404, "gone")
