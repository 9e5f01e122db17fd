"""Volumes of LXC guests: sparse files that loop devices bring into guests as disks, partitions included.

`volumes/ID.img` in the state folder is a volume; `volumes.json` in a guest's folder says what the guest has. Nodes in a
running guest are made through a descriptor of its own `/dev`, so that no link in the guest leads anywhere else.
A volume outlives its guest; its loop device lives from its first attachment to its detachment.

Concurrency: functions block and run in threads, of the daemon and of engine processes; a lock on the state folder lets one
of them change volumes at a time. Each may be called again after a crash and finishes what the first call began.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError, VolumeInfo
from pcloud.infrastructure.host import alone_in, run_tool, write_atomically
from pcloud.infrastructure.lxc_nodes import BLOCK, PERMITTED, make_nodes, nodes_of, permit, told_of
from pcloud.infrastructure.lxc_settings import device_rules
from pcloud.infrastructure.volume_files import VolumeFiles
from pcloud.model import names
from pcloud.model.deployable import AttachedVolume

_LAST_USE_SECONDS = 5.0
_SECONDS = 20.0
_RECORD = "volumes.json"
_HOOK = "volumes.sh"
_record = msgspec.json.Decoder(tuple[AttachedVolume, ...])


def available() -> bool:
    """Tell whether this kernel has loop devices."""
    return Path("/dev/loop-control").exists()


class LxcVolumes(VolumeFiles):
    """The volumes of one state folder."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._guests = state / "guests"

    def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow to that, the disk of who has it too. InfrastructureError when it is
        larger, or there is no room for its file."""
        super().create(volume, size)
        for loop in self._loops(volume):
            run_tool("losetup", "--set-capacity", f"/dev/{loop}")

    def delete(self, volume: str) -> None:
        """Remove a volume and what is in it. InfrastructureError while a guest has it."""
        self.path(volume)
        if not self.state.exists():
            return
        with alone_in(self.state):
            if holder := self.holder(volume):
                raise InfrastructureError(f"volume {volume} is attached to {holder}")
            self._release(volume)
            self.remove(volume)

    def all(self) -> list[VolumeInfo]:
        """Return what volumes there are."""
        return self.infos(
            {one.volume: record.parent.name for record in self._records() for one in attached(record.parent)}
        )

    def in_use(self, volume: str) -> bool:
        """Tell whether a loop device still stands before it."""
        return bool(self._loops(volume))

    def _records(self) -> Iterator[Path]:
        return self._guests.glob(f"*/{_RECORD}")

    def holder(self, volume: str) -> str:
        """Return the guest that has a volume; empty when none has."""
        for record in self._records():
            if any(one.volume == volume for one in attached(record.parent)):
                return record.parent.name
        return ""

    def prepare(self, folder: Path, wanted: Sequence[AttachedVolume]) -> list[str]:
        """Connect the volumes of a guest that is about to start; return the lines for its configuration."""
        if not wanted and not (folder / _RECORD).exists():
            return []
        with alone_in(self.state):
            self._claim(folder, wanted)
            self._let_go(folder, wanted)
            if not wanted:
                return []
            write_atomically(folder / _RECORD, msgspec.json.encode(tuple(wanted)))
            nodes = [node for one in wanted for node in nodes_of(self._connect(one.volume), one.device)]
            numbers = {f"{major}:{minor}" for _, major, minor in nodes}
            write_atomically(folder / PERMITTED, msgspec.json.encode(sorted(numbers)))
        hook = folder / _HOOK
        made = [f'mknod -m 660 "$LXC_ROOTFS_MOUNT{path}" b {major} {minor}' for path, major, minor in nodes]
        hook.write_text("\n".join(["#!/bin/sh", "set -e", *made, ""]))
        hook.chmod(0o700)
        return [f"lxc.hook.autodev = {hook}", *device_rules([f"b {number} rwm" for number in sorted(numbers)])]

    def forget(self, folder: Path) -> None:
        """Take all volumes off a guest that does not run and is about to lose its folder."""
        if (folder / _RECORD).exists():
            with alone_in(self.state):
                self._let_go(folder, ())

    def apply(self, folder: Path, wanted: Sequence[AttachedVolume], init: int | None) -> None:
        """Give a guest these volumes and no others, at once where it runs (`init` is its first process)."""
        if not wanted and not (folder / _RECORD).exists():
            return
        with alone_in(self.state):
            self._claim(folder, wanted)
            gone = [one for one in attached(folder) if one not in wanted]
            # Until all of it is done the record says more than there is, so that what a crash left is found.
            write_atomically(folder / _RECORD, msgspec.json.encode((*wanted, *gone)))
            nodes = {one: nodes_of(self._connect(one.volume), one.device) for one in wanted}
            if init is not None:
                for one in gone:
                    make_nodes(init, one.device, ())
                permit(folder, init, nodes.values())
                for one in wanted:
                    make_nodes(init, one.device, nodes[one])
            kept = {one.volume for one in wanted}
            for one in gone:  # only now that the guest may not use its number, which another volume may get
                if one.volume not in kept:
                    self._release(one.volume)
            write_atomically(folder / _RECORD, msgspec.json.encode(tuple(wanted)))

    def refresh(self, folder: Path, loop: str, device: str, init: int | None) -> None:
        """Bring the nodes of one volume in a running guest to the partitions that it has now."""
        if init is None:
            return
        with alone_in(self.state):
            has = attached(folder)
            permit(folder, init, [nodes_of(each, one.device) for one in has for each in self._loops(one.volume)])
            if any(one.device == device and loop in self._loops(one.volume) for one in has):
                make_nodes(init, device, nodes_of(loop, device))

    def of_loop(self, loop: str) -> list[tuple[Path, AttachedVolume]]:
        """Return the guests' folders that have the volume behind a loop device."""
        backing = _backing(loop)
        return [
            (record.parent, one)
            for record in self._records()
            for one in attached(record.parent)
            if str(self.path(one.volume)) == backing
        ]

    def connected(self) -> list[str]:
        """Return the loop devices of all attached volumes."""
        return [
            loop for record in self._records() for one in attached(record.parent) for loop in self._loops(one.volume)
        ]

    def promised(self) -> dict[str, int]:
        """Return, for each guest, how many bytes its volumes can take beyond what they have taken."""
        found: dict[str, int] = {}
        for record in self._records():
            for one in attached(record.parent):
                with contextlib.suppress(FileNotFoundError):
                    told = self.path(one.volume).stat()
                    guest = record.parent.name
                    found[guest] = found.get(guest, 0) + max(0, told.st_size - told.st_blocks * 512)
        return found

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
            for name in (_HOOK, PERMITTED, _RECORD):
                (folder / name).unlink(missing_ok=True)

    def _connect(self, volume: str) -> str:
        """Return the volume's loop device, made where there is none. One that is about to go is waited for."""
        if not self._gone(volume, _SECONDS):
            raise InfrastructureError(f"volume {volume} is still in use")
        if loops := self._loops(volume):
            return loops[0]
        if not self.exists(volume):
            raise InfrastructureError(f"there is no volume {volume}")
        device = run_tool("losetup", "--find", "--show", "--partscan", str(self.path(volume)))
        # A kernel need not be able to read partition tables itself; of a volume without one partx says so, which is well.
        subprocess.run(["partx", "--update", device], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return Path(device).name

    def _release(self, volume: str) -> None:
        """Let go of a volume. While anybody still has its device open (a dying guest, or who just looks at all devices) the
        kernel does so with the last use: that is waited for, but not for ever."""
        for loop in self._loops(volume):
            run_tool("losetup", "--detach", f"/dev/{loop}")
        self._gone(volume, _LAST_USE_SECONDS)

    def _gone(self, volume: str, seconds: float) -> bool:
        """Wait until no loop device of a volume is about to go; False when one still is after so long."""
        deadline = time.monotonic() + seconds
        while any(_going(loop) for loop in self._loops(volume)):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def _loops(self, volume: str) -> list[str]:
        path = str(self.path(volume))
        return sorted(entry.name for entry in BLOCK.glob("loop*") if _backing(entry.name) == path)


def attached(folder: Path) -> tuple[AttachedVolume, ...]:
    """Return the volumes that a guest's folder says it has."""
    try:
        return _record.decode((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return ()
    except msgspec.DecodeError as error:
        raise InfrastructureError(f"{folder / _RECORD} can not be read: {error}") from error


def _going(loop: str) -> bool:
    """Whether the kernel removes a loop device's file with its last use."""
    return told_of(BLOCK / loop / "loop/autoclear").strip() == "1"


def _backing(loop: str) -> str:
    return told_of(BLOCK / loop / "loop/backing_file").rstrip("\n")
