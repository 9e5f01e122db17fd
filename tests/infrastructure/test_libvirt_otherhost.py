"""The libvirt driver against the libvirtd of another host, and over links that break in the middle of a call."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import (
    GuestState,
    Image,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.infrastructure import libvirt_checks
from pcloud.infrastructure.checks import checks_of
from pcloud.infrastructure.libvirt import LibvirtInfrastructure
from pcloud.infrastructure.libvirt_connection import unattended
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.registry import open_infrastructure
from pcloud.model.errors import InvalidDocument
from tests.infrastructure import test_libvirt, test_libvirt_storage
from tests.infrastructure.contract import InfrastructureContract, poll, watching
from tests.infrastructure.machine import machine_image, tiny_image
from tests.infrastructure.otherhost import NAME, SUBNET, OtherHost, run_other_host
from tests.infrastructure.rpc import Call, Link, link_to
from tests.transport.sshd import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherHost]:
    with run_other_host(tmp_path_factory.mktemp("other")) as server:
        yield server


@pytest.fixture(autouse=True)
def _swept(host: OtherHost) -> Iterator[None]:
    yield
    host.sweep()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return tiny_image(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def image() -> Image:
    return machine_image()


def settings(host: OtherHost, uri: str = "", **changes: object) -> LibvirtSettings:
    values: dict[str, object] = {
        "uri": uri or host.uri,
        "state": host.state,
        "prefix": "pct-",
        "pool": "pct",
        "network": "pct",
        "subnet": SUBNET,
    }
    return LibvirtSettings(**(values | changes))  # type: ignore[arg-type]


def assert_nothing_left(host: OtherHost) -> None:
    assert host.guests_volumes() == []
    for listing in ("list", "net-list", "pool-list"):
        assert host.names(listing) == []


class TestContract(InfrastructureContract):
    """What every infrastructure must do, by TCP. Only one guest boots: the one that is frozen."""

    stop_timeout = 0.5
    many = 3

    @pytest.fixture
    async def infrastructure(self, host):
        driver = LibvirtInfrastructure(settings(host))
        yield driver
        for info in await driver.list_guests():
            await driver.delete(info.guest_id)
        await driver.close()
        assert host.guests_volumes() == host.names("list") == []

    @pytest.fixture
    def make_spec(self, tiny, image):
        self.frozen = test_libvirt.spec(image, guest_id="shop.frozen", assembly="frozen", saved_state=True)
        return lambda name: self.frozen if name == "frozen" else test_libvirt_storage.spec(name, tiny)

    @pytest.fixture(autouse=True)
    def _keep(self, host):
        self.host = host

    async def kill(self, infrastructure, guest_id):
        os.kill(self.host.qemu(f"pct-{guest_id}"), signal.SIGKILL)

    def reopen(self, infrastructure):
        return LibvirtInfrastructure(settings(self.host))

    async def freeze(self, infrastructure, guest_id):
        """What only a guest that has booted shows, and then: freeze it."""
        assert b"Linux" in await infrastructure.console(guest_id) or b"systemd" in await infrastructure.console(
            guest_id
        )
        booted = await infrastructure.inspect(guest_id)
        result = await infrastructure.execute(guest_id, ["hostname"])
        assert result.stdout == b"web1\n", "its seed came over"
        await infrastructure.destroy(guest_id)
        restored = await infrastructure.start(self.frozen)
        assert (restored.place, restored.address) == (NAME, booted.address)
        assert list(self.host.volumes.glob(f"pct-{guest_id}.*.saved")), "its saved state is kept over there"
        connection = await connected(test_libvirt.endpoint(restored.address))
        shown = await connection.run(["cat", "/proc/sys/kernel/hostname"])
        assert shown.stdout == b"web1\n", "reached from here, by the route to that host"
        await connection.close()
        self.host.freeze(f"pct-{guest_id}")


async def test_every_way_there(host, tiny):
    """A guest that is made by ssh, seen by TLS and ended by TCP; each tells what happens."""
    ways = [LibvirtInfrastructure(settings(host, uri)) for uri in (host.ssh, host.tls, host.uri)]
    ssh, tls, tcp = ways
    async with watching(ssh) as by_ssh, watching(tls) as by_tls, watching(tcp) as by_tcp:
        made = await ssh.start(test_libvirt_storage.spec("ways", tiny))
        assert made.place == NAME
        assert await tls.inspect("shop.ways") == made
        assert len((host.volumes / "pct-shop.ways.seed").read_bytes()) > 0, "uploaded by ssh"
        await tcp.destroy("shop.ways")
        for events in (by_ssh, by_tls, by_tcp):
            await events.until("shop.ways", GuestState.STOPPED, since=0)
        await tls.delete("shop.ways")
    for way in ways:
        await way.close()
    assert_nothing_left(host)


async def test_who_has_no_password_stays_outside(host):
    """The password comes from libvirt's own file; nobody is asked for one."""
    wrong, open_to_all = host.authentication("wombat"), host.authentication("wallaby")
    open_to_all.chmod(0o644)
    for given, said in (
        ("", "authentication failed"),
        (f"&authfile={wrong}", "authentication failed"),
        (f"&authfile={open_to_all}", "can be read by others: chmod 600"),
        ("&authfile=/nothing", "/nothing can not be read: No such file"),
    ):
        driver = LibvirtInfrastructure(settings(host, host.tls_of_nobody + given))
        with pytest.raises(InfrastructureUnavailable, match=said):
            await driver.list_guests()
        await driver.close()


