"""A guest's volumes, in a real storage pool that others use at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

import libvirt
import msgspec

from pcloud.environment.infrastructure import (
    GuestSpec,
    GuestState,
    Identity,
    Image,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt import LibvirtInfrastructure
from pcloud.infrastructure.libvirt_accelerator import Accelerator
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.libvirt_storage import Storage
from tests.infrastructure.contract import poll, verdict, watching
from tests.infrastructure.libvirtd import Libvirtd
from tests.infrastructure.machine import tiny_image

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def settings(libvirtd: Libvirtd) -> LibvirtSettings:
    return LibvirtSettings(
        uri=libvirtd.uri, state=str(libvirtd.folder / "state"), prefix="pct-", pool="pcts", network="pcts"
    )


@pytest.fixture
def connection(libvirtd):
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print every error
    connection = libvirt.open(libvirtd.uri)
    yield connection
    connection.close()


@pytest.fixture
def image(tmp_path) -> Image:
    return tiny_image(tmp_path)


def spec(name: str, image: Image) -> GuestSpec:
    return GuestSpec(
        guest_id=f"shop.{name}",
        deployable="shop",
        assembly=name,
        image=image,
        memory=32,
        digest="d",
        identity=Identity(hostname=name),
    )


@contextlib.contextmanager
def beside(libvirtd: Libvirtd, *works: Callable[[object], None]) -> Iterator[None]:
    """Do each of `works` again and again, in a thread and with a connection of its own, while the block runs."""
    over = threading.Event()

    def run(work: Callable[[object], None]) -> None:
        connection = libvirt.open(libvirtd.uri)
        while not over.is_set():
            with contextlib.suppress(libvirt.libvirtError):  # others are in its way, as it is in theirs
                work(connection)
        connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_nothing_is_left_of_a_guest_whatever_others_do_in_the_pool(libvirtd, connection):
    """libvirt knows of files that QEMU wrote only after a refresh, which it refuses while volumes are made; and what it does
    not know of now, it may know of a moment later by a refresh of somebody else."""
    storage = Storage(settings(libvirtd))
    pool = storage.pool(connection)

    def refresh(other):
        other.storagePoolLookupByName("pcts").refresh(0)

    def make(other):
        mine = other.storagePoolLookupByName("pcts")
        mine.createXML(xml.volume_document("beside.qcow2", 1 << 20, "qcow2"), 0).delete(0)

    def read(other):
        mine = other.storagePoolLookupByName("pcts")
        stream = other.newStream(0)
        mine.storageVolLookupByName("pct-shop.many.console").download(stream, 0, 4, 0)
        stream.recvAll(lambda _stream, _data, _sink: None, None)
        stream.finish()

    with beside(libvirtd, refresh, make, read):
        for _ in range(15):
            for suffix in ("seed", "base.qcow2"):
                storage.put(connection, f"pct-shop.many.{suffix}", b"known to libvirt")
            for suffix in ("state", "qcow2", "console", "console.0", "0123456789abcdef.saved"):
                (libvirtd.volumes / f"pct-shop.many.{suffix}").write_bytes(b"by QEMU")
            (libvirtd.volumes / "pct-shop.many2.console").write_bytes(b"of another guest")
            storage.remove_guest(connection, "pct-shop.many")
            assert libvirtd.guests_volumes() == ["pct-shop.many2.console"]
    storage.remove_guest(connection, "pct-shop.many2")
    assert pool.isActive()


def test_a_disk_that_libvirt_has_not_seen_yet_is_there(libvirtd, connection):
    """It would else be made anew, and the guest lose what it had written."""
    storage = Storage(settings(libvirtd))
    storage.pool(connection)
    disk = libvirtd.volumes / "pct-shop.web.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True)
    assert storage.overlay_path(connection, "pct-shop.web") == str(disk)
    assert storage.overlay_path(connection, "pct-shop.none") == ""


def test_what_is_made_anew_replaces_what_libvirt_has_not_seen_yet(libvirtd, connection):
    storage = Storage(settings(libvirtd))
    storage.pool(connection)
    (libvirtd.volumes / "pct-shop.web.seed").write_bytes(b"older")
    path = storage.put(connection, "pct-shop.web.seed", b"newer")
    assert Path(path).read_bytes().rstrip(b"\0") == b"newer"


def test_a_pool_with_guests_of_another_daemon_stays(libvirtd, connection):
    storage = Storage(settings(libvirtd))
    storage.put(connection, "pct-other.web.seed", b"of a daemon with another prefix")
    storage.remove_pool(connection, lambda: True)
    assert storage.exists(connection, "pct-other.web.seed")
    storage.remove_guest(connection, "pct-other.web")
    storage.remove_pool(connection, lambda: False)
    assert connection.storagePoolLookupByName("pcts").isActive()
    storage.remove_pool(connection, lambda: True)
    assert connection.listAllStoragePools(0) == []


async def test_the_last_guest_leaves_while_another_is_made(libvirtd, image):
    """What they share stays for the one that is being made, which has no domain yet."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def prepare(wanted: Image) -> Image:
        if not wanted.disk:
            begun.set()
            await go_on.wait()
        return image

    infrastructure = LibvirtInfrastructure(settings(libvirtd), prepare)
    await infrastructure.start(spec("first", image))
    making = asyncio.create_task(infrastructure.start(spec("second", Image(name="tiny", digest="tiny"))))
    async with asyncio.timeout(300):
        await begun.wait()
    await infrastructure.delete("shop.first")
    assert libvirtd.names("net-list") == libvirtd.names("pool-list") == ["pcts"]
    go_on.set()
    assert (await making).state is GuestState.RUNNING
    await infrastructure.delete("shop.second")
    await infrastructure.close()
    assert libvirtd.guests_volumes() == []
    assert libvirtd.names("net-list") == libvirtd.names("pool-list") == []


