"""Volumes of LXC guests: sparse files that loop devices bring into guests as disks, partitions included.

`volumes/ID.img` in the state folder is a volume; `volumes.json` in a guest's folder says what the guest has. Nodes in a
running guest are made through a descriptor of its own `/dev`, so that no link in the guest leads anywhere else.
A volume outlives its guest; its loop device lives from its first attachment to its detachment.

Concurrency: functions block and run in threads, of the daemon and of engine processes; a lock on the state folder lets one
of them change volumes at a time. Each may be called again after a crash and finishes what the first call began.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.lxc_network import write_atomically
from pcloud.infrastructure.lxc_settings import device_rules
from pcloud.model import names
from pcloud.model.deployable import AttachedVolume

_RECORD = "volumes.json"
_HOOK = "volumes.sh"
_PERMITTED = "volumes.permitted"
_BLOCK = Path("/sys/block")
_permitted = msgspec.json.Decoder(frozenset[str])
_record = msgspec.json.Decoder(tuple[AttachedVolume, ...])
_SECONDS = 20.0


def available() -> bool:
    """Tell whether this kernel has loop devices."""
    return Path("/dev/loop-control").exists()


class LxcVolumes:
    """The volumes of one state folder."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._folder = state / "volumes"
        self._guests = state / "guests"

    def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow to that. InfrastructureError when it is larger, or there is no room
        for its file."""
        path = self._path(volume)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone(), path.open("ab") as file:
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
        path = self._path(volume)
        if not self._state.exists():
            return
        with self._alone():
            if holder := self.holder(volume):
                raise InfrastructureError(f"volume {volume} is attached to {holder}")
            self._release(volume)
            path.unlink(missing_ok=True)
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
        if not wanted and not (folder / _RECORD).exists():
            return []
        with self._alone():
            self._claim(folder, wanted)
            self._let_go(folder, wanted)
            if not wanted:
                return []
            write_atomically(folder / _RECORD, msgspec.json.encode(tuple(wanted)))
            nodes = [node for one in wanted for node in _nodes(self._connect(one.volume), one.device)]
            numbers = {f"{major}:{minor}" for _, major, minor in nodes}
            write_atomically(folder / _PERMITTED, msgspec.json.encode(sorted(numbers)))
        hook = folder / _HOOK
        made = [f'mknod -m 660 "$LXC_ROOTFS_MOUNT{path}" b {major} {minor}' for path, major, minor in nodes]
        hook.write_text("\n".join(["#!/bin/sh", "set -e", *made, ""]))
        hook.chmod(0o700)
        return [f"lxc.hook.autodev = {hook}", *device_rules([f"b {number} rwm" for number in sorted(numbers)])]

    def forget(self, folder: Path) -> None:
        """Take all volumes off a guest that does not run and is about to lose its folder."""
        if (folder / _RECORD).exists():
            with self._alone():
                self._let_go(folder, ())

    def apply(self, folder: Path, wanted: Sequence[AttachedVolume], init: int | None) -> None:
        """Give a guest these volumes and no others, at once where it runs (`init` is its first process)."""
        if not wanted and not (folder / _RECORD).exists():
            return
        with self._alone():
            self._claim(folder, wanted)
            gone = [one for one in attached(folder) if one not in wanted]
            # Until all of it is done the record says more than there is, so that what a crash left is found.
            write_atomically(folder / _RECORD, msgspec.json.encode((*wanted, *gone)))
            nodes = {one: _nodes(self._connect(one.volume), one.device) for one in wanted}
            if init is not None:
                for one in gone:
                    _make_nodes(init, one.device, ())
                _permit(folder, init, nodes.values())
                for one in wanted:
                    _make_nodes(init, one.device, nodes[one])
            kept = {one.volume for one in wanted}
            for one in gone:  # only now that the guest may not use its number, which another volume may get
                if one.volume not in kept:
                    self._release(one.volume)
            write_atomically(folder / _RECORD, msgspec.json.encode(tuple(wanted)))

    def refresh(self, folder: Path, loop: str, device: str, init: int | None) -> None:
        """Bring the nodes of one volume in a running guest to the partitions that it has now."""
        if init is None:
            return
        with self._alone():
            has = attached(folder)
            _permit(folder, init, [_nodes(each, one.device) for one in has for each in self._loops(one.volume)])
            if any(one.device == device and loop in self._loops(one.volume) for one in has):
                _make_nodes(init, device, _nodes(loop, device))

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

    def promised(self) -> dict[str, int]:
        """Return, for each guest, how many bytes its volumes can take beyond what they have taken."""
        found: dict[str, int] = {}
        for record in self._guests.glob(f"*/{_RECORD}"):
            for one in attached(record.parent):
                with contextlib.suppress(FileNotFoundError):
                    told = self._path(one.volume).stat()
                    guest = record.parent.name
                    found[guest] = found.get(guest, 0) + max(0, told.st_size - told.st_blocks * 512)
        return found

    def space(self) -> tuple[int, int]:
        """Return the free bytes and all bytes of the file system that volumes lie in; OSError when there is none."""
        told = os.statvfs(self._folder)
        return told.f_bfree * told.f_frsize, told.f_blocks * told.f_frsize

    def _claim(self, folder: Path, wanted: Sequence[AttachedVolume]) -> None:
        """Refuse what another guest has: two kernels' views of one file system destroy it."""
        for one in wanted:
            if not re.fullmatch(names.DISK, one.device):
                raise InfrastructureError(f"{one.device!r} is no name of a disk", permanent=True)
            if (holder := self.holder(one.volume)) not in ("", folder.name):
                raise InfrastructureError(f"volume {one.volume} is attached to {holder}")

    def _let_go(self, folder: Path, wanted: Sequence[AttachedVolume]) -> None:
        """Release what a guest that does not run has and is not to have any more."""
        kept = {one.volume for one in wanted}
        for one in attached(folder):
            if one.volume not in kept:
                self._release(one.volume)
        if not wanted:
            for name in (_HOOK, _PERMITTED, _RECORD):
                (folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock on the state folder: the daemon attaches while engine processes start guests."""
        descriptor = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _connect(self, volume: str) -> str:
        """Return the volume's loop device, made where there is none."""
        if loops := self._loops(volume):
            return loops[0]
        if not self.exists(volume):
            raise InfrastructureError(f"there is no volume {volume}")
        device = _run("losetup", "--find", "--show", "--partscan", str(self._path(volume)))
        # A kernel need not be able to read partition tables itself; of a volume without one partx says so, which is well.
        subprocess.run(["partx", "--update", device], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return Path(device).name

    def _release(self, volume: str) -> None:
        """Let go of a volume; while a dying guest still has it open, the kernel does so with its last use."""
        for loop in self._loops(volume):
            _run("losetup", "--detach", f"/dev/{loop}")

    def _loops(self, volume: str) -> list[str]:
        path = str(self._path(volume))
        return sorted(entry.name for entry in _BLOCK.glob("loop*") if _backing(entry.name) == path)

    def _path(self, volume: str) -> Path:
        if not re.fullmatch(names.VOLUME, volume):
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


def _permit(folder: Path, init: int, nodes: Iterable[Sequence[tuple[str, int, int]]]) -> None:
    """Let a running guest use these devices and no others that it could use before: numbers are given to others later."""
    if not device_rules([""]):
        return
    wanted = {f"{major}:{minor}" for each in nodes for _, major, minor in each}
    path = folder / _PERMITTED
    try:
        had = _permitted.decode(path.read_bytes())
    except FileNotFoundError:
        had = frozenset()
    write_atomically(path, msgspec.json.encode(sorted(wanted | had)))
    for verb, numbers in (("devices.allow", wanted), ("devices.deny", had - wanted)):
        for number in sorted(numbers):
            _run("lxc-cgroup", "-P", str(folder.parent), "-n", folder.name, verb, f"b {number} rwm")
            if verb == "devices.allow":
                _allow_below(init, f"b {number} rwm")
    write_atomically(path, msgspec.json.encode(sorted(wanted)))


def _allow_below(init: int, rule: str) -> None:
    """Let services that run in the guest already use a device: in control groups of version 1 what a group is given is not
    its children's (what it is denied is)."""
    try:
        lines = Path(f"/proc/{init}/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return
    own = next((line.split(":", 2)[2] for line in lines if line.split(":")[1:2] == ["devices"]), "")
    parts = Path(own).parts
    top = next((number for number, part in enumerate(parts) if part.startswith("lxc.payload.")), None)
    if top is None:
        return  # version 2, where rules hold for all below
    for place, _, _ in os.walk(Path("/sys/fs/cgroup/devices", *parts[1 : top + 1])):
        with contextlib.suppress(FileNotFoundError):  # a service that ended meanwhile
            Path(place, "devices.allow").write_text(rule)


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
