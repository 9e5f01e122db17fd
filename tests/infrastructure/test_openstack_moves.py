"""What the OpenStack driver does with a server that is off: it shall be in another zone, or made from another image."""

from __future__ import annotations

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from pcloud.environment.infrastructure import GuestSpec, Identity, Image
from pcloud.infrastructure import openstack_power
from pcloud.infrastructure.openstack import OpenStackInfrastructure
from pcloud.infrastructure.openstack_servers import Server
from pcloud.infrastructure.openstack_settings import OpenStackSettings

SPEC = GuestSpec(
    guest_id="shop.web",
    deployable="shop",
    assembly="web",
    image=Image(name="none", digest="i1"),
    identity=Identity(hostname="web"),
    digest="d1",
    place="east",
)


@pytest.mark.parametrize(
    ("status", "zone", "done"),
    [
        ("SHUTOFF", "west", ["delete west", "create east"]),
        ("SHUTOFF", "east", ["on east"]),
        ("SHUTOFF", "", ["on "]),
        ("ACTIVE", "west", []),
        ("ERROR", "east", ["delete east", "create east"]),
    ],
)
async def test_one_that_is_off_elsewhere_is_deleted_before_it_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, status: str, zone: str, done: list[str]
) -> None:
    driver = OpenStackInfrastructure(OpenStackSettings())
    servers = [Server(id="1", name="pcloud-shop.web", status=status, zone=zone, metadata={"pcloud_digest": "d1"})]
    log: list[str] = []

    async def only(name: str) -> Server | None:
        return servers[0] if servers else None

    async def delete(server: Server) -> None:
        log.append(f"delete {server.zone}")
        servers.clear()

    async def on(server: Server) -> None:
        log.append(f"on {server.zone}")

    async def create(spec: GuestSpec, name: str) -> None:
        assert not servers, "two of it would be there"
        log.append(f"create {spec.place}")
        servers.append(Server(id="2", name=name, status="ACTIVE", zone=spec.place))

    async def active(name: str, *, timeout: float, addressed: bool) -> Server:
        return servers[0]

    monkeypatch.setattr(driver, "_only", only)
    monkeypatch.setattr(driver, "_create_or_adopt", create)
    for name, function in (("delete", delete), ("on", on), ("active", active)):
        monkeypatch.setattr(driver._power, name, function)
    try:
        info = await driver.start(SPEC)
    finally:
        await driver.close()
    assert log == done
    assert info.place == ("east" if "create east" in done else zone)


async def test_one_that_was_off_is_switched_on_when_its_rebuild_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nova has it ACTIVE, with no task, for a moment before it stops it again."""
    looks = [
        ("SHUTOFF", "rebuilding"), ("REBUILD", "rebuild_spawning"), ("ACTIVE", ""), ("ACTIVE", "powering-off"),
        ("SHUTOFF", ""),
    ]  # fmt: skip
    driver = OpenStackInfrastructure(OpenStackSettings())
    off = Server(id="1", name="pcloud-shop.web", status="SHUTOFF", metadata={"pcloud_digest": "d0"})
    log: list[str] = []

    async def one(name: str) -> Server:
        status, task = looks.pop(0)
        return Server(id="1", name=name, status=status, task=task)

    async def on(server: Server) -> None:
        log.append(f"on after {server.status}")

    async def call(function: object) -> None:
        log.append("rebuild")

    async def image(spec: GuestSpec) -> str:
        return "i1"

    async def hosts(spec: GuestSpec) -> dict[str, str]:
        return {}

    monkeypatch.setattr(openstack_power, "_LOOK", 0.0)
    for target, name, function in (
        (driver._servers, "one", one),
        (driver._power, "on", on),
        (driver._session, "call", call),
        (driver, "_image", image),
        (driver, "_hosts", hosts),
    ):
        monkeypatch.setattr(target, name, function)
    try:
        await driver._rebuild(off, SPEC)
    finally:
        await driver.close()
    assert log == ["rebuild", "on after SHUTOFF"]
    assert looks == []