class Probes:
    """A libvirtd whose QEMU ends at each start with these kinds of domain, and says so as libvirt does."""

    def __init__(self, broken: dict[str, tuple[int, str]]) -> None:
        self.broken = broken
        self.started: list[str] = []

    def getDomainCapabilities(self, *_: object) -> str:
        return "<domainCapabilities/>"

    def createXML(self, document: str, flags: int) -> Probes:
        assert flags & libvirt.VIR_DOMAIN_START_AUTODESTROY
        kind = document.split('"')[1]
        self.started.append(kind)
        if kind in self.broken:
            code, text = self.broken[kind]
            error = libvirt.libvirtError(text)
            error.err = (code, libvirt.VIR_FROM_QEMU, text)  # type: ignore[assignment]
            raise error
        return self

    def destroy(self) -> None:
        pass


def test_kvm_that_is_there_and_does_not_work():
    ended = (libvirt.VIR_ERR_INTERNAL_ERROR, "qemu unexpectedly closed the monitor")
    gone = (libvirt.VIR_ERR_OPERATION_FAILED, "domain is no longer running")
    away = (libvirt.VIR_ERR_RPC, "client socket is closed")
    for reason in (ended, gone):
        one, probes = Accelerator("auto"), Probes({"kvm": reason})
        assert [one.choose(probes) for _ in range(3)] == ["tcg"] * 3
        assert probes.started == ["kvm", "qemu"], "asked once"
    works = Probes({})
    assert Accelerator("auto").choose(works) == "kvm"
    assert works.started == ["kvm"]
    for setting in ("kvm", "tcg"):
        untouched = Probes({"kvm": ended})
        assert (Accelerator(setting).choose(untouched), untouched.started) == (setting, [])
    for broken in ({"kvm": ended, "qemu": ended}, {"kvm": away}):
        one = Accelerator("auto")
        with pytest.raises(libvirt.libvirtError):
            one.choose(Probes(broken))
        assert one.choose(Probes({})) == "kvm", "it was not KVM's fault"


async def test_a_guest_is_never_the_one_that_tries_kvm(libvirtd, image):
    """libvirt tells the end of a QEMU late, and ends whatever runs in the same domain by then: what shows whether KVM works
    must not be the guest, which would be started again at once where it does not."""
    infrastructure = LibvirtInfrastructure(settings(libvirtd))
    await infrastructure.start(spec("tries", image))
    log = libvirtd.inside("cat", "/var/log/libvirt/qemu/pct-shop.tries.log")
    starts = subprocess.run(log, capture_output=True, text=True, check=True).stdout.count("starting up libvirt version")
    await infrastructure.delete("shop.tries")
    await infrastructure.close()
    assert starts == 1
    assert libvirtd.names("list") == []


