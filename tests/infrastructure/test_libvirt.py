"""The libvirt driver against a real libvirtd and real machines (TCG where there is no KVM)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import msgspec
import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import (
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    Identity,
    Image,
    InfrastructureError,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.environment.transport import Endpoint, Operation
from pcloud.infrastructure import libvirt_checks
from pcloud.infrastructure.checks import checks_of
from pcloud.infrastructure.libvirt import LibvirtInfrastructure
from pcloud.infrastructure.libvirt_domains import differences
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from tests.infrastructure.contract import InfrastructureContract, verdict
from tests.infrastructure.libvirtd import Libvirtd
from tests.infrastructure.machine import machine_image, tiny_image
from tests.transport.sshd import connected, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
BRIDGE = f"pct{os.getpid()}"
USER = asyncssh.generate_private_key("ssh-ed25519")
HOST = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture(scope="module")
def image():
    return machine_image()


def settings(libvirtd: Libvirtd, **changes: object) -> LibvirtSettings:
    values: dict[str, object] = {
        "uri": libvirtd.uri,
        "state": str(libvirtd.folder / "state"),
        "prefix": "pct-",
        "pool": "pct",
        "network": "pct",
        "bridge": BRIDGE,
        "call_timeout": 40.0,
    }
    return LibvirtSettings(**(values | changes))  # type: ignore[arg-type]


def spec(image: Image, **changes: object) -> GuestSpec:
    values: dict[str, object] = {
        "guest_id": "shop.web",
        "deployable": "shop",
        "assembly": "web",
        "image": image,
        "memory": 256,
        "digest": "d1",
        "start_timeout": 900.0,
        "identity": Identity(
            hostname="web1",
            authorized_key=USER.export_public_key().decode(),
            host_private_key=HOST.export_private_key().decode(),
            agent_key=b"k" * 32,
        ),
    }
    return GuestSpec(**(values | changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def driver(
    libvirtd: Libvirtd, **changes: object
) -> AsyncIterator[tuple[LibvirtInfrastructure, list[GuestEvent]]]:
    infrastructure = LibvirtInfrastructure(settings(libvirtd, **changes))
    events: list[GuestEvent] = []

    async def watch() -> None:
        while True:  # as the engine does
            with contextlib.suppress(InfrastructureUnavailable):
                async for event in infrastructure.watch():
                    events.append(event)  # noqa: PERF401 - seen as they come
            await asyncio.sleep(0.1)

    task = asyncio.create_task(watch())
    try:
        yield infrastructure, events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await infrastructure.close()


@pytest.fixture
async def guest(libvirtd, image):
    """A driver that removes all its guests at the end."""
    async with driver(libvirtd) as (infrastructure, events):
        yield infrastructure, events
        await delete_all(libvirtd, infrastructure)


async def delete_all(libvirtd: Libvirtd, infrastructure: LibvirtInfrastructure) -> None:
    """Delete all guests, and see that nothing is left of any, of those that the test deleted neither. A connection that a
    busy machine has let time out is opened again, as the engine does."""
    async with asyncio.timeout(300):
        while True:
            with contextlib.suppress(InfrastructureUnavailable):
                for info in await infrastructure.list_guests():
                    await infrastructure.delete(info.guest_id)
                break
            await asyncio.sleep(0.1)
    assert libvirtd.guests_volumes() == libvirtd.names("list") == []


async def alive(infrastructure: LibvirtInfrastructure, seconds: float = 600) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while await infrastructure.check("shop.web", timeout=5) is not Vitality.ALIVE:
        assert asyncio.get_running_loop().time() < deadline, await infrastructure.console("shop.web")
        await asyncio.sleep(0.5)


def endpoint(address: str, port: int = 22) -> Endpoint:
    return Endpoint(
        guest_id="shop.web",
        address=address,
        port=port,
        private_key=USER.export_private_key().decode(),
        host_key=HOST.export_public_key().decode(),
    )


class TestContract(InfrastructureContract):
    """What every infrastructure must do; with guests in which nothing runs, for an emulated boot takes long. What hangs is
    told from what runs in `test_life_of_a_machine`, and in the contract with another host."""

    stop_timeout = 0.5
    many = 3
    test_a_frozen_guest_is_hung_and_can_be_destroyed = None  # type: ignore[assignment]

    @pytest.fixture
    async def infrastructure(self, libvirtd):
        async with driver(libvirtd) as (infrastructure, _):
            yield infrastructure
            await delete_all(libvirtd, infrastructure)

    @pytest.fixture
    def make_spec(self, tmp_path):
        tiny = tiny_image(tmp_path)
        return lambda name: spec(tiny, guest_id=f"shop.{name}", assembly=name, memory=32)

    @pytest.fixture(autouse=True)
    def _keep(self, libvirtd):
        self.libvirtd = libvirtd

    async def kill(self, infrastructure, guest_id):
        os.kill(self.libvirtd.qemu(f"pct-{guest_id}"), signal.SIGKILL)

    def reopen(self, infrastructure):
        return LibvirtInfrastructure(settings(self.libvirtd))


async def test_life_of_a_machine(libvirtd, guest, image):
    infrastructure, events = guest
    info = await infrastructure.start(spec(image))
    assert (info.state, info.digest) == (GuestState.RUNNING, "d1")
    assert info.address.startswith("10.")
    assert (await infrastructure.list_guests()) == [info]
    assert (await infrastructure.start(spec(image))).boot_id == info.boot_id, "what runs is left alone"
    await alive(infrastructure)
    result = await infrastructure.execute("shop.web", ["sh", "-c", "hostname; cat; exit 3"], stdin=b"a'b\n$HOME")
    assert (result.returncode, result.stdout) == (3, b"web1\na'b\n$HOME")
    with pytest.raises(InfrastructureError):
        await infrastructure.execute("shop.web", ["sleep", "100"], timeout=1)
    assert b"Linux" in await infrastructure.console("shop.web") or b"systemd" in await infrastructure.console(
        "shop.web"
    )

    # ssh into it: nothing of ours is inside; systemd units as Pacemaker does them
    told = []
    connection = await connected(endpoint(info.address), told.append)
    nginx = {"resource": "rsc_web_httpd", "resource_class": "systemd", "type": "nginx", "timeout": 30.0}
    assert (await connection.execute(Operation(action="stop", **nginx))).rc == 0
    assert (await connection.execute(Operation(action="monitor", **nginx))).rc == 7
    assert (await connection.execute(Operation(action="start", **nginx))).rc == 0
    assert (await connection.execute(Operation(action="monitor", interval=60.0, **nginx))).rc == 0
    show = await connection.run(["systemctl", "show", "-p", "Restart", "--value", "nginx"])
    assert show.stdout.strip() == b"no", "systemd must not restart what we manage"
    missing = Operation(resource="x", resource_class="systemd", type="nothing", action="monitor", timeout=20.0)
    assert (await connection.execute(missing)).rc == 5
    await connection.run(["sh", "-c", "kill -9 $(cat /run/nginx.pid)"])
    await until(lambda: bool(told), 10)
    assert (told[0].rc, told[0].signal) == (7, "exit")
    told.clear()

    # shut down in order: told as such, and its disk stays
    await connection.run(["sh", "-c", "head -c 9000000 /dev/urandom > /root/mark; sync"])
    await connection.close()
    events.clear()
    await infrastructure.stop("shop.web", timeout=300)
    assert (await infrastructure.inspect("shop.web")).state is GuestState.STOPPED
    await told_that_it_ended(events, "shutdown")
    again = await infrastructure.start(spec(image))
    assert again.boot_id != info.boot_id
    assert again.address == info.address, "a guest keeps its address"
    assert written(libvirtd, "pct-shop.web.qcow2") > 9_000_000, "its disk stays"

    # hung: seen by a signal that needs no network, isolated, gone
    pid = libvirtd.freeze("pct-shop.web")
    assert await verdict(infrastructure, "shop.web") is Vitality.HUNG
    await infrastructure.destroy("shop.web")
    assert not Path(f"/proc/{pid}").exists(), "confirmed isolation: the process is gone when destroy returns"
    assert await verdict(infrastructure, "shop.web") is Vitality.GONE
    await infrastructure.destroy("shop.web")

    # of something else: made anew
    other = await infrastructure.start(spec(image, digest="d2"))
    assert (other.digest, other.boot_id == again.boot_id) == ("d2", False)
    assert written(libvirtd, "pct-shop.web.qcow2") < 4 << 20, "its disk is a new one"

    # killed from outside: a crash, told as such
    events.clear()
    os.kill(libvirtd.qemu("pct-shop.web"), signal.SIGKILL)
    await told_that_it_ended(events, "crashed")
    assert (await infrastructure.inspect("shop.web")).state is GuestState.STOPPED

    # deleted: nothing is left
    await infrastructure.delete("shop.web")
    await infrastructure.delete("shop.web")
    assert (await infrastructure.inspect("shop.web")).state is GuestState.ABSENT
    assert_nothing_left(libvirtd)


async def told_that_it_ended(events: list[GuestEvent], reason: str) -> None:
    """Wait until libvirt's event has told how a guest ended; a look at all guests may have told that it did before."""

    def told() -> set[str]:
        return {event.reason for event in events if event.state is GuestState.STOPPED} - {"seen"}

    await until(told)
    assert told() == {reason}


