"""Volumes of LXC guests: sparse files that loop devices bring into guests as disks, partitions included.

`volumes/ID.img` in the state folder is a volume; `volumes.json` in a guest's folder says what the guest has. Nodes in a
running guest are made through a descriptor of its own `/dev`, so that no link in the guest leads anywhere else.
A volume outlives its guest; its loop device lives from its first attachment to its detachment.

Concurrency: functions block and run in threads; one guest's folder is touched by one call at a time. Each may be called
again after a crash and finishes what the first call began.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.lxc_network import write_atomically
from pcloud.infrastructure.lxc_settings import device_rules
from pcloud.model.deployable import AttachedVolume

VOLUME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
DEVICE = re.compile(r"/dev/(?:s|v|xv|h)d[a-z]{1,2}")
_RECORD = "volumes.json"
_HOOK = "volumes.sh"
_BLOCK = Path("/sys/block")
_record = msgspec.json.Decoder(tuple[AttachedVolume, ...])
_SECONDS = 20.0


def available() -> bool:
    """Tell whether this kernel has loop devices."""
    return Path("/dev/loop-control").exists()


class LxcVolumes:
    """The volumes of one state folder."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "volumes"
        self._guests = state / "guests"

    def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow to that. InfrastructureError when it is larger, or there is no room
        for its file."""
        path = self._path(volume)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("ab") as file:
                found = os.fstat(file.fileno()).st_size
                if found > size:
                    raise InfrastructureError(
                        f"volume {volume} has {found} bytes and can not shrink to {size}", permanent=True
                    )
                file.truncate(size)
        except OSError as error:
            raise InfrastructureError(f"volume {volume} can not be made: {error.strerror}") from error
        for loop in self._loops(volume):
            _run("losetup", "--set-capacity", f"/dev/{loop}")

    def delete(self, volume: str) -> None:
        """Remove a volume and what is in it. InfrastructureError while a guest has it."""
        if holder := self.holder(volume):
            raise InfrastructureError(f"volume {volume} is attached to {holder}")
        self._release(volume)
        self._path(volume).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are left, or there was none
            self._folder.rmdir()

    def exists(self, volume: str) -> bool:
        """Tell whether there is such a volume."""
        return self._path(volume).exists()

    def holder(self, volume: str) -> str:
        """Return the guest that has a volume; empty when none has."""
        for record in self._guests.glob(f"*/{_RECORD}"):
            if any(one.volume == volume for one in attached(record.parent)):
                return record.parent.name
        return ""

    def prepare(self, folder: Path, wanted: Sequence[AttachedVolume]) -> list[str]:
        """Connect the volumes of a guest that is about to start; return the lines for its configuration."""
        self._drop(folder, wanted)
        hook = folder / _HOOK
        if not wanted:
            for name in (_RECORD, _HOOK):
                (folder / name).unlink(missing_ok=True)
            return []
        write_atomically(folder / _RECORD, msgspec.json.encode(tuple(wanted)))
        nodes = [node for one in wanted for node in _nodes(self._connect(one.volume), one.device)]
        made = [f'mknod -m 660 "$LXC_ROOTFS_MOUNT{path}" b {major} {minor}' for path, major, minor in nodes]
        hook.write_text("\n".join(["#!/bin/sh", "set -e", *made, ""]))
        hook.chmod(0o700)
        return [
            f"lxc.hook.autodev = {hook}",
            *device_rules([f"b {major}:{minor} rwm" for _, major, minor in nodes]),
        ]

    def apply(self, folder: Path, wanted: Sequence[AttachedVolume], init: int | None) -> None:
        """Give a guest these volumes and no others, at once where it runs (`init` is its first process)."""
        had = attached(folder)
        gone = [one for one in had if one not in wanted]
        # Until all of it is done the record says more than there is, so that what a crash left is found.
        write_atomically(folder / _RECORD, msgspec.json.encode((*wanted, *gone)))
        for one in gone:
            if init is not None:
                _remove_nodes(init, one.device)
            self._release(one.volume)
        for one in wanted:
            self.refresh(folder, self._connect(one.volume), one.device, init)
        write_atomically(folder / _RECORD, msgspec.json.encode(tuple(wanted)))

    def refresh(self, folder: Path, loop: str, device: str, init: int | None) -> None:
        """Bring the nodes of one volume in a running guest to the partitions that it has now."""
        if init is None:
            return
        nodes = _nodes(loop, device)
        for _, major, minor in nodes:
            if device_rules([""]):
                rule = f"b {major}:{minor} rwm"
                _run("lxc-cgroup", "-P", str(folder.parent), "-n", folder.name, "devices.allow", rule)
        _make_nodes(init, device, nodes)

    def of_loop(self, loop: str) -> list[tuple[Path, AttachedVolume]]:
        """Return the guests' folders that have the volume behind a loop device."""
        backing = _backing(loop)
        return [
            (record.parent, one)
            for record in self._guests.glob(f"*/{_RECORD}")
            for one in attached(record.parent)
            if str(self._path(one.volume)) == backing
        ]

    def connected(self) -> list[str]:
        """Return the loop devices of all attached volumes."""
        return [
            loop
            for record in self._guests.glob(f"*/{_RECORD}")
            for one in attached(record.parent)
            for loop in self._loops(one.volume)
        ]

    def _drop(self, folder: Path, wanted: Sequence[AttachedVolume]) -> None:
        for one in attached(folder):
            if one.volume not in {other.volume for other in wanted}:
                self._release(one.volume)

    def _connect(self, volume: str) -> str:
        """Return the volume's loop device, made where there is none."""
        if loops := self._loops(volume):
            return loops[0]
        if not self.exists(volume):
            raise InfrastructureError(f"there is no volume {volume}")
        return Path(_run("losetup", "--find", "--show", "--partscan", str(self._path(volume)))).name

    def _release(self, volume: str) -> None:
        """Let go of a volume; while a dying guest still has it open, the kernel does so with its last use."""
        for loop in self._loops(volume):
            _run("losetup", "--detach", f"/dev/{loop}")

    def _loops(self, volume: str) -> list[str]:
        path = str(self._path(volume))
        return sorted(entry.name for entry in _BLOCK.glob("loop*") if _backing(entry.name) == path)

    def _path(self, volume: str) -> Path:
        if not VOLUME.fullmatch(volume):
            raise InfrastructureError(f"{volume!r} is no volume's id", permanent=True)
        return self._folder / f"{volume}.img"


