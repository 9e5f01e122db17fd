"""Disk images for machines, made from an image's root file system folders without loop devices.

Owns the files of one machine image: `disk.qcow2` (an ext4 file system without a partition table, for direct kernel
boot), `kernel`, `initrd`, and on demand `cloud.qcow2` (with a boot loader, for clouds). Everything is made in a
temporary folder and moved to its final name when it is whole. Concurrency: one build per target folder at a time, which
the caller sees to; a build is a sequence of child processes that end with it when the task is cancelled.

A file system of ours boots with the initrd of `pcloud.images.initrd`, which gives the machine its identity and address.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pcloud.images.kernel import Kernel
from pcloud.model.errors import InvalidDocument, PcloudError, Problem, Unavailable

_MIB = 1024 * 1024
_DIGESTS = {"sha256": 64, "sha512": 128}
"""Algorithms of digests that makers of images publish, and their hexadecimal digits."""
_LABEL = "pcloud-root"
_BOOT_LOADER_START = _MIB
"""Where the boot loader's partition begins in a cloud disk; the root file system follows at 2 MiB."""
_ROOT_START = 2 * _MIB


class MachineImage(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a machine image."""

    disk: str
    kernel: str
    initrd: str


async def build_machine(layers: Sequence[Path], target: Path, *, kernel: Kernel, size: int = 8192) -> MachineImage:
    """Make `disk.qcow2`, `kernel` and `initrd` in the folder `target` from root file system folders, lowest first.

    `size` is the root file system's, in MiB: the file holds only what is used. PcloudError `IMAGE_TOO_SMALL`,
    `BUILD_FAILED`; Unavailable `PROGRAM_MISSING`.
    """
    image = MachineImage(disk=str(target / "disk.qcow2"), kernel=str(target / "kernel"), initrd=str(target / "initrd"))
    _make_folder(target)
    with tempfile.TemporaryDirectory(prefix=".machine-", dir=target) as folder:
        work = Path(folder)
        await _file_system(layers, work, kernel, size)
        await _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(work / "root.img"), str(work / "disk.qcow2"))
        await asyncio.to_thread(shutil.copyfile, kernel.image, work / "kernel")
        await asyncio.to_thread(shutil.copyfile, kernel.initrd, work / "initrd")
        for name in ("kernel", "initrd", "disk.qcow2"):  # the disk last: it is what tells that all is there
            (work / name).replace(target / name)
    return image


async def build_cloud(layers: Sequence[Path], target: Path, *, kernel: Kernel, size: int = 8192) -> Path:
    """Make `cloud.qcow2` in the folder `target`: a disk that boots by itself (GPT, GRUB for BIOS), for clouds."""
    _make_folder(target)
    with tempfile.TemporaryDirectory(prefix=".cloud-", dir=target) as folder:
        work = Path(folder)
        await _file_system(layers, work, kernel, size, boot=True)
        disk = work / "disk.img"
        root_size = (work / "root.img").stat().st_size
        with disk.open("wb") as file:
            file.truncate(_ROOT_START + root_size + _MIB)
        table = f"label: gpt\nstart={_BOOT_LOADER_START // 512}, size=2048, type=21686148-6449-6E6F-744E-656564454649\n"
        table += f"start={_ROOT_START // 512}, size={root_size // 512}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"
        await _run("sfdisk", "--quiet", str(disk), stdin=table.encode())
        await _run(
            "dd", f"if={work / 'root.img'}", f"of={disk}", "bs=1M", f"seek={_ROOT_START // _MIB}", "conv=notrunc,sparse",
            "status=none",
        )  # fmt: skip
        await _install_boot_loader(disk, work)
        await _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(work / "cloud.qcow2"))
        (work / "cloud.qcow2").replace(target / "cloud.qcow2")
    return target / "cloud.qcow2"


async def import_disk(source: Path, target: Path, *, digest: str) -> None:
    """Take over an existing disk image (qcow2 or raw) as `disk.qcow2` in `target` when its digest is right.

    `digest` is `sha256:…` or `sha512:…`. InvalidDocument `INVALID_DIGEST`, `DIGEST_MISMATCH`, `NOT_A_DISK`, `BACKING_FILE`
    (an image that refers to other files is refused: it could name any file of this host).
    """
    algorithm, wanted = parse_digest(digest)
    found = await asyncio.to_thread(_digest, source, algorithm)
    if found != wanted:
        raise InvalidDocument(
            Problem(code="DIGEST_MISMATCH", message=f"the file has the {algorithm} {found}, not {wanted}",
                    hint="Download it anew, and take the digest from where its maker publishes it")
        )  # fmt: skip
    out = await _run("qemu-img", "info", "--output=json", str(source))
    info = msgspec.json.decode(out, type=_DiskInfo)
    if info.format not in ("qcow2", "raw"):
        raise InvalidDocument.of("NOT_A_DISK", f"the file is of the format {info.format}, not qcow2 or raw")
    if info.format == "raw" and not await asyncio.to_thread(_has_boot_signature, source):
        raise InvalidDocument.of("NOT_A_DISK", "the file is no disk image: it has no boot sector")
    if info.backing or info.details.data.data_file:
        raise InvalidDocument.of(
            "BACKING_FILE", "the image refers to another file", hint="Flatten it: qemu-img convert"
        )
    _make_folder(target)
    partial = target / ".disk.qcow2.part"
    try:
        await _run("qemu-img", "convert", "-f", info.format, "-O", "qcow2", str(source), str(partial))
        partial.replace(target / "disk.qcow2")
    finally:
        partial.unlink(missing_ok=True)


def parse_digest(digest: str) -> tuple[str, str]:
    """Return algorithm and hexadecimal digest; InvalidDocument `INVALID_DIGEST`."""
    algorithm, _, value = digest.partition(":")
    value = value.lower()
    if len(value) != _DIGESTS.get(algorithm, -1) or not set(value) <= set("0123456789abcdef"):
        raise InvalidDocument.of(
            "INVALID_DIGEST",
            "the digest is not `sha256:` and 64, or `sha512:` and 128 hexadecimal digits",
            hint="take it from where the image's maker publishes it",
        )
    return algorithm, value


class _DetailData(msgspec.Struct, rename="kebab"):
    data_file: str = ""


class _Details(msgspec.Struct):
    data: _DetailData = msgspec.field(default_factory=_DetailData)


class _DiskInfo(msgspec.Struct):
    format: str
    backing: str = msgspec.field(default="", name="backing-filename")
    details: _Details = msgspec.field(default_factory=_Details, name="format-specific")


async def _file_system(layers: Sequence[Path], work: Path, kernel: Kernel, size: int, *, boot: bool = False) -> None:
    """Make `root.img` in `work`: the layers and the kernel's modules, in one ext4 file system."""
    lower = [*map(str, reversed(layers)), str(kernel.modules)]
    if any(character in path for path in lower for character in ":,\\\n"):
        raise PcloudError.of("BUILD_FAILED", "a layer's path contains a colon, comma or backslash")
    extra = work / "boot"
    if boot:
        (extra / "boot/grub").mkdir(parents=True)
        shutil.copyfile(kernel.image, extra / "boot/vmlinuz")
        shutil.copyfile(kernel.initrd, extra / "boot/initrd.img")
        lower.insert(0, str(extra))
    (work / "root.img").touch()
    with (work / "root.img").open("wb") as file:
        file.truncate(size * _MIB)
    # In a mount namespace of its own, so that nothing stays mounted whatever happens to us.
    script = (
        'mount --make-rprivate / && mount -t overlay overlay -o "ro,lowerdir=$1" "$2" && '
        'exec mke2fs -q -t ext4 -L "$3" -J size=16 -E lazy_itable_init=1,root_owner=0:0 -d "$2" "$4"'
    )
    (work / "merged").mkdir()
    await _run(
        "unshare", "--mount", "sh", "-c", script, "sh",
        ":".join(lower), str(work / "merged"), _LABEL, str(work / "root.img"),
    )  # fmt: skip


async def _install_boot_loader(disk: Path, work: Path) -> None:
    """Write GRUB into the disk's first sector and its boot loader partition, as grub-bios-setup does on a real disk."""
    modules = Path("/usr/lib/grub/i386-pc")
    if not (modules / "boot.img").exists():
        raise _missing("grub-mkimage", "grub-pc-bin")
    (work / "grub.cfg").write_text(
        f"search --no-floppy --label {_LABEL} --set=root\n"
        f"linux /boot/vmlinuz root=LABEL={_LABEL} rw console=tty0 console=ttyS0,115200 net.ifnames=0\n"
        "initrd /boot/initrd.img\nboot\n"
    )
    await _run(
        "grub-mkimage", "-O", "i386-pc", "-o", str(work / "core.img"), "-c", str(work / "grub.cfg"), "-p", "/boot/grub",
        "biosdisk", "part_gpt", "ext2", "linux", "search", "search_label", "normal", "boot", "minicmd",
    )  # fmt: skip
    first = bytearray((modules / "boot.img").read_bytes()[:440])
    core = bytearray((work / "core.img").read_bytes())
    sector = _BOOT_LOADER_START // 512
    first[0x5C:0x64] = struct.pack("<Q", sector)  # where the rest begins
    first[0x66:0x68] = b"\x90\x90"  # no check for floppies
    core[0x1F4:0x1FC] = struct.pack("<Q", sector + 1)  # and goes on
    with disk.open("r+b") as file:
        file.write(first)
        file.seek(_BOOT_LOADER_START)
        file.write(core)


async def _run(*argv: str, stdin: bytes = b"") -> bytes:
    """Run a program to its end; PcloudError with the end of what it said when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise _missing(argv[0], argv[0]) from None
    try:
        stdout, stderr = await process.communicate(stdin)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        text = stderr.decode("utf-8", "replace").strip()[-500:]
        code = "IMAGE_TOO_SMALL" if "Could not allocate block" in text else "BUILD_FAILED"
        raise PcloudError.of(code, f"{argv[0]} failed: {text}")
    return stdout


def _missing(program: str, package: str) -> Unavailable:
    return Unavailable(
        Problem(
            code="PROGRAM_MISSING", message=f"{program} is not installed", hint=f"Install it: apt-get install {package}"
        )
    )


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _has_boot_signature(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(512)[510:] == b"\x55\xaa"
