"""Snapshots of volumes' files: whole or not at all, sparse as what they are of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import volume_snapshots
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.infrastructure.volume_snapshots import VolumeSnapshots
from tests.infrastructure.crash_points import killed_at_every_line

MIB = 1 << 20


def made(state: Path, volume: str = "vol-1", size: int = 64 * MIB) -> tuple[LxcVolumes, VolumeSnapshots]:
    volumes = LxcVolumes(state)
    (state / "guests").mkdir(parents=True, exist_ok=True)
    volumes.create(volume, size)
    with volumes.path(volume).open("r+b") as file:
        file.write(b"begin")
        file.seek(size // 2)
        file.write(b"middle" * 1000)
    return volumes, VolumeSnapshots(state, volumes)


def files(state: Path) -> list[str]:
    return sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())


def test_a_snapshot_is_what_the_volume_was(tmp_path: Path) -> None:
    volumes, snapshots = made(tmp_path)
    before = volumes.path("vol-1").read_bytes()
    snapshots.take("vol-1", "snap-1", "shop/data")
    with volumes.path("vol-1").open("r+b") as file:
        file.write(b"other")
    snapshots.take("vol-1", "snap-1", "shop/data")  # it is there: it stays what it is
    (told,) = snapshots.all()
    assert (told.snapshot, told.volume, told.size, told.note) == ("snap-1", "vol-1", 64 * MIB, "shop/data")
    assert told.taken < MIB, "holes stay holes"
    volumes.delete("vol-1")
    snapshots.restore("snap-1", "vol-2", 96 * MIB)
    snapshots.restore("snap-1", "vol-2", 96 * MIB)
    again = volumes.path("vol-2").read_bytes()
    assert (again[: 64 * MIB], len(again), set(again[64 * MIB :])) == (before, 96 * MIB, {0})
    snapshots.restore("snap-1", "vol-3", 0)
    assert [(one.volume, one.size) for one in volumes.all()] == [("vol-2", 96 * MIB), ("vol-3", 64 * MIB)]
    with pytest.raises(InfrastructureError, match="is larger than"):
        snapshots.restore("snap-1", "vol-4", MIB)
    for name in ("vol-2", "vol-3"):
        volumes.delete(name)
    snapshots.delete("snap-1")
    snapshots.delete("snap-1")
    assert files(tmp_path) == []
    with pytest.raises(InfrastructureError, match="there is no snapshot snap-1"):
        snapshots.restore("snap-1", "vol-4", 0)
    with pytest.raises(InfrastructureError, match="there is no volume vol-9"):
        snapshots.take("vol-9", "snap-9", "")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".x"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    _, snapshots = made(tmp_path)
    with pytest.raises(InfrastructureError, match="is no snapshot's id"):
        snapshots.take("vol-1", name, "")
    assert files(tmp_path) == ["volumes/vol-1.img"]


@pytest.mark.parametrize("name", ["take", "restore"])
def test_killed_at_any_line(tmp_path: Path, name: str) -> None:
    """What is there is whole; the same call again finishes it, and what deletes it leaves nothing."""
    volumes, snapshots = made(tmp_path, size=2 * MIB)
    content = volumes.path("vol-1").read_bytes()
    if name == "restore":
        snapshots.take("vol-1", "snap-1", "")
    steps = {
        "take": lambda: snapshots.take("vol-1", "snap-1", ""),
        "restore": lambda: snapshots.restore("snap-1", "vol-2", 4 * MIB),
    }
    result = tmp_path / ("snapshots/snap-1.img" if name == "take" else "volumes/vol-2.img")
    points = 0
    for point in killed_at_every_line([volume_snapshots], lambda: steps[name]):
        assert not result.exists() or result.read_bytes()[: len(content)] == content
        if point % 2:
            steps[name]()
            assert result.read_bytes()[: len(content)] == content
        snapshots.delete("snap-1") if name == "take" else volumes.delete("vol-2")
        kept = ["volumes/vol-1.img"] if name == "take" else ["snapshots/snap-1.img", "snapshots/snap-1.json"]
        assert [each for each in files(tmp_path) if each not in (*kept, "volumes/vol-1.img")] == []
        points += 1
    assert points > 15


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.real
def test_no_room_leaves_nothing_of_a_snapshot(small: Path) -> None:
    volumes, snapshots = made(small)
    with volumes.path("vol-1").open("r+b") as file:
        file.write(b"x" * 5 * MIB)
    before = files(small)
    with pytest.raises(InfrastructureError, match="no snapshot of volume vol-1 can be made: No space left"):
        snapshots.take("vol-1", "snap-1", "")
    snapshots.delete("snap-1")
    assert (files(small), snapshots.all()) == (before, [])
    assert volumes.exists("vol-1")