def attached(folder: Path) -> tuple[AttachedVolume, ...]:
    """Return the volumes that a guest's folder says it has."""
    try:
        return _record.decode((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return ()
    except msgspec.DecodeError as error:
        raise InfrastructureError(f"{folder / _RECORD} can not be read: {error}") from error


def _backing(loop: str) -> str:
    try:
        return (_BLOCK / loop / "loop/backing_file").read_text().rstrip("\n")
    except FileNotFoundError:
        return ""


def _nodes(loop: str, device: str) -> list[tuple[str, int, int]]:
    """The disk and its partitions: path in the guest, major, minor."""
    found = []
    for entry in [_BLOCK / loop, *sorted((_BLOCK / loop).glob(f"{loop}p*"))]:
        try:
            major, minor = (entry / "dev").read_text().strip().split(":")
        except FileNotFoundError:  # a partition that goes
            continue
        found.append((f"{device}{entry.name.removeprefix(loop).removeprefix('p')}", int(major), int(minor)))
    return found


@contextlib.contextmanager
def _devices_of(init: int) -> Iterator[int]:
    """A descriptor of a guest's own /dev; FileNotFoundError when it ends."""
    root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY)
    try:
        folder = os.open("dev", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    finally:
        os.close(root)
    try:
        yield folder
    finally:
        os.close(folder)


def _make_nodes(init: int, device: str, nodes: Sequence[tuple[str, int, int]]) -> None:
    wanted = {Path(path).name: os.makedev(major, minor) for path, major, minor in nodes}
    try:
        with _devices_of(init) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - by descriptor
                if _is_part(name, device) and wanted.get(name) != _device_number(folder, name):
                    os.unlink(name, dir_fd=folder)
            present = set(os.listdir(folder))  # noqa: PTH208
            for name, number in wanted.items():
                if name not in present:
                    os.mknod(name, stat.S_IFBLK | 0o660, number, dir_fd=folder)
    except (FileNotFoundError, ProcessLookupError):
        return  # the guest ends; its next start has them
    except OSError as error:
        raise InfrastructureError(f"{device} can not be put into the guest: {error.strerror}") from error


def _remove_nodes(init: int, device: str) -> None:
    _make_nodes(init, device, ())


def _is_part(name: str, device: str) -> bool:
    return re.fullmatch(re.escape(Path(device).name) + r"[0-9]*", name) is not None


def _device_number(folder: int, name: str) -> int:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else -1


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{words[0]}: {error}") from error
    if done.returncode:
        raise InfrastructureError(f"{words[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()
