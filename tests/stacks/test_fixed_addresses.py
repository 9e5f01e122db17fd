"""Addresses that templates ask for: which are refused before anything starts, and where they stand in definitions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.lxc_guest_network import LxcGuestNetwork
from pcloud.infrastructure.lxc_network import Leases
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_platform import MemoryPlatform, guests
from tests.stacks.templates import cfn, hot, instance

SERVER = {"image": "bookworm", "flavor": "m1.small"}


class Addressed(MemoryPlatform):
    """Leases as they are kept for LXC, of a network whose bridge is never made."""

    capabilities = frozenset({"guests", "addresses", "network", "firewall", "fixed-addresses"})

    def __init__(self, state: Path) -> None:
        super().__init__()
        state.mkdir()
        (state / "network.json").write_text(json.dumps({"bridge": "none", "subnet": "192.0.2.0/24"}))
        self.leases = Leases(state)
        self._network = LxcGuestNetwork(LxcSettings(state=str(state)))

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        index = int(wanted.rpartition(".")[2])
        self.leases.claim(f"_address.{holder}", index)
        return f"192.0.2.{index}/24"

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        self.leases.release(f"_address.{holder}")

    def address_refusal(self, address: str, guests: Sequence[tuple[str, str]], holders: Sequence[str]) -> str:
        own = {".".join(place) for place in guests} | {f"_address.{holder}" for holder in holders}
        return self._network.refusal(address, frozenset(own))


@pytest.fixture
def platform(tmp_path: Path) -> Addressed:
    return Addressed(tmp_path / "lxc")


def nova(*networks: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "OS::Nova::Server", "properties": {**SERVER, "networks": list(networks)}}


def port(*addresses: str) -> dict[str, Any]:
    asked = [{"ip_address": address} for address in addresses]
    return {"type": "OS::Neutron::Port", "properties": {"network": "any", "fixed_ips": asked}}


def floating(address: str) -> dict[str, Any]:
    given = {"floating_network": "any", "floating_ip_address": address}
    return {"type": "OS::Neutron::FloatingIP", "properties": given}


async def test_what_is_asked_for_is_in_the_definition(manager: StackManager, platform: Addressed) -> None:
    """As a guest's own address, or as one more. A server is known by its port's."""
    await made(manager, "cfn", cfn(One=instance(PrivateIpAddress="192.0.2.10")))
    assert guests(platform)["one"].address == "192.0.2.10"
    source = hot(
        two=nova({"network": "any", "fixed_ip": "192.0.2.11"}, {"port": {"get_resource": "p"}}),
        p=port("192.0.2.12"),
        f=floating("192.0.2.13"),
    )
    stack = await made(manager, "hot", source)
    two = guests(platform)["two"]
    assert (two.address, two.addresses) == ("192.0.2.11", ("192.0.2.12/24",))
    assert manager.current(stack)["two"].attributes["first_address"] == "192.0.2.12"
    assert manager.current(stack)["f"].attributes["floating_ip_address"] == "192.0.2.13"
    # What a stack has it may go on asking for.
    metadata = {"metadata": {"changed": "yes"}}
    again = json.loads(source.template)
    again["resources"]["two"]["properties"].update(metadata)
    await changed(manager, stack, Source(template=json.dumps(again)))
    for name in ("p", "f"):
        with pytest.raises(InvalidDocument, match=r"taken by _address\."):
            address = manager.current(stack)[name].data["address"].partition("/")[0]
            await manager.create("other", hot(x=port(address)))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("192.0.3.1", "192.0.3.1 is not in the guests' network, 192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1 is the address of this host"),
        ("192.0.2.0", "192.0.2.0 is no address for a guest"),
        ("192.0.2.255", "192.0.2.255 is no address for a guest"),
        ("192.0.2.77", "192.0.2.77 is taken by shop.db"),
        ("192.0.2.300", "'192.0.2.300' is no IPv4 address"),
        ("2001:db8::1", "'2001:db8::1' is no IPv4 address"),
        ("a; reboot", "is no IPv4 address"),
    ],
)
async def test_what_can_not_be_had_is_refused(
    manager: StackManager, platform: Addressed, address: str, says: str
) -> None:
    """Whatever asks for it; nothing is stored, and a plan says it too."""
    platform.leases.claim("shop.db", 77)
    sources = (
        cfn(S=instance(PrivateIpAddress=address)),
        hot(s=nova({"fixed_ip": address})),
        hot(p=port(address)),
        hot(f=floating(address)),
    )
    for source in sources:
        with pytest.raises(InvalidDocument, match=says):
            await manager.create("no", source)
        with pytest.raises(InvalidDocument, match=says):
            manager.plan(None, source)
    assert platform.applied == []


async def test_one_address_is_asked_for_once(manager: StackManager) -> None:
    both = cfn(A=instance(PrivateIpAddress="192.0.2.9"), B=instance(PrivateIpAddress="192.0.2.9"))
    with pytest.raises(InvalidDocument, match=r"192\.0\.2\.9 is asked for by '[AB]' too"):
        await manager.create("no", both)
    with pytest.raises(InvalidDocument, match="a server has one address of its own"):
        await manager.create("no", hot(s=nova({"fixed_ip": "192.0.2.9"}, {"fixed_ip": "192.0.2.10"})))
    with pytest.raises(InvalidDocument, match="a port has that of the port"):
        await manager.create("no", hot(p=port(), s=nova({"port": {"get_resource": "p"}, "fixed_ip": "192.0.2.9"})))
    with pytest.raises(InvalidDocument, match="a port has one address"):
        await manager.create("no", hot(p=port("192.0.2.9", "192.0.2.10")))


async def test_labels_of_a_port_are_labels(manager: StackManager, platform: Addressed) -> None:
    """They plug nothing in, as in Neutron; the plan says so."""
    resource = port("192.0.2.9")

    def source(owner: str) -> Source:
        labelled = {**resource["properties"], "device_id": "somebody", "device_owner": owner}
        return hot(p={**resource, "properties": labelled})

    assert any("it is a label" in note for note in manager.plan(None, source("one")).notes)
    stack = await made(manager, "s", source("one"))
    await changed(manager, stack, source("two"))
    attributes = manager.current(stack)["p"].attributes
    assert (attributes["device_id"], attributes["device_owner"]) == ("somebody", "two")


async def test_where_addresses_can_not_be_asked_for_they_are_refused(tmp_path: Path) -> None:
    platform = MemoryPlatform()
    manager = await opened(tmp_path, platform)
    for source in (
        cfn(S=instance(PrivateIpAddress="192.0.2.9")),
        hot(p=port("192.0.2.9")),
        hot(f=floating("192.0.2.9")),
    ):
        with pytest.raises(InvalidDocument, match="this platform gives the addresses"):
            await manager.create("no", source)
    await manager.close()


def test_a_claim_is_one_lease(tmp_path: Path) -> None:
    """It replaces what the guest had, is nobody else's, and a crash that left two is made good."""
    leases = Leases(tmp_path)
    had = leases.take("a.b", 256)
    wanted = 7 if had != 7 else 8
    assert leases.claim("a.b", wanted) == leases.claim("a.b", wanted) == leases.take("a.b", 256) == wanted
    assert leases.all() == {"a.b": wanted}
    with pytest.raises(InfrastructureError, match=r"taken by a\.b") as refused:
        leases.claim("c.d", wanted)
    assert refused.value.permanent
    assert leases.all() == {"a.b": wanted}
    (tmp_path / "leases/99").symlink_to("a.b")
    assert leases.claim("a.b", 99) == 99
    assert leases.all() == {"a.b": 99}
    (tmp_path / "leases/98").symlink_to("a.b")
    leases.release("a.b")
    assert leases.all() == {}