async def test_connections_are_closed(host):
    """Nothing keeps one open that is used no more: neither a driver that was closed, nor one whose libvirtd went."""

    def sockets() -> int:
        gc.collect()
        ours = ["ss", "-Htn", "state", "established", "dst", "10.254.77.2:16509"]
        return len(subprocess.run(ours, capture_output=True, check=True).stdout.splitlines())

    drivers = [LibvirtInfrastructure(settings(host)) for _ in range(5)]
    for driver in drivers:
        await driver.list_guests()
    opened = sockets()
    assert opened >= 5
    for driver in drivers:
        await driver.close()

    async def closed() -> bool:
        return sockets() <= opened - 5  # those of tests before this one may be closed only now, too

    await poll(closed)


async def test_ssh_asks_nobody():
    assert unattended("qemu+ssh://root@h/system").endswith("/system?no_tty=1")
    assert unattended("qemu+ssh://h/system?keyfile=/k").endswith("?keyfile=/k&no_tty=1")
    for uri in ("qemu+ssh://h/system?no_tty=0", "qemu:///system", "qemu+tls://h/system"):
        assert unattended(uri) == uri


def test_what_another_host_can_not_do_is_refused(tmp_path):
    for uri in ("qemu+ssh://root@host/system", "qemu+tls://host/system"):
        with pytest.raises(InvalidDocument, match="can not be reached from here") as caught:
            open_infrastructure("libvirt", {"uri": uri, "network": "user"}, state=tmp_path)
        assert caught.value.problems[0].path == "infrastructures.libvirt"
    for uri in ("qemu:///system", "qemu+tcp://localhost/system", "qemu+tcp://127.0.0.1:1/system"):
        assert not LibvirtSettings(uri=uri, network="user").elsewhere
    assert LibvirtSettings().forwarding == "nat"
    assert LibvirtSettings(uri="qemu+tcp://h/system").forwarding == "route"


def test_doctor_of_another_host(host, monkeypatch):
    monkeypatch.setattr(libvirt_checks, "_PATIENCE", 90.0)

    def said(**changes: object) -> dict[str, tuple[str, str, str]]:
        chosen = msgspec.to_builtins(settings(host, **changes))
        return {c.check: (c.state, c.detail, c.hint) for c in checks_of("libvirt", chosen)}

    found = said()
    assert found["libvirt: daemon"][0] == "ok"
    assert NAME in found["libvirt: daemon"][1]
    assert "libvirt: dnsmasq" not in found, "that is needed over there"
    assert SUBNET in found["libvirt: network"][2]
    assert NAME in found["libvirt: KVM"][1]
    for uri in (host.ssh, host.tls):
        assert said(uri=uri)["libvirt: daemon"][0] == "ok"
    assert said(uri="qemu+tcp://10.254.77.2:1/system")["libvirt: daemon"][0] == "missing"
    network = "<network><name>pctnat</name><forward mode='nat'/><ip address='10.119.0.1' prefix='24'/></network>"
    subprocess.run(["virsh", "-q", "-c", host.uri, "net-define", "/dev/stdin"], input=network.encode(), check=True)
    state, detail, hint = said(network="pctnat")["libvirt: network"]
    assert state == "warning"
    assert "nat" in detail
    assert hint


class Journey:
    """Cuts the link at each call of another kind, once each: what is begun again after each cut goes a step further."""

    def __init__(self, link: Link) -> None:
        self.cut: list[Call] = []
        self._lock = threading.Lock()
        link.fault = self._fault

    def _fault(self, call: Call) -> str:
        with self._lock:
            if call in self.cut:
                return ""
            self.cut.append(call)
            return "cut"

    async def go(self, step: Callable[[], object]) -> None:
        """Do it again until no call of it is new. Every cut must be told as an absence, never as anything of the guest."""
        while True:
            count = len(self.cut)
            try:
                await step()  # type: ignore[misc]
            except InfrastructureUnavailable:
                assert len(self.cut) > count, "unavailable, though nothing was cut"
            else:
                return