def written(libvirtd: Libvirtd, volume: str) -> int:
    """Bytes that a disk takes."""
    return (libvirtd.volumes / volume).stat().st_blocks * 512


def assert_nothing_left(libvirtd: Libvirtd) -> None:
    assert libvirtd.guests_volumes() == []
    for listing in ("list", "net-list", "pool-list"):
        assert libvirtd.names(listing) == []
    assert not Path("/sys/class/net", BRIDGE).exists()


async def test_saved_state(libvirtd, guest, image):
    """Booted once; every later start is a restore of that guest's own state, with a disk as new."""
    infrastructure, events = guest
    wanted = spec(image, saved_state=True)
    first = await infrastructure.start(wanted)
    await until(lambda: bool(events))
    assert {event.state for event in events} == {GuestState.RUNNING}, "saving is no end of the guest"
    assert [path.name for path in (libvirtd.volumes).glob("pct-shop.web.*.saved")]

    async def facts() -> list[bytes]:
        return (await run(["cat", "/etc/hostname", "/proc/sys/kernel/random/boot_id", "/etc/machine-id"])).split()

    async def run(argv: list[str]) -> bytes:
        result = await infrastructure.execute("shop.web", argv)
        assert result.returncode == 0, result.stderr
        return result.stdout

    inside = await facts()
    await run(["touch", "/root/mark"])
    await run(["sync"])
    os.kill(libvirtd.qemu("pct-shop.web"), signal.SIGKILL)
    await until(lambda: any(event.state is GuestState.STOPPED for event in events), 10)
    began = time.time()
    again = await infrastructure.start(wanted)
    assert again.boot_id != first.boot_id
    assert again.address == first.address
    assert await facts() == inside, "the same guest, in the same boot"
    assert (await infrastructure.execute("shop.web", ["ls", "/root/mark"])).returncode != 0, "it keeps nothing"
    assert float(await run(["date", "+%s.%N"])) > began - 1, (
        "its clock was set: it stood still when its state was saved"
    )
    connection = await connected(endpoint(again.address))  # its own host key and address
    random = (await connection.run(["head", "-c", "16", "/dev/urandom"])).stdout
    await connection.close()

    # restored once more: its random numbers are others
    await infrastructure.destroy("shop.web")
    await infrastructure.start(wanted)
    connection = await connected(endpoint(again.address))
    assert (await connection.run(["head", "-c", "16", "/dev/urandom"])).stdout != random
    await connection.close()
    works = await infrastructure.execute(
        "shop.web", ["perl", "-e", "open(R, q(+<), q(/dev/urandom)) && ioctl(R, 0x5207, 0) or exit 1"]
    )
    assert works.returncode == 0, "what makes the kernel reseed at once"

    # a state that can not be restored, or is of something else, is not: the guest boots
    await infrastructure.destroy("shop.web")
    (libvirtd.volumes / "pct-shop.web.state").write_bytes(b"not a state")
    await infrastructure.start(msgspec.structs.replace(wanted, start_timeout=0.1))
    assert not list((libvirtd.volumes).glob("pct-shop.web.*.saved"))
    await infrastructure.delete("shop.web")
    assert_nothing_left(libvirtd)


