"""The OpenStack driver against a real OpenStack (Nova with its FakeDriver: servers without a guest inside)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from pcloud.environment.infrastructure import (
    GuestEvent,
    GuestState,
    InfrastructureError,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.infrastructure import openstack_power
from pcloud.infrastructure.openstack import OpenStackInfrastructure
from pcloud.infrastructure.openstack_session import translate
from tests.clouds.guests import SDK_WARNINGS, make_image, remove_all, settings, spec
from tests.clouds.peer import FOLDER
from tests.infrastructure.contract import InfrastructureContract, poll
from tests.transport.sshd import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image"), "0123abc")


def admin():
    import openstack

    return openstack.connect()


@pytest.fixture
async def infrastructure(cloud):
    driver = OpenStackInfrastructure(settings())
    yield driver
    await remove_all(driver)
    await driver.close()


@contextlib.asynccontextmanager
async def watching(infrastructure: OpenStackInfrastructure):
    events: list[GuestEvent] = []

    async def watch() -> None:
        while True:
            try:
                async for event in infrastructure.watch():
                    events.append(event)  # noqa: PERF401 - seen as they come
            except InfrastructureUnavailable:
                await asyncio.sleep(0.5)  # the engine takes it up again, too

    task = asyncio.create_task(watch())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestContract(InfrastructureContract):
    """What every infrastructure must do."""

    @pytest.fixture
    def make_spec(self, image):
        return lambda name: spec(image, name)

    async def kill(self, infrastructure, guest_id):
        def stop() -> None:
            connection = admin()
            server = connection.compute.find_server(f"pct-{guest_id}")
            connection.compute.stop_server(server)
            connection.compute.wait_for_server(server, status="SHUTOFF")
            connection.close()

        await asyncio.to_thread(stop)

    def reopen(self, infrastructure):
        return OpenStackInfrastructure(settings())


async def test_guests_share_image_group_and_looks(infrastructure, image, nova):
    began, clock = infrastructure._servers.calls, time.monotonic()
    names = [f"a{number:02}" for number in range(8)]
    infos = await asyncio.gather(*(infrastructure.start(spec(image, name)) for name in names))
    assert {info.state for info in infos} == {GuestState.RUNNING}
    assert len({info.address for info in infos}) == 8
    assert all(info.address.startswith("10.200.0.") for info in infos)
    assert len(await infrastructure.list_guests()) == 8
    calls, looks = infrastructure._servers.calls - began, (time.monotonic() - clock) / openstack_power._LOOK
    assert calls < 48 + 4 * looks, f"{calls} list calls in the time of {looks:.0f} for 8 guests: they do not share"
    images = list(nova.image.images(name="pct-0123abc"))
    assert [each.status for each in images] == ["active"], "uploaded once"
    assert images[0].kernel_id
    groups = [group for group in nova.compute.server_groups() if group.name == "pct-shop"]
    assert len(groups) == 1
    assert len(groups[0].member_ids) == 8

    async with watching(infrastructure) as events:
        await until(lambda: len(events) >= 8, 20)
        calls, began = infrastructure._servers.calls, time.monotonic()
        await asyncio.sleep(3)
        polls = (time.monotonic() - began) / settings().poll
        assert infrastructure._servers.calls - calls <= polls + 2, "one call a poll, however many guests"
        # one deleted behind our back, one put in ERROR
        events.clear()
        nova.compute.delete_server(nova.compute.find_server("pct-shop.a03"))
        broken = nova.compute.find_server("pct-shop.a07")
        nova.compute.reset_server_state(broken, "error")
        await until(lambda: len(events) >= 2, 20)
        assert {(event.guest_id, event.state) for event in events} == {
            ("shop.a03", GuestState.ABSENT),
            ("shop.a07", GuestState.STOPPED),
        }
    replaced = await asyncio.gather(*(infrastructure.start(spec(image, name)) for name in ("a03", "a07")))
    assert {info.state for info in replaced} == {GuestState.RUNNING}
    assert nova.compute.find_server(broken.id) is None, "the broken one was isolated before its replacement started"
    assert nova.compute.find_server("pct-shop.a07").id != broken.id

    await asyncio.gather(*(infrastructure.delete(f"shop.{name}") for name in names))
    assert await infrastructure.list_guests() == []
    assert list(nova.compute.servers()) == []
    assert [key.name for key in nova.compute.keypairs() if "-shop-a" in key.name] == []
    assert [group.name for group in nova.compute.server_groups()] == []
    assert list(nova.network.ports(device_owner="compute:nova")) == []
    assert [each.name for each in nova.image.images() if each.name.startswith("pct-")] == [], "unused, so removed"


async def test_isolation_is_confirmed_by_state(infrastructure, image, nova):
    await infrastructure.start(spec(image))
    server = nova.compute.find_server("pct-shop.web")
    await infrastructure.destroy("shop.web")
    assert nova.compute.get_server(server.id).status == "SHUTOFF"
    assert await infrastructure.check("shop.web", timeout=5) is Vitality.GONE
    await infrastructure.start(spec(image))
    nova.compute.pause_server(server.id)
    nova.compute.wait_for_server(nova.compute.get_server(server.id), status="PAUSED")
    assert await infrastructure.check("shop.web", timeout=5) is Vitality.HUNG
    await infrastructure.destroy("shop.web")
    assert nova.compute.find_server(server.id) is None, "what can not be powered off is deleted"
    assert (await infrastructure.inspect("shop.web")).state is GuestState.ABSENT


async def test_rebuild_keeps_the_address(infrastructure, image):
    first = await infrastructure.start(spec(image))
    assert await infrastructure.check("shop.web", timeout=5) is Vitality.UNKNOWN, "ACTIVE proves nothing"
    other = await infrastructure.start(spec(image, digest="d2"))
    assert (other.digest, other.address, other.state) == ("d2", first.address, GuestState.RUNNING)
    assert other.boot_id != first.boot_id
    await infrastructure.reboot("shop.web")
    assert (await infrastructure.inspect("shop.web")).boot_id != other.boot_id
    await infrastructure.destroy("shop.web")
    third = await infrastructure.start(spec(image, digest="d3"))
    assert (third.digest, third.state) == ("d3", GuestState.RUNNING)


async def test_a_request_that_was_sent_twice_leaves_one_server(infrastructure, image, nova):
    """As after a crash between the request and its answer: another start finds what the first made."""
    await infrastructure.start(spec(image))
    first = nova.compute.find_server("pct-shop.web")
    image_id, flavor = first.image["id"], nova.compute.find_flavor("tiny").id
    nova.compute.create_server(name="pct-shop.web", image_id=image_id, flavor_id=flavor, networks="none")
    await infrastructure.start(spec(image))
    assert [server.id for server in nova.compute.servers(name="^pct-shop.web$")] == [first.id]


async def test_quota_is_a_permanent_error(infrastructure, image, nova):
    project = nova.current_project_id
    before = nova.compute.get_quota_set(project).instances
    nova.compute.update_quota_set(project, instances=1)
    try:
        await infrastructure.start(spec(image, "one"))
        with pytest.raises(InfrastructureError) as caught:
            await infrastructure.start(spec(image, "two"))
        assert caught.value.permanent
        assert "uota" in str(caught.value)
    finally:
        nova.compute.update_quota_set(project, instances=before)
    await infrastructure.delete("shop.two")  # its key pair was made before the quota refused the server
    assert nova.compute.find_keypair("pct-shop-two-1916b13f") is None


@pytest.mark.parametrize(("name", "value"), [("flavor", "huge"), ("network", "nowhere")])
async def test_what_does_not_exist_is_a_permanent_error(cloud, image, name, value):
    driver = OpenStackInfrastructure(settings(**{name: value}))
    with pytest.raises(InfrastructureError) as caught:
        await driver.start(spec(image))
    assert caught.value.permanent
    await driver.close()


async def test_half_an_upload_is_done_again(infrastructure, image, nova, monkeypatch):
    import msgspec

    other = msgspec.structs.replace(image, digest="half", kernel="", initrd="")
    nova.image.create_image(name="pct-half", disk_format="qcow2", container_format="bare", allow_duplicates=True)
    monkeypatch.setattr("pcloud.infrastructure.openstack_images._STALLED", 2.0)
    await infrastructure.start(spec(other))
    assert [each.status for each in nova.image.images(name="pct-half")] == ["active"]


async def test_revoked_token_is_renewed(infrastructure, image):
    """As when a token expires: the next request is refused once, and goes through with a new one."""
    await infrastructure.start(spec(image))

    def spoil(connection) -> None:
        auth = connection.session.auth
        auth.get_access(connection.session)._auth_token = "gAAAAA-expired"

    for _ in range(8):  # every thread's connection
        await infrastructure._session.call(spoil)
    assert [info.guest_id for info in await infrastructure.list_guests()] == ["shop.web"]


async def test_wrong_credentials(cloud, monkeypatch):
    monkeypatch.setenv("OS_PASSWORD", "not-the-password")
    driver = OpenStackInfrastructure(settings())
    with pytest.raises(InfrastructureUnavailable) as caught:
        await driver.list_guests()
    assert "not-the-password" not in str(caught.value)
    await driver.close()


def test_errors_are_mapped():
    from keystoneauth1.exceptions import ConnectFailure
    from openstack.exceptions import HttpException
    from requests import Response

    def of(status: int, text: str = "x") -> InfrastructureError:
        response = Response()
        response.status_code = status
        return translate(HttpException(message=text, response=response, details=text))

    assert isinstance(of(500), InfrastructureUnavailable)
    assert isinstance(of(503), InfrastructureUnavailable)
    assert isinstance(of(429), InfrastructureUnavailable)
    assert isinstance(of(401), InfrastructureUnavailable)
    assert isinstance(translate(ConnectFailure("x")), InfrastructureUnavailable)
    assert of(400).permanent
    assert of(403, "Quota exceeded for cores").permanent
    assert not of(409).permanent


async def test_a_server_that_is_built_for_ever_is_replaced(infrastructure, image, nova):
    """Nova loses track of a build now and then: it stays BUILD. The start fails, and the next one begins afresh."""
    nova_compute = int((FOLDER / "run/nova-compute.pid").read_text())
    await infrastructure.start(spec(image, "other"))

    def given_up() -> bool:
        server = nova.compute.find_server("pct-shop.web", details=True)
        return server is not None and server.task_state == "deleting"

    os.kill(nova_compute, signal.SIGSTOP)
    try:
        with pytest.raises(InfrastructureError):
            starting = asyncio.create_task(infrastructure.start(spec(image, start_timeout=3.0)))
            await until(lambda: starting.done() or given_up(), 120)
            os.kill(nova_compute, signal.SIGCONT)
            await starting
    finally:
        os.kill(nova_compute, signal.SIGCONT)

    async def absent() -> bool:
        return (await infrastructure.inspect("shop.web")).state is GuestState.ABSENT

    await poll(absent)
    assert (await infrastructure.start(spec(image))).state is GuestState.RUNNING
