"""Volumes of real LXC guests: disks by loop devices, their partitions, and what outlives what."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import GuestSpec, GuestState, InfrastructureError
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure import host, lxc_nodes, lxc_volumes
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_disks import LxcVolumeStore
from pcloud.infrastructure.lxc_live import init_of
from pcloud.infrastructure.lxc_partitions import PartitionWatch
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.model.deployable import AttachedVolume
from tests.infrastructure.crash_points import killed_at_every_line

MIB = 1 << 20
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run LXC guests"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.skipif(not lxc_volumes.available(), reason="this kernel has no loop devices"),
]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder; no loop device may be left on it."""
    state = tmp_path / "lxc"
    yield state
    left = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    for line in left.splitlines():
        if str(tmp_path) in line:
            subprocess.run(["losetup", "-d", line.partition(":")[0]], check=True)
    assert str(tmp_path) not in left


@pytest.fixture
async def driver(state: Path) -> AsyncIterator[LxcInfrastructure]:
    driver = LxcInfrastructure(LxcSettings(state=str(state), bridge=f"pctvol{os.getpid()}"))
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()


@pytest.fixture(scope="module")
def image():
    """The JEOS, built once for all runs on this machine."""
    return asyncio.run(ImageStore().build_jeos("bookworm", "x86_64"))


def spec(image, *volumes: AttachedVolume) -> GuestSpec:
    return GuestSpec(
        guest_id="shop.db", deployable="shop", assembly="db", image=image, identity=make_identity("db").identity,
        digest="1", volumes=volumes,
    )  # fmt: skip


async def said(driver: LxcInfrastructure, *script: str) -> str:
    result = await driver.execute("shop.db", ["sh", "-ec", "; ".join(script)])
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


async def test_a_volume_outlives_what_happens_to_its_guest(driver, state, image):
    volumes = LxcVolumes(state)
    volumes.create("vol-1", 64 * MIB)
    data = AttachedVolume(volume="vol-1", device="/dev/vdc")
    await driver.start(spec(image, data))
    assert volumes.holder("vol-1") == "shop.db"
    assert await said(driver, "blockdev --getsize64 /dev/vdc") == f"{64 * MIB}\n"
    await said(driver, "mkfs.ext4 -q /dev/vdc", "mount /dev/vdc /mnt", "echo kept >/mnt/file", "sync")
    init = await init_of(state / "guests/shop.db")
    os.kill(init, signal.SIGKILL)
    async with asyncio.timeout(300):
        while (await driver.inspect("shop.db")).state is not GuestState.STOPPED:
            await asyncio.sleep(0.05)
    await driver.start(spec(image, data))
    assert await said(driver, "mount /dev/vdc /mnt", "cat /mnt/file") == "kept\n"
    with pytest.raises(InfrastructureError, match=r"attached to shop\.db"):
        volumes.delete("vol-1")

    # taken off and given back while it runs; another name, then another guest's root is none of its business
    folder = state / "guests/shop.db"
    await said(driver, "umount /mnt")
    volumes.apply(folder, [], await init_of(folder))
    assert "vdc" not in (await said(driver, "ls /dev")).split()
    assert volumes.holder("vol-1") == ""
    volumes.create("vol-1", 96 * MIB)
    volumes.apply(folder, [AttachedVolume(volume="vol-1", device="/dev/sdh")], await init_of(folder))
    assert await said(driver, "mount /dev/sdh /mnt", "cat /mnt/file", "umount /mnt") == "kept\n"
    assert await said(driver, "blockdev --getsize64 /dev/sdh") == f"{96 * MIB}\n"
    with pytest.raises(InfrastructureError, match="can not shrink"):
        volumes.create("vol-1", MIB)

    # the guest goes, the volume stays, until it is removed
    await driver.delete("shop.db")
    assert volumes.exists("vol-1")
    volumes.delete("vol-1")
    volumes.delete("vol-1")
    assert not volumes.exists("vol-1")


