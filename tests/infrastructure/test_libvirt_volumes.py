"""Volumes of libvirt's guests: in their definitions and machines, whoever dies, against a real libvirtd. Nothing runs in
these machines: a disk comes and goes without a guest's help. What a guest sees is in `test_libvirt`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

import msgspec

from pcloud.environment.infrastructure import Capability, GuestSpec, GuestState, InfrastructureError
from pcloud.infrastructure import libvirt_volume_xml
from pcloud.infrastructure.libvirt import LibvirtInfrastructure
from pcloud.infrastructure.libvirt_checks import lacking
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.libvirt_volume_xml import guest_name, guest_names
from pcloud.infrastructure.libvirt_volumes import LibvirtVolumes
from pcloud.model.deployable import AttachedVolume
from tests.infrastructure import test_libvirt_storage
from tests.infrastructure.contract import poll
from tests.infrastructure.libvirtd import Libvirtd
from tests.infrastructure.machine import tiny_image

real = [pytest.mark.real, pytest.mark.timeout(900)]
MIB = 1 << 20
ONE = AttachedVolume(volume="vol-1", device="/dev/vdb")
TWO = AttachedVolume(volume="vol-2", device="/dev/sdf")


@pytest.fixture
def settings(libvirtd: Libvirtd) -> LibvirtSettings:
    return msgspec.structs.replace(test_libvirt_storage.settings(libvirtd), network="user")


@pytest.fixture
async def driver(libvirtd: Libvirtd, settings: LibvirtSettings) -> AsyncIterator[LibvirtInfrastructure]:
    """A driver with two volumes; at the end nothing of its guests and volumes is left."""
    shutil.rmtree(Path(settings.state) / "disks", ignore_errors=True)  # of a test that failed
    infrastructure = LibvirtInfrastructure(settings)
    for one in (ONE, TWO):
        await infrastructure.volumes.create(one.volume, MIB)
    yield infrastructure
    for info in await infrastructure.list_guests():
        await infrastructure.delete(info.guest_id)
    for told in await infrastructure.volumes.all_volumes():
        assert told.holder == ""
        await infrastructure.volumes.delete(told.volume)
    await infrastructure.close()
    assert not (Path(settings.state) / "disks").exists()


@pytest.fixture
def web(tmp_path: Path) -> GuestSpec:
    return test_libvirt_storage.spec("web", tiny_image(tmp_path))


def seen(libvirtd: Libvirtd, settings: LibvirtSettings, *options: str) -> list[tuple[str, str]]:
    """The volumes of the guest's machine, or with `--inactive` of its definition, as libvirt has them."""
    words = ["virsh", "-q", "-c", libvirtd.uri, "dumpxml", *options, "pct-shop.web"]
    text = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
    return sorted(disk.what for disk in libvirt_volume_xml.disks_of(text, Path(settings.state) / "disks"))


@pytest.mark.parametrize(
    ("device", "name"),
    [("/dev/vdb", "vdb"), ("/dev/vdaa", "vdaa"), ("/dev/sdf", "xvdf"), ("/dev/xvdf", "xvdf"), ("/dev/hdc", "hdc")],
)
def test_names_in_a_guest(device: str, name: str) -> None:
    assert guest_name(device) == name


@pytest.mark.parametrize(
    "device", ["/dev/vda", "vdb", "/dev/vdb1", "/dev/../vdb", "/dev/vd", "/dev/vdb\n", "", "/dev/vdB"]
)
def test_names_that_no_volume_has(device: str) -> None:
    with pytest.raises(InfrastructureError) as caught:
        guest_name(device)
    assert caught.value.permanent


def test_two_volumes_never_have_one_name() -> None:
    pair = [TWO, AttachedVolume(volume="vol-3", device="/dev/xvdf")]
    with pytest.raises(InfrastructureError, match="is another volume"):
        guest_names(pair)


@pytest.mark.parametrize("volume", ["", "../x", "a/b", "A", ".x", "x" * 64, "a\n", "<a"])
def test_ids_that_no_volume_has(tmp_path: Path, volume: str) -> None:
    volumes = LibvirtVolumes(LibvirtSettings(state=str(tmp_path)))
    for call in (
        lambda: volumes.create(volume, MIB),
        lambda: volumes.delete(None, volume),
        lambda: volumes.exists(volume),
    ):
        with pytest.raises(InfrastructureError, match="is no volume's id"):
            call()
    assert list(tmp_path.iterdir()) == []


