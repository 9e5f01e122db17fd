"""Volumes as files: `FOLDER/ID.img` in an infrastructure's state folder is one, sparse, of the size that its guest sees.

Owns the files, and how they come, grow and go; who has a volume is known by the kind of guest that has it. Concurrency:
functions block and run in threads, of the daemon and of engine processes; a lock on the state folder lets one of them change
volumes at a time. Each may be called again after a crash and finishes what the first call began.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from pcloud.environment.infrastructure import InfrastructureError, VolumeInfo
from pcloud.infrastructure.host import alone_in
from pcloud.model import names


class VolumeFiles:
    """The volumes' files of one state folder."""

    def __init__(self, state: Path, folder: str = "volumes", mode: int = 0o700) -> None:
        """`mode` is the folder's: whoever opens the files must come by."""
        self.state = state
        self.folder = state / folder
        self._mode = mode

    def ready(self) -> None:
        """Make the folder where there is none; OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(self._mode)

    def create(self, volume: str, size: int) -> None:
        """Make a volume of `size` bytes, or let one grow to that. InfrastructureError when it is larger, or there is no room
        for its file."""
        path = self.path(volume)
        try:
            self.ready()
            with alone_in(self.state), path.open("ab") as file:
                found = os.fstat(file.fileno()).st_size
                if found > size:
                    raise InfrastructureError(
                        f"volume {volume} has {found} bytes and can not shrink to {size}", permanent=True
                    )
                file.truncate(size)
        except OSError as error:
            raise InfrastructureError(f"volume {volume} can not be made: {error.strerror}") from error

    def remove(self, volume: str) -> None:
        """Remove a volume's file and what a copy that was not finished left; the caller holds the lock. No error when there
        is none."""
        path = self.path(volume)
        path.unlink(missing_ok=True)
        partial(path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are left, or there was none
            self.folder.rmdir()

    def exists(self, volume: str) -> bool:
        """Tell whether there is such a volume."""
        return self.path(volume).exists()

    def path(self, volume: str) -> Path:
        """Return the volume's file; InfrastructureError when that is no name of one."""
        if not re.fullmatch(names.VOLUME, volume):
            raise InfrastructureError(f"{volume!r} is no volume's id", permanent=True)
        return self.folder / f"{volume}.img"

    def infos(self, holders: Mapping[str, str]) -> list[VolumeInfo]:
        """Return what volumes there are; `holders` says who has each that somebody has."""
        found = []
        for path in sorted(self.folder.glob("[!.]*.img")):
            with contextlib.suppress(FileNotFoundError):  # it is being removed
                told = path.stat()
                found.append(
                    VolumeInfo(
                        volume=path.stem,
                        size=told.st_size,
                        taken=told.st_blocks * 512,
                        holder=holders.get(path.stem, ""),
                    )
                )
        return found

    def holder(self, volume: str) -> str:
        """Return the guest that has a volume; empty when none has, or when others tell that."""
        return ""

    def in_use(self, volume: str) -> bool:
        """Tell whether something still has the volume open, whoever is said to have it."""
        raise NotImplementedError

    def wait_unused(self, volume: str, seconds: float) -> None:
        """Return when nothing uses a volume any more; InfrastructureError when a guest has it, or there is none."""
        deadline = time.monotonic() + seconds
        while True:
            if not self.exists(volume):
                raise InfrastructureError(f"there is no volume {volume}")
            if holder := self.holder(volume):
                raise InfrastructureError(f"volume {volume} is attached to {holder}")
            if not self.in_use(volume):
                return
            if time.monotonic() >= deadline:
                raise InfrastructureError(f"volume {volume} is still in use")
            time.sleep(0.05)  # a guest that dies lets go of it last of all

    def space(self) -> tuple[int, int]:
        """Return the free bytes and all bytes of the file system that volumes lie in; OSError when there is none."""
        told = os.statvfs(self.folder)
        return told.f_bfree * told.f_frsize, told.f_blocks * told.f_frsize


def partial(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(f".{path.name}.part")
