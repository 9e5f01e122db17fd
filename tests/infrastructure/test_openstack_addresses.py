"""Floating addresses for stacks on OpenStack: one for a holder whatever is lost, on the right server, and none left."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from openstack.exceptions import HttpException

from pcloud.environment.infrastructure import Capability, InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure import openstack_checks
from pcloud.infrastructure.checks import able, checks_of
from pcloud.infrastructure.openstack_addresses import NoPort, OpenStackAddresses
from pcloud.infrastructure.openstack_changes import OpenStackChanges
from pcloud.infrastructure.openstack_session import translate
from pcloud.infrastructure.openstack_settings import OpenStackSettings
from pcloud.model.deployable import Assembly
from tests.infrastructure.neutron import Neutron, refused


class Session:
    """Calls at once what would be called in a thread, and tells errors as the real one does."""

    def __init__(self, neutron: Neutron) -> None:
        self.connection = SimpleNamespace(network=neutron)

    async def call(self, function: Callable[[Any], Any]) -> Any:
        try:
            return function(self.connection)
        except HttpException as error:
            raise translate(error) from error


@pytest.fixture
def neutron() -> Neutron:
    return Neutron()


def driver(neutron: Neutron, **changes: Any) -> OpenStackAddresses:
    settings = OpenStackSettings(**{"floating_network": "outside", **changes})
    return OpenStackAddresses(Session(neutron), settings)  # type: ignore[arg-type]


async def test_a_holder_has_one_address_until_it_is_given_back(neutron: Neutron) -> None:
    ours, others = driver(neutron), driver(neutron, prefix="other-")
    first = await ours.take("a")
    assert await ours.take("a") == first == "203.0.113.1/32"
    assert await ours.take("ab") != first
    assert await others.take("a") != first, "two daemons in one project have two prefixes"
    await ours.give_back("a")
    await ours.give_back("a")
    assert sorted(each.floating_ip_address for each in neutron.addresses.values()) == ["203.0.113.2", "203.0.113.3"]


async def test_what_a_lost_answer_made_is_found_again(neutron: Neutron) -> None:
    """As after a kill between the request and the record of what it made: the description was set by the request itself."""
    neutron.lost = 1
    with pytest.raises(InfrastructureUnavailable):
        await driver(neutron).take("a")
    assert len(neutron.addresses) == 1
    assert await driver(neutron).take("a") == "203.0.113.1/32"
    assert neutron.made == 1
    neutron.lost = 1
    with pytest.raises(InfrastructureUnavailable):
        await driver(neutron).take("b")
    await driver(neutron).give_back("b")
    assert len(neutron.addresses) == 1, "what was never recorded is given back, too"


async def test_of_two_requests_that_both_came_to_something_one_is_kept(neutron: Neutron, monkeypatch) -> None:
    real = neutron.create_ip

    def twice(**what: Any) -> Any:
        real(**what)
        return real(**what)

    monkeypatch.setattr(neutron, "create_ip", twice)
    assert await driver(neutron).take("a") == "203.0.113.1/32"
    assert list(neutron.addresses) == ["f1"]


async def test_a_quota_that_is_used_up_is_permanent(neutron: Neutron) -> None:
    neutron.quota = 0
    with pytest.raises(InfrastructureError, match="the quota is used up") as caught:
        await driver(neutron).take("a")
    assert caught.value.permanent
    assert not translate(refused(409, "it is in use")).permanent


@pytest.mark.parametrize(
    ("network", "reason"), [("nowhere", "there is no network 'nowhere'"), ("inside", "'inside' is no external one")]
)
async def test_a_network_that_gives_no_addresses_is_told(neutron: Neutron, network: str, reason: str) -> None:
    addresses = driver(neutron, floating_network=network)
    for asked in (addresses.offered(), addresses.take("a")):
        with pytest.raises(InfrastructureError, match=reason) as caught:
            await asked
        assert caught.value.permanent
    connection: Any = SimpleNamespace(network=neutron)
    told = openstack_checks._floating(connection, network)
    assert told.state == "missing"
    assert reason in told.detail
    assert openstack_checks._floating(connection, "outside").state == "ok"
    assert neutron.made == 0
    await driver(neutron).offered()


async def test_a_server_has_the_addresses_that_it_shall_have(neutron: Neutron) -> None:
    addresses = driver(neutron)
    first, second = await addresses.take("a"), await addresses.take("b")
    neutron.server_ports = {"one": ["p1"], "two": ["p2"]}
    somebody = neutron.create_ip(floating_network_id="n1", description="mine")
    await addresses.settle("one", [first])
    await addresses.settle("one", [first])
    assert neutron.moved == [("203.0.113.1", "p1")], "what is so already is not asked for"
    with pytest.raises(InfrastructureError, match=r"203\.0\.113\.2 can not be given to the server"):
        await addresses.settle("one", [first, second])
    await addresses.settle("one", [second])
    assert neutron.moved[1:] == [("203.0.113.1", None), ("203.0.113.2", "p1")]
    await addresses.settle("two", [second])
    assert neutron.addresses["f2"].port_id == "p2", "it moves in one request"
    await addresses.settle("one", [first, second], move=False)
    assert [neutron.addresses[each].port_id for each in ("f1", "f2")] == ["p1", "p2"], "a start takes what is free"
    await addresses.settle("one", [second], move=False)
    neutron.update_ip(somebody.id, port_id="p1")
    await addresses.settle("one", [])
    assert somebody.port_id == "p1", "what others gave it, it keeps"
    with pytest.raises(InfrastructureError, match="no floating address"):
        await addresses.settle("two", [f"{somebody.floating_ip_address}/32"])
    with pytest.raises(InfrastructureError, match="no floating address"):
        await addresses.settle("two", ["192.0.2.1/32"])
    with pytest.raises(NoPort):
        await addresses.settle("gone", [first])
    await addresses.settle("gone", [])


async def test_what_goes_while_it_is_given_back_or_asked_for(neutron: Neutron, monkeypatch) -> None:
    addresses = driver(neutron)
    await addresses.take("a")
    real = neutron.ips

    def late(**query: Any) -> Any:
        found = list(real(**query))
        neutron.addresses.clear()
        return iter(found)

    monkeypatch.setattr(neutron, "ips", late)
    await addresses.give_back("a")
    with pytest.raises(InfrastructureError, match="can be asked for"):
        await addresses.take("a", "203.0.113.9")
    assert "can be asked for" in addresses.refusal("203.0.113.9", frozenset())


def test_the_settings_say_whether_there_are_addresses() -> None:
    for settings, reason in (
        ({}, "floating_network"),
        ({"network": "none", "floating_network": "x"}, "network = none"),
    ):
        could, lacking = able("openstack", settings)
        assert Capability.ADDRESSES not in could
        assert reason in lacking[Capability.ADDRESSES]
    assert Capability.ADDRESSES in able("openstack", {"floating_network": "outside"})[0]
    assert "addresses" not in checks_of("openstack", {"cloud": "there-is-none"})[0].detail
    assert "addresses" in checks_of("openstack", {"cloud": "there-is-none", "floating_network": "x"})[0].detail


async def test_a_server_that_is_being_made_gets_its_address_once_it_has_a_port(neutron: Neutron, monkeypatch) -> None:
    """And one that goes meanwhile gets it when it starts."""
    monkeypatch.setattr("pcloud.infrastructure.openstack_changes._PAUSE", 0.001)
    addresses, session = driver(neutron), Session(neutron)
    wanted = Assembly(name="one", addresses=(await addresses.take("a"),))
    looks = 0

    async def one(name: str) -> Any:
        nonlocal looks
        looks += 1
        assert name == "pcloud-shop.one"
        if looks == 5:
            neutron.server_ports["s1"] = ["p1"]
        return SimpleNamespace(id="s1") if looks < 10 else None

    settings = OpenStackSettings(floating_network="outside")
    neutron.security_groups = lambda **_: iter(())  # type: ignore[attr-defined]
    changes = OpenStackChanges(session, SimpleNamespace(one=one), settings, addresses)  # type: ignore[arg-type]
    await changes.settle("shop.one", wanted, AsyncMock())
    assert neutron.moved == [("203.0.113.1", "p1")]
    assert looks == 5
    neutron.server_ports.clear()
    await changes.settle("shop.one", wanted, AsyncMock())
    assert looks == 10
