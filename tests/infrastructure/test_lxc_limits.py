"""Limits of LXC guests that run: control groups of both versions as trees of files, and a real guest's."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import Bounded, GuestSpec, InfrastructureError
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure import lxc_bounds, lxc_limits, lxc_process
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_limits import PERIOD
from pcloud.infrastructure.lxc_settings import LxcSettings
from tests.infrastructure.crash_points import killed_at_every_line

MIB = 1 << 20
GUEST = f"limits{os.getpid()}.web"
BOTH = "256 MiB of memory", "0.5 processors"


def version1(root: Path) -> tuple[Path, ...]:
    """What a kernel shows of a guest without limits that uses 40 MiB, 30 of them files."""
    memory, cpu, other = root / "memory/guest", root / "cpu/guest", root / "freezer/guest"
    for folder in (memory, cpu, other):
        folder.mkdir(parents=True)
    (memory / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (memory / "memory.usage_in_bytes").write_text(f"{40 * MIB}\n")
    (memory / "memory.stat").write_text(
        f"active_file 1\ntotal_active_file {10 * MIB}\ntotal_inactive_file {20 * MIB}\n"
    )
    (cpu / "cpu.cfs_period_us").write_text(f"{PERIOD}\n")
    (cpu / "cpu.cfs_quota_us").write_text("-1\n")
    return other, memory, cpu


def version2(root: Path) -> tuple[Path, ...]:
    """The same guest."""
    group = root / "guest"
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(f"{40 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 1\nactive_file {10 * MIB}\ninactive_file {20 * MIB}\n")
    (group / "cpu.max").write_text(f"max {PERIOD}\n")
    return (group,)


def shown(groups: tuple[Path, ...]) -> list[str]:
    """Return what stands in the files that limit a guest, without what says that there is no limit."""
    names = ("memory.max", "memory.limit_in_bytes", "cpu.max", "cpu.cfs_quota_us")
    found = [(group / name).read_text().strip() for name in names for group in groups if (group / name).exists()]
    return ["" if text in ("max", f"max {PERIOD}", "-1", "9223372036854771712") else text.split()[0] for text in found]


@pytest.fixture(params=[version1, version2])
def groups(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ...]:
    make: Callable[[Path], tuple[Path, ...]] = request.param
    return make(tmp_path)


def test_limits_come_change_and_go_and_what_is_right_is_not_written(groups: tuple[Path, ...]) -> None:
    assert lxc_limits.settle(groups, 0, 0.0) == []
    assert tuple(lxc_limits.settle(groups, 256, 0.5)) == BOTH
    assert shown(groups) == [f"{256 * MIB}", "50000"]
    before = {file: file.stat().st_mtime_ns for group in groups for file in group.iterdir()}
    assert lxc_limits.settle(groups, 256, 0.5) == []
    assert {file: file.stat().st_mtime_ns for group in groups for file in group.iterdir()} == before
    assert lxc_limits.settle(groups, 128, 0.5) == ["128 MiB of memory"]
    assert lxc_limits.settle(groups, 128, 2) == ["2 processors"]
    assert shown(groups) == [f"{128 * MIB}", "200000"]
    assert lxc_limits.settle(groups, 0, 0.0) == ["memory without a limit", "processors without a limit"]
    assert shown(groups) == ["", ""]


def test_less_memory_than_the_guest_uses_is_refused_and_nothing_is_changed(groups: tuple[Path, ...]) -> None:
    assert lxc_limits.used(groups) == 10 * MIB
    with pytest.raises(InfrastructureError, match="uses 10 MiB of memory now and can not be limited to 9 MiB"):
        lxc_limits.settle(groups, 9, 0.5)
    assert shown(groups) == ["", ""]
    lxc_limits.settle(groups, 10, 0.5)
    assert shown(groups) == [f"{10 * MIB}", "50000"]


def test_what_the_kernel_does_not_take_leaves_all_as_it_was(groups: tuple[Path, ...]) -> None:
    for group in groups:
        for name in ("cpu.max", "cpu.cfs_quota_us"):
            if (group / name).exists():
                (group / name).unlink()
                (group / name).symlink_to("/proc/version")  # not even root can write it
    with pytest.raises(InfrastructureError, match=r"0\.5 processors can not be set: "):
        lxc_limits.settle(groups, 256, 0.5)
    assert shown(groups)[0] in ("", "9223372036854771712", "-1", "max")


def test_killed_at_any_line_the_next_call_ends_right(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("lxc.uts.name = web\n")
    groups = version1(tmp_path / "1")

    def settle(memory: int, cpus: float) -> None:
        fresh = lxc_limits.rewritten(config, memory, cpus)
        lxc_limits.settle(groups, memory, cpus)
        if fresh is not None:
            fresh.replace(config)

    def prepare() -> Callable[[], None]:
        settle(0, 0.0)
        return lambda: settle(256, 0.5)

    points = 0
    for points in killed_at_every_line([lxc_limits], prepare):  # noqa: B007 - counted
        settle(256, 0.5)
        assert shown(groups) == [f"{256 * MIB}", "50000"]
        assert set(config.read_text().splitlines()) == {"lxc.uts.name = web", *lxc_limits.lines(256, 0.5)}
    assert points > 20


# --- a real guest


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LxcInfrastructure]:
    driver = LxcInfrastructure(LxcSettings(state=str(tmp_path / "lxc"), bridge=f"pcl{os.getpid()}"))
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run LXC guests")
@pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)")
@pytest.mark.skipif(bool(lxc_limits.lacking()), reason=lxc_limits.lacking())
async def test_a_real_guest_is_limited_while_it_runs(driver: LxcInfrastructure, tmp_path: Path) -> None:
    image = await ImageStore().build_jeos("bookworm", "x86_64")
    spec = GuestSpec(
        guest_id=GUEST, deployable=GUEST.partition(".")[0], assembly="web", image=image,
        identity=make_identity("web").identity, digest="1",
    )  # fmt: skip
    assert await driver.limits.bound(GUEST, memory=256, cpus=0.5) == Bounded(), "there is no such guest"
    await driver.start(spec)
    config = tmp_path / "lxc/guests" / GUEST / "config"
    running = driver._tracker.find(GUEST)
    assert running is not None
    groups = lxc_process.cgroups(running.init)
    assert shown(groups) == ["", ""]
    unlimited = config.read_text()

    assert (await driver.limits.bound(GUEST, memory=256, cpus=0.5)).changed == BOTH
    assert shown(groups) == [f"{256 * MIB}", "50000"]
    assert set(lxc_limits.lines(256, 0.5)) <= set(config.read_text().splitlines())
    written = config.stat().st_mtime_ns
    assert await driver.limits.bound(GUEST, memory=256, cpus=0.5) == Bounded()
    assert config.stat().st_mtime_ns == written

    async with asyncio.timeout(300):
        while lxc_limits.used(groups) <= MIB:  # its init has hardly begun
            await asyncio.sleep(0.05)
    with pytest.raises(InfrastructureError, match=r"uses \d+ MiB of memory now and can not be limited to 1 MiB"):
        await driver.limits.bound(GUEST, memory=1, cpus=0.25)
    assert shown(groups) == [f"{256 * MIB}", "50000"]
    assert config.stat().st_mtime_ns == written
    assert not config.with_name("config.new").exists()

    config.with_name("config.new").symlink_to("/dev/full")
    with pytest.raises(InfrastructureError, match="No space left"):
        await driver.limits.bound(GUEST, memory=512, cpus=0.5)
    assert shown(groups) == [f"{256 * MIB}", "50000"], "nothing is changed on a full disk"
    config.with_name("config.new").unlink(missing_ok=True)

    share = next((group / "cpu.cfs_quota_us" for group in groups if (group / "cpu.cfs_quota_us").exists()), None)
    if share is not None:  # version 1 takes no less than what a group inside was given
        inside = share.parent / "inside"
        inside.mkdir()
        (inside / "cpu.cfs_quota_us").write_text("40000")
        with pytest.raises(InfrastructureError, match=r"0\.2 processors can not be set"):
            await driver.limits.bound(GUEST, memory=512, cpus=0.2)
        assert shown(groups) == [f"{256 * MIB}", "50000"], "nothing is half applied"
        (inside / "cpu.cfs_quota_us").write_text("-1")  # the kernel counts a removed group for a moment yet
        inside.rmdir()

    bounds = driver.limits
    steps = 0

    def prepare() -> Callable[[], object]:
        bounds._bound(GUEST, running, 0, 0.0)
        return lambda: bounds._bound(GUEST, running, 128, 0.25)

    for steps in killed_at_every_line([lxc_limits, lxc_bounds], prepare):  # noqa: B007 - counted
        await driver.limits.bound(GUEST, memory=128, cpus=0.25)
        assert shown(groups) == [f"{128 * MIB}", "25000"]
        assert set(lxc_limits.lines(128, 0.25)) <= set(config.read_text().splitlines())
    assert steps > 20

    assert len((await driver.limits.bound(GUEST, memory=0, cpus=0.0)).changed) == 2
    assert shown(groups) == ["", ""]
    assert sorted(config.read_text().splitlines()) == sorted(unlimited.splitlines())
    assert driver._tracker.find(GUEST) == running, "it was never restarted"

    lxc_process.send(running.init, 9)
    async with asyncio.timeout(300):
        while driver._tracker.find(GUEST) is not None:
            await asyncio.sleep(0.05)
    assert await driver.limits.bound(GUEST, memory=128, cpus=0.25) == Bounded(), "its next start brings them"