async def test_a_link_that_breaks_at_every_call(host, tiny):
    """Each call of a start, an end, a check, a console and a delete is carried out by libvirtd, and its answer lost."""
    with link_to("10.254.77.2") as link:
        journey = Journey(link)
        driver = LibvirtInfrastructure(settings(host, link.uri))
        spec = test_libvirt_storage.spec("cut", tiny)
        await journey.go(lambda: driver.start(spec))
        started = len(journey.cut)
        assert started > 15, journey.cut
        assert host.names("list") == ["pct-shop.cut"]
        running = await driver.inspect("shop.cut")
        assert running.state is GuestState.RUNNING
        await journey.go(lambda: driver.console("shop.cut"))
        await journey.go(lambda: driver.stop("shop.cut", timeout=0.1))
        assert (await driver.inspect("shop.cut")).state is GuestState.STOPPED
        await journey.go(lambda: driver.start(spec))
        assert (await driver.inspect("shop.cut")).address == running.address
        await journey.go(lambda: driver.destroy("shop.cut"))
        await journey.go(lambda: driver.delete("shop.cut"))
        assert len(journey.cut) > started + 5
        await driver.close()
    assert_nothing_left(host)


async def test_what_happens_while_the_link_is_broken_is_told_when_it_is_back(host, tiny):
    with link_to("10.254.77.2") as link:
        driver = LibvirtInfrastructure(settings(host, link.uri))
        async with watching(driver) as events:
            await driver.start(test_libvirt_storage.spec("gone", tiny))
            await events.until("shop.gone", GuestState.RUNNING, since=0)
            link.fault = lambda _: "cut"
            with pytest.raises(InfrastructureUnavailable):
                await driver.list_guests()
            assert await driver.check("shop.gone", timeout=5) is Vitality.UNKNOWN
            os.kill(host.qemu("pct-shop.gone"), signal.SIGKILL)
            link.fault = lambda _: ""
            await events.until("shop.gone", GuestState.STOPPED, since=0)
        await driver.delete("shop.gone")
        await driver.close()


CREATE = 9
"""REMOTE_PROC_DOMAIN_CREATE of libvirt's protocol."""


async def test_a_start_that_was_given_up_does_not_outlive_an_isolation(host, tiny):
    """libvirtd hangs as the guest is to be started. Until that call has ended, nothing says that the guest is gone: it would
    start afterwards."""
    with link_to("10.254.77.2") as link:
        driver = LibvirtInfrastructure(settings(host, link.uri))
        spec = test_libvirt_storage.spec("late", tiny)
        await driver.start(spec)
        await driver.destroy("shop.late")
        hangs = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fault(call: Call) -> str:
            if call[0] == CREATE:
                loop.call_soon_threadsafe(hangs.set)
                return "hang"
            return ""

        link.fault = fault
        starting = asyncio.create_task(driver.start(spec))
        async with asyncio.timeout(300):
            await hangs.wait()
        starting.cancel()  # as at its time-out
        await asyncio.gather(starting, return_exceptions=True)
        for action in (driver.destroy, driver.delete):
            with pytest.raises(InfrastructureUnavailable):
                await action("shop.late")
        link.fault = lambda _: ""
        link.release()

        async def destroyed() -> bool:
            try:
                await driver.destroy("shop.late")
            except InfrastructureUnavailable:
                return False
            return True

        await poll(destroyed)
        assert (await driver.inspect("shop.late")).state is GuestState.STOPPED
        await driver.delete("shop.late")
        await driver.close()
    assert_nothing_left(host)


async def test_a_libvirtd_that_takes_connections_and_says_nothing(host, tmp_path: Path):
    """Each wait has its own end, however many wait; it is found again when it answers."""
    with link_to("10.254.77.2") as link:
        link.fault = lambda _: "hang"
        driver = LibvirtInfrastructure(settings(host, link.uri, call_timeout=0.5))
        for _ in range(12):  # more than there are threads for calls, and than there may be tries
            found = await asyncio.gather(*(driver.list_guests() for _ in range(3)), return_exceptions=True)
            assert all(isinstance(one, InfrastructureUnavailable) for one in found), found
        assert await driver.check("shop.web", timeout=1) is Vitality.UNKNOWN
        tries = [thread for thread in threading.enumerate() if thread.name == "libvirt-connect"]
        assert 1 <= len(tries) <= 2 * 8, "of two connections"
        link.fault = lambda _: ""
        link.release()
        driver._libvirt._timeout = 60.0  # what works may take its time

        async def answers() -> bool:
            try:
                return list(await driver.list_guests()) == []
            except InfrastructureUnavailable:
                return False

        await poll(answers)
        await driver.close()
