"""Two availability zones of a real OpenStack: guests are spread over them, and what is moved is made anew in the other.

The last of this folder: the second host appears and vanishes, and Nova takes its default zone for any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import Image
from pcloud.infrastructure import openstack_power
from pcloud.infrastructure.openstack import OpenStackInfrastructure
from pcloud.model.deployable import Assembly, Deployable, Escalation
from pcloud.transport.none import NoTransport
from tests.clouds.guests import SDK_WARNINGS, make_image, remove_all, settings, spec
from tests.clouds.peer import peer
from tests.dpe.harness import Scenario
from tests.infrastructure.contract import InfrastructureContract, poll

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]
ONCE = Escalation(failures=1, period=600)


@pytest.fixture(scope="module")
def zones(cloud) -> Iterator[None]:
    """A second host, and each in a zone of its own, while these tests run."""
    peer("zones-start")
    yield
    peer("zones-stop")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"), "zones")


@pytest.fixture
async def infrastructure(zones, monkeypatch):
    monkeypatch.setattr(openstack_power, "_LOOK", 0.2)  # everything here is done within parts of a second
    driver = OpenStackInfrastructure(settings())
    yield driver
    await remove_all(driver)
    await driver.close()


async def test_a_guest_that_is_off_is_made_anew_in_the_zone_that_is_asked_for(
    zones, infrastructure, image, nova
) -> None:
    assert await infrastructure.places() == ("first", "second")
    contract = InfrastructureContract()
    await contract.test_a_guest_that_is_off_is_started_where_it_is_asked_for(
        infrastructure, lambda name: spec(image, name, start_timeout=600.0)
    )
    assert list(nova.compute.servers()) == []
    assert list(nova.network.ports(device_owner="compute:nova")) == [], "nothing was left where it was"


class OnNova(Scenario):
    """The engine with Nova's servers for guests, in real time."""

    def __init__(self, deployable: Deployable, driver: OpenStackInfrastructure, image: Image) -> None:
        super().__init__(deployable, places=("first", "second"))
        self._image = image
        self.environment = replace(self.environment, infrastructure=driver, transports={"none": NoTransport()})
        self._make_engine(None)

    def configure(self, deployable: Deployable | None = None, **wishes: Any) -> None:
        guests = {
            each.name: GuestMaterial(image=self._image, identity=spec(self._image, each.name).identity)
            for each in self.deployable.assemblies
        }
        self.engine.configure(self.deployable, target="started", guests=guests, paused=False, places=self.world.places)

    async def waits(self, condition: Callable[[], bool]) -> None:
        async def holds() -> bool:
            return bool(self.statuses) and self.state == "running" and condition()

        await poll(holds)


async def test_guests_are_spread_over_the_zones_and_escalation_moves_one(infrastructure, image, nova) -> None:
    assemblies = tuple(
        Assembly(name=name, transport="none", start_timeout=600.0, escalation=ONCE) for name in ("one", "two")
    )

    def zone(name: str) -> str:
        return str(nova.compute.find_server(f"pct-shop.{name}", details=True).availability_zone)

    async def story(s: OnNova) -> None:
        await s.waits(lambda: True)
        home, other = await asyncio.gather(asyncio.to_thread(zone, "one"), asyncio.to_thread(zone, "two"))
        assert {home, other} == {"first", "second"}
        former = nova.compute.find_server("pct-shop.one").id
        nova.compute.stop_server(former)
        await s.waits(lambda: [a.place for a in s.statuses[-1].assemblies] == [other, other])
        assert await asyncio.to_thread(zone, "one") == other
        assert nova.compute.find_server(former) is None
        assert len(list(nova.compute.servers())) == 2

    scenario = OnNova(Deployable(name="shop", assemblies=assemblies, escalation=ONCE), infrastructure, image)
    await scenario.run(story)
    assert [e.data["level"] for e in scenario.journal.events if e.type == "escalation"] == ["deployable", "place"]