async def test_partitions_made_while_the_guest_runs_have_their_nodes(driver, state, image):
    kept = LxcVolumeStore(state)
    kept.open()
    try:
        await kept.create("vol-2", 1 << 30)
        await driver.start(spec(image))
        folder = state / "guests/shop.db"
        data = AttachedVolume(volume="vol-2", device="/dev/vdb")
        await kept.attach(folder.name, [data])
        loop = LxcVolumes(state).connected()[0]
        # As parted and partx tell the kernel, which need not be able to read partition tables itself.
        for words, parts in (
            (["addpart", f"/dev/{loop}", "1", "2048", "32768"], ["vdb", "vdb1"]),
            (["addpart", f"/dev/{loop}", "2", "40960", "32768"], ["vdb", "vdb1", "vdb2"]),
            (["delpart", f"/dev/{loop}", "2"], ["vdb", "vdb1"]),
        ):
            subprocess.run(words, check=True, capture_output=True)
            async with asyncio.timeout(300):
                while (await said(driver, "cd /dev", "echo vdb*")).split() != parts:
                    await asyncio.sleep(0.05)
        await said(driver, "mkfs.ext3 -q /dev/vdb1", "mount /dev/vdb1 /mnt", "echo x >/mnt/x", "umount /mnt")
        # started anew: the partitions are there before its init runs
        await driver.destroy("shop.db")
        await driver.start(spec(image, data))
        assert await said(driver, "mount /dev/vdb1 /mnt", "cat /mnt/x", "umount /mnt") == "x\n"
        await driver.delete("shop.db")
        await kept.delete("vol-2")
    finally:
        await kept.close()


async def test_a_guest_can_not_lead_its_nodes_elsewhere(driver, state, image, tmp_path):
    """Root in the guest replaces its /dev by a link: nothing is made on this host."""
    volumes = LxcVolumes(state)
    volumes.create("vol-3", MIB)
    await driver.start(spec(image))
    folder = state / "guests/shop.db"
    await said(driver, "umount -l /dev || true", "mv /dev /dev.old", f"ln -s {tmp_path} /dev")
    try:
        with pytest.raises(InfrastructureError):
            volumes.apply(folder, [AttachedVolume(volume="vol-3", device="/dev/vdb")], await init_of(folder))
        assert not (tmp_path / "vdb").exists()
    finally:
        await driver.delete("shop.db")
        volumes.delete("vol-3")


async def test_what_a_crash_leaves_is_finished_by_the_next_call(driver, state, image):
    """Killed between the record and the loop device, and between the loop device and the node."""
    volumes = LxcVolumes(state)
    volumes.create("vol-4", MIB)
    await driver.start(spec(image))
    folder = state / "guests/shop.db"
    data = AttachedVolume(volume="vol-4", device="/dev/vdb")
    volumes.apply(folder, [data], None)  # the record and the loop device, no node
    volumes.apply(folder, [data], await init_of(folder))
    assert await said(driver, "blockdev --getsize64 /dev/vdb") == f"{MIB}\n"
    assert len(volumes.connected()) == 1, "one loop device a volume"
    subprocess.run(["losetup", "-d", f"/dev/{volumes.connected()[0]}"], check=True)  # as a restart of the host does
    await driver.destroy("shop.db")
    await driver.start(spec(image, data))
    assert await said(driver, "blockdev --getsize64 /dev/vdb") == f"{MIB}\n"
    volumes.apply(folder, [], await init_of(folder))
    await driver.delete("shop.db")
    volumes.delete("vol-4")


async def test_a_guest_can_not_use_the_number_of_what_was_taken_off(driver, state, image):
    """The number of its former loop device is another guest's disk by now."""
    volumes = LxcVolumes(state)
    volumes.create("vol-5", MIB)
    await driver.start(spec(image))
    folder = state / "guests/shop.db"
    data = AttachedVolume(volume="vol-5", device="/dev/vdb")
    volumes.apply(folder, [data], await init_of(folder))
    major, minor = (await said(driver, "stat -c '%Hr %Lr' /dev/vdb")).split()
    make = f"mknod /root/own b {major} {minor}"
    assert await said(driver, make, "blockdev --getsize64 /root/own") == f"{MIB}\n"
    volumes.apply(folder, [], await init_of(folder))
    result = await driver.execute("shop.db", ["head", "-c", "1", "/root/own"])
    assert result.returncode == 1
    assert b"Operation not permitted" in result.stderr
    volumes.apply(folder, [data], await init_of(folder))
    assert await said(driver, "blockdev --getsize64 /dev/vdb") == f"{MIB}\n"
    await driver.delete("shop.db")
    assert volumes.holder("vol-5") == ""
    volumes.delete("vol-5")


