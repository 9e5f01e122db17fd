"""A machine image for the tests: a small Debian with systemd, sshd, nginx and the QEMU guest agent; nothing of ours."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import Image
from pcloud.images.assembly import AssemblyImageSpec
from pcloud.images.disk import MachineImage, build_cloud, build_machine
from pcloud.images.kernel import Kernel, fetch_kernel
from pcloud.images.store import ImageStore

CACHE = Path(os.environ.get("PCLOUD_TEST_CACHE", "/var/cache/pcloud-test")) / "machines"
PACKAGES = "openssh-server,systemd-sysv,udev,iproute2,dbus,qemu-guest-agent,nginx-light"
_EXCLUDE = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


def rootfs() -> Path:
    """The root file system folder, built once per machine and kept."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap: images for machines")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        final = CACHE / "rootfs"
        if not final.exists():
            partial = CACHE / "rootfs.part"
            shutil.rmtree(partial, ignore_errors=True)
            options = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDE]
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", f"--include={PACKAGES}", *options,
                 "bookworm", str(partial)], check=True, pass_fds=(lock.fileno(),),
            )  # fmt: skip
            # It holds the lock as we do: who is killed here leaves it running.
            partial.rename(final)
    return final


def kernel() -> Kernel:
    return asyncio.run(fetch_kernel(CACHE / "kernels"))


def cloud_disk() -> Path:
    """A disk as clouds' images are: it boots by its own loader and gets its identity from cloud-init. With nginx, and
    nothing of ours. Built once per machine and kept; there is none on any package mirror."""
    for program in ("mke2fs", "qemu-img", "busybox", "sfdisk", "grub-mkimage"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (make setup-libvirt)")
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap: images for machines")
    wanted = AssemblyImageSpec(
        jeos="bookworm",
        packages=("cloud-init", "nginx-light", "qemu-guest-agent"),
        commands=(("systemctl", "enable", "systemd-networkd"),),
        agent="",
        transport="ssh",
        disable_units=("nginx.service",),
    )
    layered = asyncio.run(ImageStore().build_assembly(wanted))
    found = kernel()
    target = CACHE / f"cloud-{layered.digest}-{found.image.parent.name}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "cloud.qcow2").exists():
            layers = [Path(layer) for layer in layered.layers]
            asyncio.run(build_cloud(layers, target, kernel=found, size=2048))
    return target / "cloud.qcow2"


def machine_image() -> Image:
    """The disk image for direct kernel boot, built once per machine and kept."""
    for program in ("mke2fs", "qemu-img", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    tree = rootfs()
    found = kernel()
    target = CACHE / f"image-{found.image.parent.name}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = MachineImage(
            disk=str(target / "disk.qcow2"), kernel=str(target / "kernel"), initrd=str(target / "initrd")
        )
        if not (target / "disk.qcow2").exists():
            files = asyncio.run(build_machine([tree], target, kernel=found, size=2048))
    return Image(
        name="test",
        digest="machine-" + target.name,
        layers=(str(tree),),
        disk=files.disk,
        kernel=files.kernel,
        initrd=files.initrd,
    )


def tiny_image(folder: Path) -> Image:
    """A disk with nothing on it: its machine runs within a second, and nothing in it."""
    disk = folder / "tiny.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True)
    return Image(name="tiny", digest="tiny", disk=str(disk))