async def test_a_hung_guest_is_asked_about_again_and_again(libvirtd, image):
    """libvirtd serves five requests of a connection at once, and each question to a QEMU that hangs is one: they must not
    take what the guest's isolation needs."""
    infrastructure = LibvirtInfrastructure(settings(libvirtd))
    await infrastructure.start(spec("hung", image))
    libvirtd.freeze("pct-shop.hung")
    for _ in range(8):
        assert await verdict(infrastructure, "shop.hung") is Vitality.HUNG
    await infrastructure.destroy("shop.hung")
    assert await verdict(infrastructure, "shop.hung") is Vitality.GONE
    assert (await infrastructure.start(spec("hung", image))).state is GuestState.RUNNING
    assert await infrastructure.check("shop.hung", timeout=20) is Vitality.UNKNOWN, (
        "its QEMU answers, nothing in it does"
    )
    await infrastructure.delete("shop.hung")
    await infrastructure.close()


async def test_a_console_keeps_what_earlier_starts_wrote_within_bounds(libvirtd, image):
    """QEMU writes it itself here, as with `stdio_handler = "file"`."""
    infrastructure = LibvirtInfrastructure(settings(libvirtd))
    await infrastructure.start(spec("talks", image))
    console = libvirtd.volumes / "pct-shop.talks.console"

    async def again() -> bytes:
        await infrastructure.destroy("shop.talks")
        await infrastructure.start(spec("talks", image))
        return await infrastructure.console("shop.talks")

    console.write_bytes(b"of the first start\n")
    assert await again() == b"of the first start\n", "a start does not empty it"
    (libvirtd.volumes / "pct-shop.talks.console.0").write_bytes(b"moved aside\n")
    assert await again() == b"moved aside\nof the first start\n"
    console.write_bytes(bytes(4 << 20) + b"!")
    shown = await again()
    assert (len(shown), shown[-1:]) == (64 << 10, b"!")
    assert console.stat().st_size == len(shown), "only the newest is kept"
    await infrastructure.delete("shop.talks")
    assert await infrastructure.console("shop.talks") == b""
    await infrastructure.close()
    assert libvirtd.guests_volumes() == []


async def test_a_libvirtd_that_hangs_in_every_action(libvirtd, image):
    """Nothing is concluded from any of them, nothing told; all of it goes on when libvirtd does."""
    infrastructure = LibvirtInfrastructure(msgspec.structs.replace(settings(libvirtd), call_timeout=2.0))
    other = LibvirtInfrastructure(settings(libvirtd))  # with patience, for what works
    wanted = spec("waits", image)
    await other.start(wanted)
    async with watching(infrastructure) as events:
        await events.until("shop.waits", GuestState.RUNNING, since=0)
        told = len(events.seen)
        libvirtd.send(signal.SIGSTOP)
        try:
            found = await asyncio.gather(
                infrastructure.places(),
                infrastructure.list_guests(),
                infrastructure.inspect("shop.waits"),
                infrastructure.start(wanted),
                infrastructure.start(spec("another", image)),
                infrastructure.stop("shop.waits", timeout=1),
                infrastructure.destroy("shop.waits"),
                infrastructure.delete("shop.waits"),
                infrastructure.console("shop.waits"),
                infrastructure.execute("shop.waits", ["true"]),
                return_exceptions=True,
            )
            assert [type(each) for each in found] == [InfrastructureUnavailable] * len(found), found
            assert await infrastructure.check("shop.waits", timeout=2) is Vitality.UNKNOWN
            assert len(events.seen) == told
        finally:
            libvirtd.send(signal.SIGCONT)

        async def works() -> bool:
            with contextlib.suppress(InfrastructureUnavailable):
                await infrastructure.destroy("shop.waits")
                return True
            return False

        await poll(works)
        await events.until("shop.waits", GuestState.STOPPED, since=0)
    assert (await other.start(wanted)).state is GuestState.RUNNING
    assert [info.guest_id for info in await other.list_guests()] == ["shop.waits"]
    await other.delete("shop.waits")
    for each in (infrastructure, other):
        await each.close()
    assert libvirtd.guests_volumes() == []
