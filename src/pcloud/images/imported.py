"""Images made by others, taken over when their digest is right: the folder store of them.

    imported/NAME-ARCH/{disk.qcow2, manifest.json}

Under its final name an image is whole: it is received and checked in a folder that begins with `.new-`, and renamed. What a
dead import left is removed by the next one of that name. Concurrency: any number of processes; one import of a name at a
time, held by a file lock that dies with its process; a second one is refused, not kept waiting with its sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from pcloud.images.disk import import_disk, parse_digest
from pcloud.model.errors import Conflict, NotFound, PcloudError, Unavailable
from pcloud.model.image import Image

_BLOCK = 1024 * 1024
_MARGIN = 512 * 1024 * 1024
"""Bytes that must stay free on the disk."""


class ImportedImage(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json` of an imported image."""

    name: str
    arch: str
    digest: str
    """Of the file that was imported, as it was given."""
    like: str = ""
    """The distribution in it."""
    created: float = 0.0
    size: int = 0
    """Bytes on disk."""


class ImportedImages:
    """Receives, finds and removes images below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute() / "imported"

    def list(self) -> list[ImportedImage]:
        """Return all images, by name."""
        found = []
        for file in sorted(self._root.glob("[!.]*/manifest.json")):
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):  # being removed
                found.append(msgspec.json.decode(file.read_bytes(), type=ImportedImage))
        return found

    def find(self, name: str, arch: str) -> Image | None:
        """Return an image as guests are made from it, None when there is none of that name."""
        folder = self._folder(name, arch)
        try:
            manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=ImportedImage)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        digest = f"imported-{parse_digest(manifest.digest)[1][:32]}"
        return Image(name=name, digest=digest, path=str(folder), disk=str(folder / "disk.qcow2"))

    async def receive(self, wanted: ImportedImage, content: AsyncIterator[bytes], *, size: int = 0) -> ImportedImage:
        """Take over the disk image that `content` yields; `size` is what will come, in bytes, where that is known.

        Quick when it is there already. PcloudError: those of `import_disk`, Conflict `IMAGE_EXISTS` for another image of
        that name and `IMPORT_RUNNING`, Unavailable `NO_ROOM`.
        """
        parse_digest(wanted.digest)
        folder = self._folder(wanted.name, wanted.arch)
        self._root.mkdir(parents=True, exist_ok=True)
        with self._lock(folder.name):
            for one in self.list():
                if (one.name, one.arch) == (wanted.name, wanted.arch):
                    if (one.digest.lower(), one.like) == (wanted.digest.lower(), wanted.like):
                        return one
                    raise Conflict.of(
                        "IMAGE_EXISTS",
                        f"there is another image {wanted.name} for {wanted.arch}, with the digest {one.digest}",
                        hint="give this one another name, or delete that one first",
                    )
            work = folder.with_name(f".new-{folder.name}")
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
            work.mkdir()
            try:
                await self._write(work / "upload", content, size)
                await import_disk(work / "upload", work, digest=wanted.digest)
                (work / "upload").unlink()
                blocks = (work / "disk.qcow2").stat().st_blocks
                made = msgspec.structs.replace(wanted, created=time.time(), size=blocks * 512)
                (work / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
                await asyncio.to_thread(os.sync)
                await asyncio.to_thread(
                    shutil.rmtree, folder, ignore_errors=True
                )  # without a manifest: nothing of worth
                work.rename(folder)
            finally:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))
        return made

    async def delete(self, name: str, arch: str) -> None:
        """Remove an image; NotFound. The caller knows that no guest is made from it."""
        folder = self._folder(name, arch)
        if self.find(name, arch) is None:
            raise NotFound.of("UNKNOWN_IMAGE", f"there is no imported image {name} for {arch}")
        (folder / "manifest.json").unlink(missing_ok=True)  # first: what is left of it is no image
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _write(self, path: Path, content: AsyncIterator[bytes], size: int) -> None:
        """Write what comes to a file; there must be room for it, and for the disk that is made of it."""
        self._need_room(2 * size)
        try:
            with path.open("wb") as file:
                buffer = bytearray()
                async for part in content:
                    buffer += part
                    if len(buffer) >= _BLOCK:
                        self._need_room(len(buffer))
                        await asyncio.to_thread(file.write, bytes(buffer))
                        buffer.clear()
                file.write(buffer)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._no_room() from error
            raise

    def _need_room(self, wanted: int) -> None:
        if shutil.disk_usage(self._root).free < wanted + _MARGIN:
            raise self._no_room()

    def _no_room(self) -> PcloudError:
        return Unavailable.of("NO_ROOM", f"there is no room for the image in {self._root}", hint="make room there")

    def _folder(self, name: str, arch: str) -> Path:
        """An image's folder. Names hold no slash, and neither begins with a dot (`pcloud.model.names`)."""
        if "/" in name + arch or name.startswith(".") or not name or not arch:
            raise NotFound.of("UNKNOWN_IMAGE", f"{name!r} is no image's name")
        return self._root / f"{name}-{arch}"

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        fd = os.open(self._root / f".lock-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict.of("IMPORT_RUNNING", "an image of this name is being imported", hint="wait") from None
            yield
        finally:
            os.close(fd)