async def test_only_where_libvirtd_is_on_this_host() -> None:
    """Elsewhere they are refused, by the plan and by the driver."""
    elsewhere = {"uri": "qemu+ssh://root@elsewhere.example/system", "state": "/var/lib/x"}
    assert Capability.VOLUMES in lacking(elsewhere)
    infrastructure = LibvirtInfrastructure(msgspec.convert(elsewhere, LibvirtSettings))
    assert not {Capability.VOLUMES, Capability.SNAPSHOTS} & infrastructure.capabilities
    await infrastructure.close()
    assert Capability.VOLUMES not in lacking({})


class TestMachines:
    """With machines."""

    pytestmark = real

    async def test_a_running_machine_gets_and_gives_back(
        self, libvirtd: Libvirtd, settings: LibvirtSettings, driver: LibvirtInfrastructure, web: GuestSpec
    ) -> None:
        """In its definition and its machine alike, and its file is closed when it is off; its death and that of libvirtd
        change nothing; another name is another disk."""
        volumes = driver.volumes
        await driver.start(web)
        both = [("vol-1", "vdb"), ("vol-2", "xvdf")]
        for _ in range(2):
            await volumes.attach("shop.web", [ONE, TWO])
            assert seen(libvirtd, settings) == seen(libvirtd, settings, "--inactive") == both
        kept = LibvirtVolumes(settings)
        assert kept.in_use("vol-1"), "QEMU has it open"

        libvirtd.kill()
        libvirtd.start()
        await poll(lambda: holds(driver, ONE, "shop.web"))
        os.kill(libvirtd.qemu("pct-shop.web"), signal.SIGKILL)
        await poll(lambda: stopped(driver))
        assert await volumes.holder("vol-1") == (True, "shop.web"), "its next start has it"
        await driver.start(msgspec.structs.replace(web, volumes=(ONE, TWO)))
        assert seen(libvirtd, settings) == both

        renamed = AttachedVolume(volume="vol-2", device="/dev/vdc")
        await volumes.attach("shop.web", [renamed])
        assert seen(libvirtd, settings) == seen(libvirtd, settings, "--inactive") == [("vol-2", "vdc")]
        assert not kept.in_use("vol-1")
        assert await volumes.holder("vol-1") == (True, "")
        with pytest.raises(InfrastructureError, match="there is no volume vol-9"):
            await volumes.attach("shop.web", [AttachedVolume(volume="vol-9", device="/dev/vdd")])
        await volumes.attach("shop.web", [])
        assert seen(libvirtd, settings) == seen(libvirtd, settings, "--inactive") == []

    async def test_a_machine_that_is_off_or_made_anew(
        self, libvirtd: Libvirtd, settings: LibvirtSettings, driver: LibvirtInfrastructure, web: GuestSpec
    ) -> None:
        """What is attached while it is off it has at its next start; one that is made anew has its volumes, and their
        content."""
        volumes = driver.volumes
        await driver.start(web)
        await driver.destroy("shop.web")
        await volumes.attach("shop.web", [ONE])
        assert seen(libvirtd, settings, "--inactive") == [("vol-1", "vdb")]
        LibvirtVolumes(settings).path("vol-1").write_bytes(b"content".ljust(MIB, b"\0"))
        await driver.start(msgspec.structs.replace(web, volumes=(ONE,), digest="another"))
        assert seen(libvirtd, settings) == [("vol-1", "vdb")]
        assert LibvirtVolumes(settings).path("vol-1").read_bytes().startswith(b"content")
        await volumes.attach("shop.nobody", [ONE])  # not there: it gets it when it starts
        with pytest.raises(InfrastructureError, match=r"vol-1 is attached to shop\.web"):
            await driver.start(msgspec.structs.replace(web, guest_id="shop.other", assembly="other", volumes=(ONE,)))
        assert (await driver.inspect("shop.other")).state is GuestState.ABSENT
        with pytest.raises(InfrastructureError, match="saved state has no volumes"):
            await driver.start(msgspec.structs.replace(web, digest="third", volumes=(ONE,), saved_state=True))

    async def test_growth_and_snapshots(
        self, libvirtd: Libvirtd, settings: LibvirtSettings, driver: LibvirtInfrastructure, web: GuestSpec
    ) -> None:
        """A disk grows where it is; a copy is made of what no machine has."""
        volumes = driver.volumes
        await driver.start(msgspec.structs.replace(web, volumes=(ONE,)))
        for size in (3 * MIB, 3 * MIB):
            await volumes.create("vol-1", size)
        words = ["virsh", "-q", "-c", libvirtd.uri, "domblkinfo", "pct-shop.web", "sda"]
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
        assert told.split()[:2] == ["Capacity:", str(3 * MIB)]
        with pytest.raises(InfrastructureError, match=r"vol-1 is attached to shop\.web"):
            await volumes.take("vol-1", "snap-1", "shop/data")
        await volumes.attach("shop.web", [])
        LibvirtVolumes(settings).path("vol-1").write_bytes(b"content".ljust(3 * MIB, b"\0"))
        await volumes.take("vol-1", "snap-1", "shop/data")
        await volumes.restore("snap-1", "vol-3", 4 * MIB)
        await volumes.attach("shop.web", [AttachedVolume(volume="vol-3", device="/dev/vdb")])
        await volumes.take("vol-1", "snap-1", "shop/data")  # it is there
        await volumes.restore("snap-1", "vol-3", 5 * MIB)
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
        assert told.split()[:2] == ["Capacity:", str(5 * MIB)], "the disk that is there grew"
        assert LibvirtVolumes(settings).path("vol-3").read_bytes()[:7] == b"content"
        found = {one.volume: (one.size, one.holder) for one in await volumes.all_volumes()}
        assert found == {"vol-1": (3 * MIB, ""), "vol-2": (MIB, ""), "vol-3": (5 * MIB, "shop.web")}
        assert [one.snapshot for one in await volumes.all_snapshots()] == ["snap-1"]
        await volumes.delete_snapshot("snap-1")

    async def test_killed_at_any_line(
        self, libvirtd: Libvirtd, settings: LibvirtSettings, driver: LibvirtInfrastructure, web: GuestSpec
    ) -> None:
        """What a machine has is always told to be its; the same call again finishes it."""
        await driver.start(web)
        await driver.volumes.create("vol-3", MIB)
        module = "tests.infrastructure.killed_volumes"
        words = [sys.executable, "-m", module, settings.uri, settings.state, settings.prefix, "shop.web"]
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert len(found) > 40
        wanted = [["vol-2", "vdd"], ["vol-3", "vdb"]]
        for between, after in found:
            for volume, _ in (*between["machine"], *between["definition"]):
                assert between["holders"][volume] == "shop.web"
            holders = {"vol-2": "shop.web", "vol-3": "shop.web"}
            assert after == {"machine": wanted, "definition": wanted, "holders": holders}

    async def test_a_machine_that_hangs_holds_up_nobody_else(
        self, libvirtd: Libvirtd, settings: LibvirtSettings, driver: LibvirtInfrastructure, web: GuestSpec
    ) -> None:
        """What it is to have is in its definition; others get and give back meanwhile. It has it when it goes on."""
        other = msgspec.structs.replace(web, guest_id="shop.other", assembly="other")
        for spec in (web, other):
            await driver.start(spec)
        pid = libvirtd.freeze("pct-shop.web")
        hanging = asyncio.create_task(driver.volumes.attach("shop.web", [ONE]))
        await poll(lambda: holds(driver, ONE, "shop.web"))
        await driver.volumes.attach("shop.other", [TWO])
        assert await driver.volumes.holder("vol-2") == (True, "shop.other")
        with pytest.raises(InfrastructureError, match=r"vol-1 is attached to shop\.web"):
            await driver.volumes.attach("shop.other", [TWO, ONE])
        await driver.volumes.attach("shop.other", [])
        os.kill(pid, signal.SIGCONT)
        with contextlib.suppress(InfrastructureError):  # it hung too long for this call; the next one finishes it
            await hanging
        await poll(lambda: attached(driver, "shop.web", ONE))
        assert seen(libvirtd, settings) == [("vol-1", "vdb")]


async def holds(driver: LibvirtInfrastructure, one: AttachedVolume, guest_id: str) -> bool:
    with contextlib.suppress(InfrastructureError):  # libvirtd is just being started
        return await driver.volumes.holder(one.volume) == (True, guest_id)
    return False


async def stopped(driver: LibvirtInfrastructure) -> bool:
    return (await driver.inspect("shop.web")).state is GuestState.STOPPED


async def attached(driver: LibvirtInfrastructure, guest_id: str, one: AttachedVolume) -> bool:
    with contextlib.suppress(InfrastructureError):
        await driver.volumes.attach(guest_id, [one])
        return True
    return False
