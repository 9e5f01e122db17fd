"""The store of images made by others: whole or not there, one of a name, nothing left of what was refused."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pcloud.images import imported
from pcloud.images.imported import ImportedImage, ImportedImages
from pcloud.model.errors import PcloudError


@pytest.fixture
def disk(tmp_path):
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    path = tmp_path / "cloud.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    return path


def wanted(content: bytes, **changes: str) -> ImportedImage:
    values = {"name": "appliance", "arch": "x86_64", "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    return ImportedImage(**(values | changes))


async def parts(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "imported").iterdir() if not path.name.startswith(".lock-"))


async def test_whole_and_found(disk, tmp_path):
    store, content = ImportedImages(tmp_path / "store"), disk.read_bytes()
    made = await store.receive(wanted(content, like="bookworm"), parts(content), size=len(content))
    assert (made.like, [one.name for one in ImportedImages(tmp_path / "store").list()]) == ("bookworm", ["appliance"])
    image = store.find("appliance", "x86_64")
    assert image is not None
    assert Path(image.disk).read_bytes()[:4] == b"QFI\xfb"
    assert (image.layers, image.kernel) == ((), "")
    assert store.find("appliance", "aarch64") is None
    assert left(tmp_path / "store") == ["appliance-x86_64"]

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("what is there already is not read again")
        yield b""

    assert await store.receive(wanted(content, like="bookworm"), never()) == made
    with pytest.raises(PcloudError) as caught:
        await store.receive(wanted(b"other"), never())
    assert caught.value.code == "IMAGE_EXISTS"
    await store.delete("appliance", "x86_64")
    assert left(tmp_path / "store") == []
    with pytest.raises(PcloudError) as caught:
        await store.delete("appliance", "x86_64")
    assert caught.value.code == "UNKNOWN_IMAGE"


async def test_refused_leaves_nothing(disk, tmp_path):
    store, content = ImportedImages(tmp_path / "store"), disk.read_bytes()
    for broken in (content[:-1], content + b"x", b""):
        with pytest.raises(PcloudError) as caught:
            await store.receive(wanted(content), parts(broken))
        assert caught.value.code == "DIGEST_MISMATCH"
    with pytest.raises(PcloudError) as caught:
        await store.receive(wanted(b"<html>" * 1000), parts(b"<html>" * 1000))
    assert caught.value.code == "NOT_A_DISK"
    assert left(tmp_path / "store") == []


async def test_interrupted_and_at_once(disk, tmp_path):
    store, content = ImportedImages(tmp_path / "store"), disk.read_bytes()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield content[:100]
        begun.set()
        await go_on.wait()
        yield content[100:]

    task = asyncio.create_task(store.receive(wanted(content), slow()))
    await begun.wait()
    with pytest.raises(PcloudError) as caught:
        await ImportedImages(tmp_path / "store").receive(wanted(content), parts(content))
    assert caught.value.code == "IMPORT_RUNNING"
    assert store.list() == []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(tmp_path / "store") == []
    # what a killed daemon left is in nobody's way
    dead = tmp_path / "store/imported/.new-appliance-x86_64"
    dead.mkdir()
    (dead / "upload").write_bytes(b"half")
    assert (await store.receive(wanted(content), parts(content))).name == "appliance"


async def test_no_room(disk, tmp_path, monkeypatch):
    store, content = ImportedImages(tmp_path / "store"), disk.read_bytes()
    monkeypatch.setattr(imported, "_MARGIN", 1 << 60)
    with pytest.raises(PcloudError) as caught:
        await store.receive(wanted(content), parts(content))
    assert caught.value.code == "NO_ROOM"
    assert left(tmp_path / "store") == []


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
async def test_names_that_are_paths(disk, tmp_path, name):
    store = ImportedImages(tmp_path / "store")
    assert msgspec.structs.replace(wanted(b""), name=name).name == name
    with pytest.raises(PcloudError):
        await store.receive(wanted(disk.read_bytes(), name=name), parts(disk.read_bytes()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cloud.qcow2"]
