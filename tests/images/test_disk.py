"""Disk images: imports that are checked, file systems without loop devices, module order."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pcloud.images.disk import build_cloud, build_machine, import_disk
from pcloud.images.kernel import INIT, Kernel, load_order, make_initrd
from pcloud.images.machine import MachineImages
from pcloud.infrastructure.iso import iso_image
from pcloud.model.errors import PcloudError, Unavailable
from pcloud.model.image import Image


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def create(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path)], check=True)
    return path


@pytest.fixture
def disk(tmp_path):
    need("qemu-img")
    path = tmp_path / "cloud.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    return path


async def test_import_takes_what_is_right(disk, tmp_path):
    target = tmp_path / "target"
    await import_disk(disk, target, digest=f"sha256:{sha(disk).upper()}")
    assert (target / "disk.qcow2").read_bytes()[:4] == b"QFI\xfb"
    assert [path.name for path in target.iterdir()] == ["disk.qcow2"]


async def test_import_refuses_another_digest(disk, tmp_path):
    with pytest.raises(PcloudError) as caught:
        await import_disk(disk, tmp_path / "target", digest="sha256:" + "0" * 64)
    assert caught.value.code == "DIGEST_MISMATCH"
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "g" * 64, "md5:" + "0" * 32, "0" * 64]
)
async def test_import_refuses_what_is_no_digest(disk, tmp_path, digest):
    with pytest.raises(PcloudError) as caught:
        await import_disk(disk, tmp_path / "target", digest=digest)
    assert caught.value.code == "INVALID_DIGEST"


async def test_import_takes_the_other_algorithm(disk, tmp_path):
    await import_disk(disk, tmp_path / "target", digest=f"sha512:{hashlib.sha512(disk.read_bytes()).hexdigest()}")
    assert (tmp_path / "target/disk.qcow2").exists()


async def test_import_refuses_an_image_that_names_another_file(disk, tmp_path):
    evil = create(tmp_path / "evil.qcow2", "-b", str(disk), "-F", "qcow2")
    with pytest.raises(PcloudError) as caught:
        await import_disk(evil, tmp_path / "target", digest=f"sha256:{sha(evil)}")
    assert caught.value.code == "BACKING_FILE"
    data = tmp_path / "data.qcow2"
    options = f"data_file={tmp_path}/raw,data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(data), "1M"], check=True)
    with pytest.raises(PcloudError) as caught:
        await import_disk(data, tmp_path / "target", digest=f"sha256:{sha(data)}")
    assert caught.value.code == "BACKING_FILE"


async def test_import_refuses_what_is_no_disk(tmp_path):
    need("qemu-img")
    text = tmp_path / "page.html"
    text.write_text("<html>not found</html>" * 100)
    with pytest.raises(PcloudError) as caught:
        await import_disk(text, tmp_path / "target", digest=f"sha256:{sha(text)}")
    assert caught.value.code == "NOT_A_DISK"


def test_modules_are_loaded_after_what_they_need(tmp_path):
    needs = {"virtio_net": "virtio,net-failover", "virtio": "virtio_ring", "virtio_ring": "", "loop": "loop"}
    for name, depends in needs.items():
        (tmp_path / f"{name}.ko").write_bytes(b"\x7fELF\0depends=" + depends.encode() + b"\0")
    (tmp_path / "net_failover.ko").write_bytes(b"\x7fELF\0license=GPL\0")
    names = [path.name for path in load_order(tmp_path, ["virtio-net", "absent", "loop"])]
    assert names == ["virtio_ring.ko", "virtio.ko", "net_failover.ko", "virtio_net.ko", "loop.ko"]


@pytest.fixture
def kernel(tmp_path):
    folder = tmp_path / "kernel"
    modules = folder / "modules/usr/lib/modules/1.2"
    modules.mkdir(parents=True)
    (modules / "ext4.ko").write_bytes(b"\x7fELF\0depends=\0")
    for name in ("image", "initrd"):
        (folder / name).write_bytes(name.encode() * 100)
    return Kernel(version="1.2", image=folder / "image", initrd=folder / "initrd", modules=folder / "modules")


@pytest.fixture
def layers(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: overlay mounts")
    need("mke2fs", "qemu-img", "debugfs")
    low, high = tmp_path / "low", tmp_path / "high"
    content = {low / "etc/name": "low", low / "etc/kept": "kept", low / "gone": "x", high / "etc/name": "high"}
    for path, text in content.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (low / "etc/kept").chmod(0o640)
    os.chown(low / "etc/kept", 5, 7)
    os.mknod(high / "gone", 0o20000, os.makedev(0, 0))  # how overlay says that a file was removed
    return [low, high]


def look(image: Path, command: str) -> str:
    done = subprocess.run(["debugfs", "-R", command, str(image)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.real
async def test_layers_become_one_file_system(layers, kernel, tmp_path):
    made = await build_machine(layers, tmp_path / "out", kernel=kernel, size=64)
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", made.disk, str(raw)], check=True)
    assert look(raw, "cat /etc/name") == "high"
    assert look(raw, "cat /etc/kept") == "kept"
    stat = look(raw, "stat /etc/kept")
    assert "Mode:  0640" in stat
    assert "User:     5   Group:     7" in stat
    assert "gone" not in look(raw, "ls /")
    assert "1.2" in look(raw, "ls /usr/lib/modules")
    assert Path(made.kernel).read_bytes().startswith(b"image")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["disk.qcow2", "initrd", "kernel"]
    assert subprocess.run(["e2fsck", "-fn", str(raw)], capture_output=True, check=False).returncode == 0
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


@pytest.mark.real
async def test_what_does_not_fit_leaves_nothing(layers, kernel, tmp_path):
    (layers[0] / "big").write_bytes(os.urandom(40 << 20))
    with pytest.raises(PcloudError) as caught:
        await build_machine(layers, tmp_path / "out", kernel=kernel, size=32)
    assert caught.value.code in ("IMAGE_TOO_SMALL", "BUILD_FAILED")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.real
async def test_interrupted_build_leaves_nothing_and_can_be_done_again(layers, kernel, tmp_path, monkeypatch):
    (layers[0] / "big").write_bytes(os.urandom(64 << 20))
    monkeypatch.setattr("pcloud.images.machine.fetch_kernel", lambda _: asyncio.sleep(0, kernel))
    store = MachineImages(tmp_path / "machines", size=256)
    image = Image(name="x", digest="d1", layers=tuple(map(str, layers)))
    task = asyncio.create_task(store.machine(image))
    async with asyncio.timeout(60):
        while not list((tmp_path / "machines").glob("d1/.machine-*/merged")):
            await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "machines/d1").iterdir()) == []
    other = MachineImages(tmp_path / "machines", size=256)
    first, second = await asyncio.gather(store.machine(image), other.machine(image))
    assert first == second
    before = Path(first.disk).stat().st_mtime_ns
    assert (await store.machine(image)).disk == first.disk
    assert Path(first.disk).stat().st_mtime_ns == before, "made once"


@pytest.mark.real
async def test_cloud_disk_has_a_boot_loader_and_a_root(layers, kernel, tmp_path):
    need("sfdisk", "grub-mkimage")
    if not Path("/usr/lib/grub/i386-pc/boot.img").exists():
        pytest.skip("grub-pc-bin is not installed")
    path = await build_cloud(layers, tmp_path / "out", kernel=kernel, size=64)
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(path), str(raw)], check=True)
    data = raw.read_bytes()
    assert data[510:512] == b"\x55\xaa"
    assert b"GRUB" in data[:440]
    assert int.from_bytes(data[0x5C:0x64], "little") == 2048
    assert subprocess.run(["sfdisk", "--verify", str(raw)], capture_output=True, check=False).returncode == 0
    root = tmp_path / "root"
    root.write_bytes(data[2 << 20 : (2 << 20) + (64 << 20)])
    assert look(root, "cat /boot/vmlinuz").startswith("image")
    assert "initrd.img" in look(root, "ls /boot")


async def test_paths_that_mount_would_misread_are_refused(kernel, tmp_path):
    with pytest.raises(PcloudError):
        await build_machine([tmp_path / "a:b,upperdir=x"], tmp_path / "out", kernel=kernel)


async def test_dynamic_busybox_is_refused(tmp_path, monkeypatch):
    fake = tmp_path / "busybox"
    fake.write_bytes(b"\x7fELF" + b"/lib64/ld-linux-x86-64.so.2\0")
    monkeypatch.setattr("pcloud.images.kernel.shutil.which", lambda _: str(fake))
    with pytest.raises(Unavailable):
        await make_initrd(tmp_path, tmp_path / "initrd")


def test_the_initrd_finds_disks_by_their_labels(tmp_path):
    need("busybox", "mke2fs")
    (tmp_path / "sda").write_bytes(b"")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "pcloud-root", str(tmp_path / "vda2"), "4M"], check=True)
    (tmp_path / "sr0").write_bytes(iso_image("config-2", {"a": b"b"}))
    start = INIT.index("find_device() {")
    text = INIT[start : INIT.index("\n}\n", start) + 3]
    text = text.replace("/sys/class/block", str(tmp_path)).replace("/dev/", f"{tmp_path}/")

    def find(what: str) -> str:
        command = ["busybox", "sh", "-c", f"{text}find_device {what}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert find("LABEL=pcloud-root") == str(tmp_path / "vda2")
    assert find("LABEL=config-2") == str(tmp_path / "sr0")
    assert find("LABEL=other") == ""


async def test_busybox_without_what_the_initrd_runs_is_refused(tmp_path, monkeypatch):
    need("busybox")
    monkeypatch.setattr("pcloud.images.kernel._APPLETS", ("sh", "no-such-applet"))
    with pytest.raises(Unavailable) as caught:
        await make_initrd(tmp_path, tmp_path / "initrd")
    assert "no-such-applet" in str(caught.value)