async def test_a_guest_that_goes_takes_its_loop_device_along(driver, state, image):
    volumes = LxcVolumes(state)
    volumes.create("vol-6", MIB)
    await driver.start(spec(image, AttachedVolume(volume="vol-6", device="/dev/vdb")))
    assert volumes.connected() != []
    await driver.delete("shop.db")
    assert str(state) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    assert volumes.exists("vol-6")
    volumes.delete("vol-6")


def attach_at_once(state: Path, barrier) -> None:
    """In a process of its own: as the daemon and an engine process do."""
    barrier.wait()
    LxcVolumes(state).apply(state / "guests/one", [AttachedVolume(volume="vol-7", device="/dev/vdb")], None)


def test_one_loop_device_and_one_guest_a_volume(state):
    volumes, one, two = LxcVolumes(state), state / "guests/one", state / "guests/two"
    volumes.create("vol-7", MIB)
    for folder in (one, two):
        folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        barrier = context.Barrier(4)
        many = [context.Process(target=attach_at_once, args=(state, barrier)) for _ in range(4)]
        for process in many:
            process.start()
        for process in many:
            process.join()
        assert len(volumes.connected()) == 1
        volumes.forget(one)
        assert volumes.connected() == []
    volumes.prepare(one, [AttachedVolume(volume="vol-7", device="/dev/vdb")])
    for refused in (volumes.prepare, lambda *words: volumes.apply(*words, None)):
        with pytest.raises(InfrastructureError, match="attached to one"):
            refused(two, [AttachedVolume(volume="vol-7", device="/dev/vdb")])
    with pytest.raises(InfrastructureError, match="no name of a disk"):
        volumes.prepare(one, [AttachedVolume(volume="vol-7", device='/dev/vdb"; reboot; "')])
    volumes.forget(one)
    volumes.delete("vol-7")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "x" * 64, "a\0b"])
def test_bad_names(state, name):
    with pytest.raises(InfrastructureError):
        LxcVolumes(state).create(name, MIB)
    assert not state.exists()


async def test_what_the_kernel_tells_of_others_is_ignored():
    told: list[str] = []
    watch = PartitionWatch(told.append, lambda: told.append("lost"))
    watch.open()
    watch.open()
    watch.close()
    watch.close()
    assert told == []


async def test_services_that_run_already_may_use_it_too(driver, state, image):
    """What waits for its disk, as user data does, was started before the disk came."""
    volumes = LxcVolumes(state)
    volumes.create("vol-5", MIB)
    await driver.start(spec(image))
    folder = state / "guests/shop.db"
    wait = "while ! [ -e /dev/vdc ]; do sleep 0.1; done; blockdev --getsize64 /dev/vdc >/run/told 2>&1"
    async with asyncio.timeout(300):
        while (await driver.execute("shop.db", ["systemd-run", "-q", "--wait", "true"])).returncode:
            await asyncio.sleep(0.1)
    await said(driver, f"systemd-run -q --unit=waits --collect sh -c '{wait}'")
    volumes.apply(folder, [AttachedVolume(volume="vol-5", device="/dev/vdc")], await init_of(folder))
    async with asyncio.timeout(300):
        while (told := await driver.execute("shop.db", ["cat", "/run/told"])).stdout == b"":
            await asyncio.sleep(0.1)
    assert told.stdout == b"%d\n" % MIB
    volumes.apply(folder, [], await init_of(folder))
    await driver.delete("shop.db")
    volumes.delete("vol-5")


def nothing_is_held(state: Path) -> None:
    """Nobody has the lock, which a process that is gone can not give back."""
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def loops_of(state: Path) -> list[str]:
    told = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    return [line for line in told.splitlines() if str(state) in line]


