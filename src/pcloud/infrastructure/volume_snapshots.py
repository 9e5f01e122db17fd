"""Snapshots of volumes: copies of their files, which share what is the same where the file system can (reflink).

`snapshots/ID.img` in the state folder is a snapshot, complete when it is there; `ID.json` says what it is of. A copy has
another name until it is whole, and its writer is this process alone, so that one that was killed leaves nothing that counts.

Concurrency: functions block and run in threads. A copy holds no lock: the volume is nobody's while it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from pcloud.environment.infrastructure import InfrastructureError, SnapshotInfo
from pcloud.infrastructure.host import write_atomically
from pcloud.infrastructure.volume_files import VolumeFiles, partial
from pcloud.model import names

_FICLONE = 0x40049409
"""linux/fs.h."""
_PIECE = 1 << 26
_RELEASE_SECONDS = 20.0
_info = msgspec.json.Decoder(SnapshotInfo)


class VolumeSnapshots:
    """The snapshots of one state folder."""

    def __init__(self, state: Path, volumes: VolumeFiles) -> None:
        self._folder = state / "snapshots"
        self._volumes = volumes

    def has(self, snapshot: str) -> bool:
        """Tell whether there is such a snapshot, whole."""
        return self._path(snapshot).exists()

    def take(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has; does nothing when the snapshot is there. InfrastructureError when a guest has
        it, when there is no such volume, or no room."""
        path = self._path(snapshot)
        if path.exists():
            return
        self._volumes.wait_unused(volume, _RELEASE_SECONDS)
        source = self._volumes.path(volume)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            size = source.stat().st_size
            told = SnapshotInfo(snapshot=snapshot, volume=volume, size=size, taken=0, created=time.time(), note=note)
            write_atomically(path.with_suffix(".json"), msgspec.json.encode(told))
            copy(source, path)
        except OSError as error:
            raise InfrastructureError(f"no snapshot of volume {volume} can be made: {error.strerror}") from error

    def restore(self, snapshot: str, volume: str, size: int) -> None:
        """Make a volume that begins as a snapshot, of at least its size; lets one that is there grow."""
        path = self._path(snapshot)
        if not self._volumes.exists(volume):
            if not path.exists():
                raise InfrastructureError(f"there is no snapshot {snapshot}", permanent=True)
            if 0 < size < path.stat().st_size:
                raise InfrastructureError(f"the snapshot {snapshot} is larger than {size} bytes", permanent=True)
            target = self._volumes.path(volume)
            try:
                self._volumes.ready()
                copy(path, target)
            except OSError as error:
                raise InfrastructureError(f"volume {volume} can not be made: {error.strerror}") from error
        if size:
            self._volumes.create(volume, size)

    def all(self) -> list[SnapshotInfo]:
        """Return what snapshots there are."""
        found = []
        for path in sorted(self._folder.glob("*.img")):
            with contextlib.suppress(FileNotFoundError):  # it is being removed
                taken = path.stat().st_blocks * 512
                found.append(msgspec.structs.replace(self._told(path), taken=taken))
        return found

    def delete(self, snapshot: str) -> None:
        """Remove a snapshot; no error when there is none."""
        path = self._path(snapshot)
        for each in (path, partial(path), path.with_suffix(".json")):
            each.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are left, or there was none
            self._folder.rmdir()

    def _told(self, path: Path) -> SnapshotInfo:
        try:
            return _info.decode(path.with_suffix(".json").read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):  # what somebody else put there, or damaged
            told = path.stat()
            return SnapshotInfo(snapshot=path.stem, volume="", size=told.st_size, taken=0, created=told.st_mtime)

    def _path(self, snapshot: str) -> Path:
        if not re.fullmatch(names.VOLUME, snapshot):
            raise InfrastructureError(f"{snapshot!r} is no snapshot's id", permanent=True)
        return self._folder / f"{snapshot}.img"


class SnapshotStore:
    """The snapshots of a driver's volumes, as `Snapshots` of `pcloud.environment.infrastructure` has them. It may take long,
    and others need not wait for it."""

    def __init__(self, snapshots: VolumeSnapshots) -> None:
        self._snapshots = snapshots

    async def take(self, volume: str, snapshot: str, note: str) -> None:
        """Copy a volume that no guest has."""
        await asyncio.to_thread(self._snapshots.take, volume, snapshot, note)

    async def restore(self, snapshot: str, volume: str, size: int) -> None:
        """Make a volume that begins as a snapshot."""
        await asyncio.to_thread(self._snapshots.restore, snapshot, volume, size)

    async def all_snapshots(self) -> list[SnapshotInfo]:
        """Return what snapshots there are."""
        return await asyncio.to_thread(self._snapshots.all)

    async def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot; no error when there is none."""
        await asyncio.to_thread(self._snapshots.delete, snapshot)


def copy(source: Path, target: Path) -> None:
    """Make a copy that is there whole or not at all; OSError, and then nothing of it is left."""
    part = partial(target)
    try:
        with source.open("rb") as old, part.open("wb") as new:
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            except OSError:  # a file system that can not: byte by byte, without the holes
                _copy_data(old, new)
            os.fsync(new.fileno())
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _copy_data(old: BinaryIO, new: BinaryIO) -> None:
    size, offset = os.fstat(old.fileno()).st_size, 0
    os.ftruncate(new.fileno(), size)
    while offset < size:
        try:
            offset = os.lseek(old.fileno(), offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        end = os.lseek(old.fileno(), offset, os.SEEK_HOLE)
        os.lseek(new.fileno(), offset, os.SEEK_SET)
        while offset < end:
            written = os.sendfile(new.fileno(), old.fileno(), offset, min(end - offset, _PIECE))
            if not written:
                return  # it was cut short meanwhile
            offset += written
