"""The LXC driver on real guests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import (
    GuestSpec,
    GuestState,
    Infrastructure,
    InfrastructureError,
    Vitality,
)
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure import lxc_process
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_attach import _INSIDE, attach
from pcloud.infrastructure.lxc_settings import LxcSettings, mac_address, veth_name
from pcloud.model.image import Image
from tests.infrastructure.contract import InfrastructureContract, MakeSpec, poll, verdict, watching

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run LXC guests"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.timeout(900),
]


DEPLOYABLE = f"images-test{os.getpid()}"
"""Control groups have their guests' names: those of a run that was killed are not ours."""


@pytest.fixture(scope="session")
def bookworm() -> Image:
    """The JEOS, built once for all runs on this machine."""
    return asyncio.run(ImageStore().build_jeos("bookworm", "x86_64"))


@pytest.fixture
async def infrastructure(tmp_path: Path) -> AsyncIterator[LxcInfrastructure]:
    """A driver with a state folder of its own; whatever a test leaves is deleted, and then nothing may be left."""
    driver = LxcInfrastructure(LxcSettings(state=str(tmp_path / "lxc"), rescan=0.2))
    yield driver
    bridges = {network.bridge for network in [driver._bridge.read()] if network}
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()
    for bridge in bridges:
        assert not driver._bridge._is_ours(bridge), "others may have taken its name by now, we do not"
    assert sorted(p.name for p in (tmp_path / "lxc").rglob("*")) in ([], ["network.lock"])
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.fixture
def make_spec(bookworm: Image) -> MakeSpec:
    def make(name: str) -> GuestSpec:
        return GuestSpec(
            guest_id=f"{DEPLOYABLE}.{name}",
            deployable=DEPLOYABLE,
            assembly=name,
            image=bookworm,
            identity=make_identity(name).identity,
            digest="1",
        )

    return make


def processes(driver: LxcInfrastructure, guest_id: str) -> tuple[int, int]:
    """Process ids of a guest's monitor and init, from the outside."""
    monitor = int((driver._guests / guest_id / "lxc.pid").read_text())
    return monitor, lxc_process.children(monitor)[0]


def control_groups(guest_id: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"*/lxc.*.{guest_id}"))


class TestContract(InfrastructureContract):
    many = 20

    async def kill(self, infrastructure: Infrastructure, guest_id: str) -> None:
        assert isinstance(infrastructure, LxcInfrastructure)
        os.kill(processes(infrastructure, guest_id)[1], signal.SIGKILL)

    async def freeze(self, infrastructure: Infrastructure, guest_id: str) -> None:
        assert isinstance(infrastructure, LxcInfrastructure)
        subprocess.run(["lxc-freeze", "-P", str(infrastructure._guests), "-n", guest_id], check=True)

    def reopen(self, infrastructure: Infrastructure) -> Infrastructure:
        assert isinstance(infrastructure, LxcInfrastructure)
        return LxcInfrastructure(infrastructure._settings)


async def test_death_is_told_by_the_kernel_not_found_by_looking(tmp_path: Path, make_spec: MakeSpec) -> None:
    driver = LxcInfrastructure(LxcSettings(state=str(tmp_path / "lxc"), rescan=3600.0))
    spec = make_spec("told")
    try:
        async with watching(driver) as events:
            await driver.start(spec)
            killed = time.monotonic()
            os.kill(processes(driver, spec.guest_id)[1], signal.SIGKILL)
            await events.until(spec.guest_id, GuestState.STOPPED, since=killed)
    finally:
        await driver.delete(spec.guest_id)
        await driver.close()


async def test_who_asked_for_a_guest_while_it_was_away_need_not_ask_again(
    infrastructure: LxcInfrastructure, make_spec: MakeSpec
) -> None:
    """The kernel repeats a question for an address once a second; the driver answers it as soon as the guest is there."""
    spec = make_spec("asked")
    address = (await infrastructure.start(spec)).address
    await infrastructure.destroy(spec.guest_id)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"?", (address, 9))
    await infrastructure.start(spec)
    told = subprocess.run(["ip", "neigh", "show", address], capture_output=True, text=True, check=True).stdout
    assert mac_address(spec.guest_id) in told


