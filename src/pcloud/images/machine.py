"""Machine images from the layers of the image store, made when the first machine needs one and kept by digest.

ROOT/DIGEST/{disk.qcow2, kernel, initrd, cloud.qcow2} ROOT/kernels/VERSION/ ROOT/locks/

The disk comes last: an image is there when its disk is. Concurrency: any number of processes; one build at a time for
each image, held by a file lock that dies with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from pcloud.images.disk import build_cloud, build_machine
from pcloud.images.kernel import fetch_kernel
from pcloud.model.image import Image

DEFAULT_ROOT = Path("/var/cache/pcloud/machines")


class MachineImages:
    """Turns images into images that machines boot from."""

    def __init__(self, root: Path = DEFAULT_ROOT, *, size: int = 8192) -> None:
        """`size` is that of the root file system, in MiB; on disk is only what is used."""
        self._root = root
        self._size = size

    async def machine(self, image: Image) -> Image:
        """Return the image with `disk`, `kernel` and `initrd` for direct boot, built where they are missing.

        PcloudError of `pcloud.images.disk` and `pcloud.images.kernel`. An image that has a disk already is returned as
        it is.
        """
        if image.disk or not image.layers:
            return image
        folder = self._root / image.digest
        made = msgspec.structs.replace(
            image, disk=str(folder / "disk.qcow2"), kernel=str(folder / "kernel"), initrd=str(folder / "initrd")
        )
        if not _exists(made.disk):
            async with self._lock(image.digest):
                if not _exists(made.disk):  # another process may have made it meanwhile
                    kernel = await fetch_kernel(self._root / "kernels")
                    layers = [Path(layer) for layer in image.layers]
                    await build_machine(layers, folder, kernel=kernel, size=self._size)
        return made

    async def cloud(self, image: Image) -> Image:
        """Return the image as `machine` does, with a bootable `cloud.qcow2` beside its disk."""
        made = await self.machine(image)
        if not image.layers:
            return made
        folder = self._root / image.digest
        if not _exists(str(folder / "cloud.qcow2")):
            async with self._lock(image.digest):
                if not _exists(str(folder / "cloud.qcow2")):
                    kernel = await fetch_kernel(self._root / "kernels")
                    await build_cloud([Path(layer) for layer in image.layers], folder, kernel=kernel, size=self._size)
        return made

    @contextlib.asynccontextmanager
    async def _lock(self, name: str) -> AsyncIterator[None]:
        folder = self._root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.2)
            yield
        finally:
            os.close(fd)


def _exists(path: str) -> bool:
    return Path(path).exists()