async def test_libvirtd_away_and_back(libvirtd, guest, image):
    """Nothing is declared dead while libvirtd is away; what happened meanwhile is told when it is back."""
    infrastructure, events = guest
    first = await infrastructure.start(spec(image))
    second = await infrastructure.start(spec(image, guest_id="shop.db", assembly="db"))
    await until(lambda: len(events) >= 2, 5)
    events.clear()
    libvirtd.kill()
    with pytest.raises(InfrastructureUnavailable):
        await infrastructure.list_guests()
    with pytest.raises(InfrastructureUnavailable):
        await infrastructure.destroy("shop.web")
    assert await infrastructure.check("shop.web", timeout=3) is Vitality.UNKNOWN
    os.kill(libvirtd.qemu("pct-shop.db"), signal.SIGKILL)
    await asyncio.sleep(3)
    assert events == []
    libvirtd.start()
    await until(lambda: bool(events), 30)
    assert {(event.guest_id, event.state) for event in events} == {("shop.db", GuestState.STOPPED)}
    assert (await infrastructure.inspect("shop.web")).boot_id == first.boot_id, "it ran on, and is known again"
    assert (await infrastructure.inspect("shop.db")).digest == second.digest

    # a new process of ours adopts it
    async with driver(libvirtd) as (other, other_events):
        assert await other.inspect("shop.web") == await infrastructure.inspect("shop.web")
        await until(lambda: len({event.guest_id for event in other_events}) == 2)
        assert {(event.guest_id, event.state) for event in other_events} == {
            ("shop.web", GuestState.RUNNING),
            ("shop.db", GuestState.STOPPED),
        }


