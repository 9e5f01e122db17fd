"""The driver against an API that refuses, asks for patience, breaks and loses answers: a proxy in front of the real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from pcloud.environment.infrastructure import GuestState, InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure.openstack import OpenStackInfrastructure
from pcloud.infrastructure.openstack_session import retry_after
from tests.clouds.guests import SDK_WARNINGS, make_image, remove_all, settings, spec
from tests.clouds.peer import GLANCE, KEYSTONE, NOVA
from tests.clouds.proxy import Proxy, in_front_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]
PREFIX = "pch-"
SERVERS, LIST, IMAGES = r"/servers$", r"/servers/detail", r"/v2/images(\?|$)"


@pytest.fixture(scope="module")
def proxies() -> Iterator[dict[str, Proxy]]:
    """Proxies in front of Nova, Glance and Keystone."""
    with in_front_of(NOVA) as nova, in_front_of(GLANCE) as glance, in_front_of(KEYSTONE) as keystone:
        yield {"nova": nova, "glance": glance, "keystone": keystone}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return make_image(tmp_path_factory.mktemp("image"), "hostile")


@pytest.fixture
async def driver(cloud, proxies, monkeypatch):
    monkeypatch.setenv("OS_COMPUTE_ENDPOINT_OVERRIDE", f"{proxies['nova'].url}/v2.1")
    monkeypatch.setenv("OS_IMAGE_ENDPOINT_OVERRIDE", proxies["glance"].url)
    monkeypatch.setenv("OS_AUTH_URL", f"{proxies['keystone'].url}/v3")
    for proxy in proxies.values():
        proxy.forget()
    driver = OpenStackInfrastructure(settings(prefix=PREFIX))
    yield driver
    for proxy in proxies.values():
        proxy.forget()
    driver._session._not_before = 0.0
    await remove_all(driver)
    await driver.close()


def ours(nova) -> list[str]:
    return sorted(server.name for server in nova.compute.servers() if server.name.startswith(PREFIX))


def left(nova) -> dict[str, list[str]]:
    """What of ours is in the project."""
    found = {
        "servers": ours(nova),
        "keypairs": [key.name for key in nova.compute.keypairs() if key.name.startswith(PREFIX)],
        "groups": [group.name for group in nova.compute.server_groups() if group.name.startswith(PREFIX)],
        "images": [image.name for image in nova.image.images() if image.name.startswith(PREFIX)],
    }
    return {name: names for name, names in found.items() if names}


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_whose_answer_was_lost_is_adopted(driver, proxies, image, nova, status):
    proxies["nova"].fail("POST", SERVERS, status=status, carried_out=True)
    info = await driver.start(spec(image))
    assert info.state is GuestState.RUNNING
    assert ours(nova) == ["pch-shop.web"], "one server, and not another one for the answer that was lost"
    assert proxies["nova"].seen("POST", SERVERS) == 1
    await driver.delete("shop.web")
    assert left(nova) == {}


async def test_a_broken_answer_to_nothing_done_makes_nothing(driver, proxies, image, nova):
    fault = proxies["nova"].fail("POST", SERVERS, status=503)
    with pytest.raises(InfrastructureUnavailable):
        await driver.start(spec(image))
    assert fault.hits == 1
    assert ours(nova) == []
    assert (await driver.start(spec(image))).state is GuestState.RUNNING
    assert ours(nova) == ["pch-shop.web"]
    await driver.delete("shop.web")
    assert left(nova) == {}


async def test_a_server_that_appears_after_its_lost_answer_is_one_too_many(driver, proxies, image, nova):
    """The first request is carried out late: both are there when the second start ends, and one of them goes."""
    info = await driver.start(spec(image))
    first = nova.compute.find_server("pch-shop.web")
    late = nova.compute.create_server(
        name="pch-shop.web", image_id=first.image["id"], flavor_id=nova.compute.find_flavor("tiny").id, networks="none",
        metadata=first.metadata,
    )  # fmt: skip
    assert (await driver.start(spec(image))).boot_id == info.boot_id
    assert [server.id for server in nova.compute.servers(name="^pch-shop.web$")] == [first.id]
    assert nova.compute.find_server(late.id) is None


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize(
    ("api", "method", "path"),
    [("nova", "POST", "/os-keypairs$"), ("nova", "POST", "/os-server-groups$"), ("glance", "POST", IMAGES)],
    ids=["key pair", "server group", "image"],
)
async def test_what_a_lost_answer_left_is_used_or_removed(driver, proxies, image, nova, api, method, path, carried_out):
    proxies[api].fail(method, path, status=504, carried_out=carried_out)
    with pytest.raises(InfrastructureUnavailable):
        await driver.start(spec(image))
    assert (await driver.start(spec(image))).state is GuestState.RUNNING
    whole = [each for each in nova.image.images() if each.name == f"{PREFIX}{image.digest}"]
    assert [each.status for each in whole] == ["active"]
    await driver.delete("shop.web")
    assert left(nova) == {}


async def test_an_upload_whose_answer_was_lost_is_whole(driver, proxies, image):
    proxies["glance"].fail("PUT", "/file$", status=504, carried_out=True)
    assert (await driver.start(spec(image))).state is GuestState.RUNNING
    assert proxies["glance"].seen("PUT", "/file$") == 3, "kernel, initrd and disk, each once"


@pytest.mark.parametrize("status", [503, 504])
async def test_an_upload_that_broke_off_is_removed_and_done_again(driver, proxies, image, nova, status):
    """After 503 the SDK would try again by itself, with a file that it has read to its end."""
    fault = proxies["glance"].fail("PUT", "/file$", status=status)
    with pytest.raises(InfrastructureUnavailable):
        await driver.start(spec(image))
    assert fault.hits == proxies["glance"].seen("PUT", "/file$") == 1
    assert left(nova).get("images") in (None, [f"{PREFIX}{image.digest}-kernel", f"{PREFIX}{image.digest}-ramdisk"])
    assert (await driver.start(spec(image))).state is GuestState.RUNNING
    await driver.delete("shop.web")
    assert left(nova) == {}


async def test_429_is_waited_for_as_long_as_it_asks(driver, proxies, image):
    fault = proxies["nova"].fail("POST", SERVERS, status=429, headers={"Retry-After": "2"})
    began = time.monotonic()
    assert (await driver.start(spec(image))).state is GuestState.RUNNING
    assert fault.hits == 1
    assert time.monotonic() - began >= 2
    await driver.delete("shop.web")


async def test_nobody_calls_while_one_was_asked_to_wait(driver, proxies):
    """Whoever calls waits, not only the one that was told to."""
    await driver.list_guests()
    proxies["nova"].forget()
    proxies["nova"].fail("GET", LIST, status=429, headers={"Retry-After": "4"})
    asked = time.monotonic()
    first = asyncio.create_task(driver.list_guests())
    while not driver._session._not_before:  # it was told to wait
        await asyncio.sleep(0.01)
    await asyncio.gather(*(driver.inspect(f"shop.{number}") for number in range(30)), driver._session.call(
        lambda c: list(c.compute.server_groups())
    ))  # fmt: skip
    assert time.monotonic() - asked >= 4
    await first
    assert proxies["nova"].seen("GET", LIST) == 3, "the refused one, the one again, and one for all thirty"


async def test_a_long_patience_is_not_waited_for_but_kept(driver, proxies):
    await driver.list_guests()
    proxies["nova"].forget()
    proxies["nova"].fail("GET", LIST, status=429, headers={"Retry-After": formatdate(time.time() + 300, usegmt=True)})
    with pytest.raises(InfrastructureUnavailable):
        await driver.list_guests()
    proxies["nova"].forget()
    for _ in range(5):
        with pytest.raises(InfrastructureUnavailable):
            await driver.list_guests()
    assert proxies["nova"].requests == [], "not asked again before the time is over"


async def test_429_without_end_is_unavailable(driver, proxies):
    await driver.list_guests()
    proxies["nova"].fail("GET", LIST, status=429, headers={"Retry-After": "0"}, times=99)
    with pytest.raises(InfrastructureUnavailable, match="less often"):
        await driver.list_guests()
    assert proxies["nova"].seen("GET", LIST) <= 5


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_broken_list_tells_nothing_of_guests(driver, proxies, image, status):
    await driver.start(spec(image))
    proxies["nova"].fail("GET", LIST, status=status, times=99)
    with pytest.raises(InfrastructureUnavailable):
        await driver.inspect("shop.web")
    with pytest.raises(InfrastructureUnavailable):
        await driver.destroy("shop.web")
    with pytest.raises(InfrastructureUnavailable):
        async for event in driver.watch():
            assert event.state is not GuestState.ABSENT
    proxies["nova"].forget()
    assert (await driver.inspect("shop.web")).state is GuestState.RUNNING


async def test_one_lost_list_is_no_outage(driver, proxies, image):
    proxies["nova"].fail("GET", LIST, status=502)
    watching = asyncio.create_task(anext(driver.watch()))
    await asyncio.sleep(1.5)
    await driver.start(spec(image))
    assert (await watching).state is GuestState.RUNNING


async def test_409_on_a_stop_is_tried_again_by_who_asks(driver, proxies, image):
    await driver.start(spec(image))
    proxies["nova"].fail("POST", "/servers/[^/]+/action$", status=409, message="Cannot 'stop' instance: task_state")
    with pytest.raises(InfrastructureError) as caught:
        await driver.stop("shop.web", timeout=120)
    assert not caught.value.permanent
    await driver.stop("shop.web", timeout=120)
    assert (await driver.inspect("shop.web")).state is GuestState.STOPPED


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "Quota exceeded for instances: Requested 1, but already used 60 of 60 instances"),
     (413, "Maximum number of ports exceeded"), (400, "Invalid input for field/attribute"), (403, "Policy doesn't allow")],
)  # fmt: skip
async def test_what_trying_again_can_not_mend_is_permanent(driver, proxies, image, nova, status, message):
    proxies["nova"].fail("POST", SERVERS, status=status, message=message)
    with pytest.raises(InfrastructureError) as caught:
        await driver.start(spec(image))
    assert caught.value.permanent
    assert message.split(":")[0] in str(caught.value)
    assert ours(nova) == []
    await driver.delete("shop.web")
    assert left(nova) == {}


async def test_an_image_that_another_process_removed_is_uploaded_again(driver, image, nova, monkeypatch):
    ensured = driver._image
    removed = []

    async def image_and_then_its_removal(wanted):
        identity = await ensured(wanted)
        if not removed:
            removed.append(identity)
            await asyncio.to_thread(nova.image.delete_image, identity)
        return identity

    monkeypatch.setattr(driver, "_image", image_and_then_its_removal)
    assert (await driver.start(spec(image))).state is GuestState.RUNNING
    await driver.delete("shop.web")
    assert left(nova) == {}


async def test_an_expired_token_is_renewed_once(driver, proxies, image):
    await driver.start(spec(image))
    proxies["keystone"].forget()
    proxies["nova"].forget()
    proxies["nova"].fail("GET", LIST, status=401)
    assert [info.guest_id for info in await driver.list_guests()] == ["shop.web"]
    assert proxies["keystone"].seen("POST", "/auth/tokens$") == 1
    assert proxies["nova"].seen("GET", LIST) == 2


async def test_refused_credentials_are_not_hammered(driver, proxies, monkeypatch):
    monkeypatch.setattr("pcloud.infrastructure.openstack_session._REFUSED_PAUSE", 1.0)
    proxies["keystone"].fail("POST", "/auth/tokens$", status=401, times=99)
    outcomes = await asyncio.gather(*(driver.list_guests() for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {InfrastructureUnavailable}
    assert proxies["keystone"].seen("POST", "/auth/tokens$") <= 2, "clouds lock users out who keep trying"
    proxies["keystone"].forget()
    assert await driver.list_guests() == []


async def test_keystone_broken_is_unavailable(driver, proxies):
    proxies["keystone"].fail("POST", "/auth/tokens$", status=500, times=99)
    with pytest.raises(InfrastructureUnavailable):
        await driver.list_guests()
    proxies["keystone"].forget()
    assert await driver.list_guests() == []


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", None), ("soon", None), ("-3", None)])
def test_retry_after_in_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    assert 50 < (retry_after(formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0.0