async def test_a_guest_whose_init_is_stopped_is_hung(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    spec = make_spec("stopped")
    await infrastructure.start(spec)
    init = lxc_process.find_process(processes(infrastructure, spec.guest_id)[1])
    assert init is not None
    os.kill(init.pid, signal.SIGSTOP)

    async def stopped() -> bool:
        return lxc_process.state(init) == "T"

    await poll(stopped)
    assert await verdict(infrastructure, spec.guest_id) == Vitality.HUNG
    await infrastructure.stop(spec.guest_id, timeout=0.5)
    assert (await infrastructure.inspect(spec.guest_id)).state == GuestState.STOPPED


async def test_delete_leaves_nothing(infrastructure: LxcInfrastructure, make_spec: MakeSpec, tmp_path: Path) -> None:
    one, two = make_spec("one"), make_spec("two")
    await infrastructure.start(one)
    await infrastructure.start(two)
    network = infrastructure._bridge.read()
    assert network is not None
    assert Path("/sys/class/net", veth_name(network.bridge, one.guest_id)).exists()
    pids = processes(infrastructure, one.guest_id)
    await infrastructure.delete(one.guest_id)
    assert not any(lxc_process.find_process(pid) for pid in pids)

    async def unplugged() -> bool:  # the kernel takes its end along when it ends the guest's network, some time later
        return not Path("/sys/class/net", veth_name(network.bridge, one.guest_id)).exists()

    await poll(unplugged)
    assert infrastructure._bridge._is_ours(network.bridge)
    await infrastructure.delete(two.guest_id)
    assert not infrastructure._bridge._is_ours(network.bridge)
    assert [p.name for p in (tmp_path / "lxc").iterdir()] == ["network.lock"]
    assert not control_groups(one.guest_id)
    assert not control_groups(two.guest_id)


async def test_identity_is_in_place(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    first, second = make_spec("web"), make_spec("db")
    await infrastructure.start(second)
    info = await infrastructure.start(first)

    async def cat(*argv: str) -> bytes:
        return (await infrastructure.execute(first.guest_id, argv)).stdout

    assert (await cat("hostname")).strip() == b"web"
    assert await cat("cat", "/etc/pacemaker/authkey") == first.identity.agent_key
    assert await cat("stat", "-c%a %U", "/etc/pacemaker/authkey", "/root/.ssh") == b"600 root\n700 root\n"
    hosts = (await cat("cat", "/etc/hosts")).decode()
    db = await infrastructure.inspect(second.guest_id)
    assert f"{info.address} web\n" in hosts
    assert f"{db.address} db\n" in hosts

    async def has_machine_id() -> bool:
        return len((await cat("cat", "/etc/machine-id")).strip()) == 32

    await poll(has_machine_id)


async def test_guests_outlive_the_driver_and_its_kill(
    infrastructure: LxcInfrastructure, make_spec: MakeSpec, bookworm: Image, tmp_path: Path
) -> None:
    """kill -9 of a process in the middle of starting guests; a second one adopts what runs and finishes the rest."""
    script = """
import asyncio, sys, msgspec
from pcloud.environment.infrastructure import GuestSpec, Identity, Image
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_settings import LxcSettings
async def main():
    driver = LxcInfrastructure(LxcSettings(state=sys.argv[1], parallel=2))
    image = msgspec.json.decode(sys.argv[2], type=Image)
    async def one(i):
        await driver.start(GuestSpec(guest_id=f"{sys.argv[3]}.k{i}", deployable=sys.argv[3], assembly=f"k{i}", image=image,
                                     identity=Identity(hostname=f"k{i}"), digest="1"))
        print(i, flush=True)
    await asyncio.gather(*(one(i) for i in range(8)))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    import msgspec

    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path / "lxc"), msgspec.json.encode(bookworm).decode(), DEPLOYABLE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    for _ in range(3):
        assert await asyncio.wait_for(child.stdout.readline(), 300)
    child.kill()
    await child.wait()
    await child.stdout.read()
    before = {g.guest_id: g for g in await infrastructure.list_guests() if g.state == GuestState.RUNNING}
    assert len(before) >= 3
    for i in range(8):
        spec = make_spec(f"k{i}")
        info = await infrastructure.start(spec)
        assert info.state == GuestState.RUNNING
        if spec.guest_id in before:
            assert info.boot_id == before[spec.guest_id].boot_id, "a running guest was started again"
    assert not [p for p in infrastructure._guests.iterdir() if p.name.startswith(".new-")]


async def test_cancelled_starts_do_no_harm(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    """Cancel `start` after ever longer times: the next call always ends with one running guest."""
    spec = make_spec("cancelled")
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05):
        task = asyncio.create_task(infrastructure.start(spec))
        await asyncio.sleep(delay)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await infrastructure.start(spec)).state == GuestState.RUNNING
        assert len(infrastructure._leases.all()) == 1
        await infrastructure.delete(spec.guest_id)


async def test_a_killed_monitor_takes_its_guest_along(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    spec = make_spec("monitor")
    async with watching(infrastructure) as events:
        await infrastructure.start(spec)
        began = time.monotonic()
        os.kill(processes(infrastructure, spec.guest_id)[0], signal.SIGKILL)
        await events.until(spec.guest_id, GuestState.STOPPED, since=began)
        assert (await infrastructure.start(spec)).state == GuestState.RUNNING
    await infrastructure.delete(spec.guest_id)
    assert not control_groups(spec.guest_id)


async def test_a_frozen_guest_without_monitor_still_counts(
    infrastructure: LxcInfrastructure, make_spec: MakeSpec
) -> None:
    """Its init can not die while frozen: a driver that never saw it must not take it for gone."""
    spec = make_spec("orphan")
    await infrastructure.start(spec)
    monitor, init = processes(infrastructure, spec.guest_id)
    subprocess.run(["lxc-freeze", "-P", str(infrastructure._guests), "-n", spec.guest_id], check=True)
    os.kill(monitor, signal.SIGKILL)

    async def monitor_gone() -> bool:
        return lxc_process.find_process(monitor) is None

    await poll(monitor_gone)
    second = LxcInfrastructure(infrastructure._settings)
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():  # under the v2 freezer it dies all the same

        async def stopped() -> bool:
            return (await second.inspect(spec.guest_id)).state == GuestState.STOPPED

        await poll(stopped)
    else:
        assert (await second.inspect(spec.guest_id)).state == GuestState.RUNNING
    await second.destroy(spec.guest_id)
    assert lxc_process.find_process(init) is None
    await second.close()


async def test_limits_hold(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    import msgspec

    spec = msgspec.structs.replace(make_spec("limits"), memory=96, cpus=0.5)
    await infrastructure.start(spec)
    init = lxc_process.find_process(processes(infrastructure, spec.guest_id)[1])
    assert init is not None
    values = {}
    for group in lxc_process.cgroups(init):
        for name in ("memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max"):
            if (group / name).exists():
                values.setdefault(name, (group / name).read_text().split()[0])
    assert str(96 * 1024 * 1024) in values.values()
    assert "50000" in values.values()


async def test_errors_name_what_is_wrong(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    import msgspec

    spec = make_spec("wrong")
    for bad in ("../x", "", "A", ".new-1-1-x", "a" * 128, "a/b"):
        with pytest.raises(InfrastructureError, match="guest id"):
            await infrastructure.inspect(bad)
    image = Image(name="gone", digest="", layers=("/nonexistent/layer",))
    with pytest.raises(InfrastructureError, match="missing") as caught:
        await infrastructure.start(msgspec.structs.replace(spec, image=image))
    assert caught.value.permanent
    empty = infrastructure._state.parent / "empty"
    empty.mkdir()
    with pytest.raises(InfrastructureError, match=r"did not start|ended at once"):
        await infrastructure.start(
            msgspec.structs.replace(spec, image=Image(name="empty", digest="", layers=(str(empty),)))
        )
    await infrastructure.delete(spec.guest_id)


async def test_no_command_runs_on_this_host_when_its_guest_is_dying(
    tmp_path: Path, infrastructure: LxcInfrastructure, make_spec: MakeSpec
) -> None:
    """A first process that is being killed has no root any more until all others of its guest are gone, which takes as long
    as we want here: one of them is not buried. lxc-attach leaves out what it does not find."""
    spec, mark = make_spec("dying"), tmp_path / "mark"
    await infrastructure.start(spec)
    init = processes(infrastructure, spec.guest_id)[1]
    parent = subprocess.Popen(["nsenter", "-t", str(init), "-p", "sleep", "1000"])
    try:

        async def inside() -> bool:
            return bool(lxc_process.children(parent.pid))

        await poll(inside)
        parent.send_signal(signal.SIGSTOP)
        os.kill(init, signal.SIGKILL)

        async def rootless() -> bool:
            return not Path(f"/proc/{init}/root").exists()

        await poll(rootless)
        with pytest.raises(InfrastructureError):
            await infrastructure.execute(spec.guest_id, ["touch", str(mark)])
        # as it is for one that began to die a moment later
        with pytest.raises(InfrastructureError):
            await attach(infrastructure._guests, spec.guest_id, ["touch", str(mark)], stdin=b"", timeout=60)
        assert not mark.exists()
    finally:
        parent.send_signal(signal.SIGCONT)
        parent.kill()
        parent.wait()


def test_a_hook_of_a_monitor_is_not_its_guest() -> None:
    """Whatever a monitor runs while its guest comes or goes is never taken for the guest's first process."""
    hook = subprocess.Popen(["sleep", "1000"])
    guest = None
    try:
        us = lxc_process.find_process(os.getpid())
        assert us is not None
        assert hook.pid in lxc_process.children(us.pid)
        assert lxc_process.find_init(us) is None
        guest = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "1000"])
        monitor = lxc_process.find_process(guest.pid)
        assert monitor is not None
        deadline = time.monotonic() + 60
        while (init := lxc_process.find_init(monitor)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert init.pid in lxc_process.children(monitor.pid)
    finally:
        for process in (hook, guest):
            if process is not None:
                process.kill()
                process.wait()


def test_what_would_run_on_this_host_does_not_run(tmp_path: Path) -> None:
    """As lxc-attach runs it when the guest's mounts are gone already, and its processes can still be joined."""
    root, mark = Path("/").stat(), tmp_path / "mark"
    for here, runs in ((f"{root.st_dev}:{root.st_ino}", False), ("0:1", True)):
        done = subprocess.run(
            ["/bin/sh", "-c", _INSIDE, here, "word", "touch", str(mark)], capture_output=True, check=False
        )
        assert (mark.exists(), done.stderr) == (runs, b"word\n" if runs else b"")


async def test_a_command_is_what_was_asked_for(infrastructure: LxcInfrastructure, make_spec: MakeSpec) -> None:
    spec = make_spec("words")
    await infrastructure.start(spec)
    words = ["a b", "$HOME", "'", "-e", ""]
    result = await infrastructure.execute(spec.guest_id, ["printf", "<%s>", *words])
    assert (result.returncode, result.stdout) == (0, "".join(f"<{word}>" for word in words).encode())
    for command, code in ((["sh", "-c", "exit 125"], 125), (["/no/such/program"], 127), (["/etc/passwd"], 126)):
        assert (await infrastructure.execute(spec.guest_id, command)).returncode == code