async def test_doctor_asks_the_daemon_of_the_settings(libvirtd, tmp_path, monkeypatch):
    monkeypatch.setattr(libvirt_checks, "_PATIENCE", 90.0)

    def daemon(**settings: object) -> list[tuple[str, str]]:
        return [(c.state, c.hint) for c in checks_of("libvirt", settings) if c.check == "libvirt: daemon"]

    assert daemon(uri=libvirtd.uri) == [("ok", "")]
    ((state, hint),) = daemon(uri=f"qemu:///system?socket={tmp_path}/none")
    assert state == "missing"
    assert "libvirtd" in hint
    monkeypatch.setattr(libvirt_checks, "_PATIENCE", 1.0)
    libvirtd.send(signal.SIGSTOP)
    try:
        assert daemon(uri=libvirtd.uri)[0][0] == "missing"
    finally:
        libvirtd.send(signal.SIGCONT)
    wrong = [c for c in checks_of("libvirt", {"memroy": 1}) if c.check == "libvirt: settings"]
    assert "memroy" in wrong[0].detail


async def test_no_libvirtd_at_all(tmp_path):
    infrastructure = LibvirtInfrastructure(
        LibvirtSettings(uri=f"qemu:///system?socket={tmp_path}/none", state=str(tmp_path))
    )
    with pytest.raises(InfrastructureUnavailable):
        await infrastructure.list_guests()
    await infrastructure.close()