@pytest.mark.parametrize("name", ["create", "attach", "start", "detach", "forget", "delete"])
def test_killed_at_any_line(state, name):
    """The same call again finishes it, and so does what undoes it: no loop device, no file, no lock is left."""
    volumes, folder = LxcVolumes(state), state / "guests/one"
    folder.mkdir(parents=True)
    data = [AttachedVolume(volume="vol-8", device="/dev/vdb")]
    steps = {
        "create": lambda: volumes.create("vol-8", MIB),
        "attach": lambda: volumes.apply(folder, data, None),
        "start": lambda: volumes.prepare(folder, data),
        "detach": lambda: volumes.apply(folder, [], None),
        "forget": lambda: volumes.forget(folder),
        "delete": lambda: volumes.delete("vol-8"),
    }
    before = {"attach": ["create"], "start": ["create"], "delete": ["create"]}
    before |= {"detach": ["create", "attach"], "forget": ["create", "start"]}
    ends = {"create": (True, 0), "attach": (True, 1), "start": (True, 1), "detach": (True, 0), "forget": (True, 0)}

    def prepare():
        for step in before.get(name, ()):
            steps[step]()
        return steps[name]

    points = 0
    for point in killed_at_every_line([lxc_volumes, lxc_nodes, host], prepare):
        nothing_is_held(state)
        if point % 2:
            steps[name]()
            assert (volumes.exists("vol-8"), len(loops_of(state))) == ends.get(name, (False, 0))
        for step in ("forget", "delete"):
            steps[step]()
        assert not volumes.exists("vol-8")
        assert loops_of(state) == []
        points += 1
    print(f"{name}: {points} crash points")
    assert points > 5
    for step in ("forget", "delete"):
        steps[step]()


async def test_killed_at_any_line_while_the_guest_runs(driver, state, image):
    """Attaching and detaching at once: the next call finishes it, and the guest can use what it has and nothing else."""
    volumes = LxcVolumes(state)
    volumes.create("vol-9", MIB)
    await driver.start(spec(image))
    folder = state / "guests/shop.db"
    init = await init_of(folder)
    data = [AttachedVolume(volume="vol-9", device="/dev/vdb")]
    for wanted, other, told in ((data, [], [f"{MIB}"]), ([], data, [])):

        def doomed(wanted=wanted, other=other):
            volumes.apply(folder, other, init)
            return lambda: volumes.apply(folder, wanted, init)

        for point in killed_at_every_line([lxc_volumes, lxc_nodes], doomed):
            nothing_is_held(state)
            volumes.apply(folder, wanted, init)
            assert len(loops_of(state)) == len(wanted)
            if point % 10 == 0:
                assert (
                    await said(driver, "for each in /dev/vdb*; do blockdev --getsize64 $each || true; done")
                ).split() == told
    await driver.delete("shop.db")
    volumes.delete("vol-9")
    assert loops_of(state) == []


async def test_what_was_lost_of_the_kernels_messages_is_looked_up(driver, state, image):
    """So many at once that the queue is full when the one comes that counts."""
    kept = LxcVolumeStore(state)
    await kept.create("vol-a", 1 << 30)
    await driver.start(spec(image))
    await kept.attach("shop.db", [AttachedVolume(volume="vol-a", device="/dev/vdb")])
    loop = LxcVolumes(state).connected()[0]
    kept.open()
    try:
        async with asyncio.timeout(300):
            while kept._tasks:  # the first look is over: only what is told now counts
                await asyncio.sleep(0.01)
        kept._watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        told: list[str] = []
        kept._watch._told = told.append  # single messages are not what helps
        for _ in range(200):
            Path(f"/sys/block/{loop}/uevent").write_text("change")
        subprocess.run(["addpart", f"/dev/{loop}", "1", "2048", "32768"], check=True, capture_output=True)
        async with asyncio.timeout(300):
            while (await said(driver, "cd /dev", "echo vdb*")).split() != ["vdb", "vdb1"]:
                await asyncio.sleep(0.05)
        assert loop not in told, "of others' devices something may be told"
    finally:
        await kept.close()
    await driver.delete("shop.db")
    await kept.delete("vol-a")


def test_a_device_that_somebody_looks_at_is_waited_for(state):
    """Whoever has it open at that moment keeps it for a while: it is not taken for the volume's, and nothing is left."""
    volumes, folder = LxcVolumes(state), state / "guests/one"
    folder.mkdir(parents=True)
    data = [AttachedVolume(volume="vol-b", device="/dev/vdb")]
    volumes.create("vol-b", MIB)
    volumes.apply(folder, data, None)
    (loop,) = volumes.connected()
    looker = os.open(f"/dev/{loop}", os.O_RDONLY)
    closing = threading.Timer(0.5, os.close, [looker])
    closing.start()
    volumes.apply(folder, [], None)
    volumes.apply(folder, data, None)
    closing.join()
    (again,) = volumes.connected()
    assert Path(f"/sys/block/{again}/loop/autoclear").read_text() == "0\n"
    volumes.forget(folder)
    assert loops_of(state) == []
    volumes.delete("vol-b")