@pytest.mark.parametrize("guest_id", ["", "../x", "a/b", "A", "a b", "x" * 128, "a\0b"])
async def test_bad_guest_ids(tmp_path, guest_id):
    infrastructure = LibvirtInfrastructure(LibvirtSettings(state=str(tmp_path)))
    with pytest.raises(InfrastructureError) as caught:
        await infrastructure.inspect(guest_id)
    assert caught.value.permanent
    await infrastructure.close()


async def test_image_without_a_disk_is_a_permanent_error(guest):
    infrastructure, _ = guest
    with pytest.raises(InfrastructureError) as caught:
        await infrastructure.start(spec(Image(name="x", digest="none")))
    assert caught.value.permanent


async def test_half_an_upload_is_done_again(libvirtd, guest, image, tmp_path):
    infrastructure, _ = guest
    await infrastructure.start(spec(image))
    await infrastructure.destroy("shop.web")
    volumes = libvirtd.volumes
    (mark,) = volumes.glob(f"{image.digest}-*.ok")
    subprocess.run(["virsh", "-q", "-c", libvirtd.uri, "vol-delete", mark.name, "pct"], check=True)
    with mark.with_suffix(".kernel").open("r+b") as file:
        file.truncate(1000)
    await infrastructure.delete("shop.web")
    await infrastructure.start(spec(image))
    (kernel,) = volumes.glob(f"{image.digest}-*.kernel")
    assert kernel.stat().st_size == Path(image.kernel).stat().st_size
    assert kernel.name != mark.with_suffix(".kernel").name


async def test_full_disk_leaves_no_half(libvirtd, image):
    small = libvirtd.folder / "small"
    small.mkdir()
    mount = [
        "nsenter",
        "-t",
        str(libvirtd.holder.pid),
        "-m",
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=20m",
        "small",
        str(small),
    ]
    subprocess.run(mount, check=True)
    async with driver(libvirtd, state=str(small), pool="pctsmall") as (infrastructure, _):
        with pytest.raises(InfrastructureError) as caught:
            await infrastructure.start(spec(image))
        assert not isinstance(caught.value, InfrastructureUnavailable)
        assert (await infrastructure.inspect("shop.web")).state is GuestState.ABSENT
        await infrastructure.delete("shop.web")


def first_words(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), 10) as probe:
        probe.settimeout(5)
        try:
            return probe.recv(100)
        except OSError:
            return b""


async def test_user_mode_network(libvirtd, image):
    async with driver(libvirtd, network="user") as (infrastructure, _):
        info = await infrastructure.start(spec(image))
        try:
            host, port = info.reach(22)
            assert host == "127.0.0.1"
            banner = b""
            async with asyncio.timeout(600):  # QEMU accepts connections before the guest's sshd does
                while not banner.startswith(b"SSH-2.0"):
                    banner = await asyncio.to_thread(first_words, host, port)
            assert info.reach(80)[0] == "127.0.0.1"
        finally:
            await infrastructure.delete("shop.web")


def test_a_look_tells_only_what_events_did_not():
    running, stopped, absent = GuestState.RUNNING, GuestState.STOPPED, GuestState.ABSENT
    seen = [GuestInfo(guest_id="a", state=running), GuestInfo(guest_id="b", state=stopped)]
    before = {"a": running, "b": running, "c": running}
    told = differences(before, {**before}, seen)
    assert {(e.guest_id, e.state) for e in told} == {("b", stopped), ("c", absent)}
    assert differences(before, {**before, "b": stopped, "c": absent}, seen) == [], "told while we looked"
    assert {(e.guest_id, e.state) for e in differences({}, {}, seen)} == {("a", running), ("b", stopped)}
