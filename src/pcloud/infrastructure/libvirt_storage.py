"""Disks in a libvirt storage pool, on libvirtd's host wherever that is.

Owns the pool's volumes: `DIGEST-UPLOAD.qcow2`, `….kernel`, `….initrd` (an image, complete when `….ok` exists),
`GUEST.qcow2` (the guest's overlay), `GUEST.seed`, `GUEST.console`, and of saved states `GUEST.base.qcow2`,
`GUEST.state`, `GUEST.FINGERPRINT.saved` (`pcloud.infrastructure.libvirt_saved`). libvirt knows of a file that QEMU wrote
only after a refresh of the pool, and refuses one while a volume is being made: nothing is taken for missing before a
refresh that succeeded. Concurrency: blocking functions for the connection's threads; the pool is made and removed under a
lock; every upload has names of its own, so that two at once do not spoil each other.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import libvirt

from pcloud.environment.infrastructure import Image, InfrastructureError
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt_settings import LibvirtSettings

_T = TypeVar("_T")
_PATIENCE = 20.0
"""Seconds in which what others do with the pool or a volume (make, read, refresh) must let us do our part."""
_PAUSE = 0.05
_BUSY = {
    libvirt.VIR_ERR_INTERNAL_ERROR,  # "pool has asynchronous jobs running"
    libvirt.VIR_ERR_OPERATION_INVALID,  # "volume is still in use", "pool is not active"
    libvirt.VIR_ERR_NO_STORAGE_POOL,  # removed by another process just now
}
_GUESTS = re.compile(r"\.(?:[0-9a-f]{16}\.saved|state|(?:base\.)?qcow2|seed|console(?:\.\d+)?)")
"""How a guest's volumes end, after its name; `console.0` and so on are what virtlogd makes of a long console."""
_IMAGES = re.compile(r".*-[0-9a-f]{8}\.(?:qcow2|kernel|initrd|ok)")


class Storage:
    """The volumes of one driver."""

    def __init__(self, settings: LibvirtSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{xml.NAMESPACE}/pool/{settings.pool}/{settings.state}"))

    def pool(self, connection: Any) -> Any:
        """Return the pool, defined and started where it is not."""
        with self._lock:
            return self._pool(connection)

    def _pool(self, connection: Any) -> Any:
        try:
            pool = connection.storagePoolLookupByName(self._settings.pool)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
            if not self._settings.state:
                raise InfrastructureError(
                    f"there is no storage pool {self._settings.pool!r}; name one, or give the setting `state`",
                    permanent=True,
                ) from None
            folder = str(Path(self._settings.state) / "volumes")
            document = xml.pool_document(self._settings.pool, folder, self._uuid)
            pool = connection.storagePoolDefineXML(document, 0)
        if not pool.isActive():
            with contextlib.suppress(libvirt.libvirtError):  # exists already
                pool.build(0)
            try:
                pool.create(0)
            except libvirt.libvirtError:
                if not pool.isActive():  # another process was first
                    raise
        return pool

    def remove_pool(self, connection: Any, unused: Callable[[], bool]) -> None:
        """Remove the definition of a pool that we made, when `unused` says so and no guest's volume is in it; images stay in
        its folder for the next time. `unused` is asked when nobody can begin to use the pool any more."""
        with self._lock:
            pool = _pool_of(connection, self._uuid)
            if pool is None or not unused():
                return
            try:
                if pool.isActive():
                    if not all(_IMAGES.fullmatch(name) for name in _names(pool)):
                        return  # guests of a daemon with another prefix
                    pool.destroy()
                pool.undefine()
            except libvirt.libvirtError:
                if _pool_of(connection, self._uuid) is not None:  # else another process removed it too
                    raise

    def has_image(self, connection: Any, image: Image) -> bool:
        """Tell whether an image is there completely."""
        return _complete(self.pool(connection), image.digest) is not None

    def upload_image(self, connection: Any, image: Image) -> None:
        """Bring an image's files into the pool, under a name of this upload's own, and mark them complete; what others left
        unfinished of this image is removed. InfrastructureError when the image has no disk."""
        pool = self.pool(connection)
        if not image.disk:
            raise InfrastructureError(f"image {image.name} has no disk for machines", permanent=True)
        stem = f"{image.digest}-{os.urandom(4).hex()}"
        files = {"qcow2": image.disk} | ({"kernel": image.kernel, "initrd": image.initrd} if image.kernel else {})
        for suffix, path in files.items():
            with Path(path).open("rb") as file:
                self._upload(connection, f"{stem}.{suffix}", file, Path(path).stat().st_size)
        for suffix in files:
            pool.storageVolLookupByName(f"{stem}.{suffix}")  # refused when another upload removed ours as unfinished
        if _complete(pool, image.digest) is None:
            self._create(connection, f"{stem}.ok", xml.volume_document(f"{stem}.ok", 1, "raw"))
        whole = _complete(pool, image.digest)
        for name in _names(pool):
            if name.startswith(f"{image.digest}-") and name.rpartition(".")[0] != whole:
                _delete(pool, name)

    def image_path(self, connection: Any, digest: str, suffix: str) -> str:
        """Return the path, on libvirtd's host, of one of an image's files."""
        pool = self.pool(connection)
        path: str = pool.storageVolLookupByName(f"{_complete(pool, digest)}.{suffix}").path()
        return path

    def make_overlay(self, connection: Any, name: str, digest: str) -> str:
        """Make a disk over an image's, anew, and return its path."""
        return self.make_overlay_over(connection, name, f"{_complete(self.pool(connection), digest)}.qcow2")

    def make_overlay_over(self, connection: Any, name: str, base: str) -> str:
        """Make a disk over the volume `base`, anew, and return its path."""
        pool = self.pool(connection)
        volume = self._find_refreshed(connection, base)
        if volume is None:
            raise InfrastructureError(f"there is no volume {base}")
        _delete(pool, f"{name}.qcow2")
        document = xml.volume_document(f"{name}.qcow2", _virtual_size(volume), "qcow2", backing=volume.path())
        path: str = self._create(connection, f"{name}.qcow2", document).path()
        return path

    def overlay_path(self, connection: Any, name: str) -> str:
        """Return the path of a guest's disk, empty when it has none (it is made anew then: so be sure)."""
        volume = self._find_refreshed(connection, f"{name}.qcow2")
        return volume.path() if volume is not None else ""

    def put(self, connection: Any, name: str, content: bytes) -> str:
        """Write a small volume anew and return its path."""
        pool = self.pool(connection)
        _delete(pool, name)
        padded = content + b"\0" * (-len(content) % 4096)  # a disk is made of whole sectors
        return self._upload(connection, name, io.BytesIO(padded), len(padded))

    def path(self, connection: Any, name: str) -> str:
        """Return the path, on libvirtd's host, that a volume of that name has or would have."""
        return f"{xml.pool_path(self.pool(connection).XMLDesc(0))}/{name}"

    def exists(self, connection: Any, name: str) -> bool:
        """Tell whether there is a volume of that name."""
        return _find(self.pool(connection), name) is not None

    def forget_state(self, connection: Any, name: str) -> None:
        """Remove a guest's saved state, the mark first, and the disk over it."""
        self._remove(connection, name, lambda ending: ending.endswith((".saved", ".state", ".qcow2")))

    def remove_guest(self, connection: Any, name: str) -> None:
        """Remove all of a guest's volumes, the mark of its saved state first. The guest must not run."""
        self._remove(connection, name, lambda _: True)

    def tail(self, connection: Any, name: str, limit: int) -> bytes:
        """Return the newest part of a file that QEMU writes, and of what virtlogd moved aside of it; empty when there is
        none."""
        newest = b""
        for volume in (name, f"{name}.0"):
            if len(newest) < limit:
                newest = self._end_of(connection, volume, limit - len(newest)) + newest
        return newest

    def shorten(self, connection: Any, name: str, limit: int, keep: int) -> None:
        """Keep only the last `keep` bytes of a file of more than `limit`; nobody may be writing to it."""
        volume = self._find_refreshed(connection, name)
        if volume is not None and volume.info()[1] > limit:
            newest = self._end_of(connection, name, keep)
            _delete(self.pool(connection), name)
            self._upload(connection, name, io.BytesIO(newest), len(newest))

    def _end_of(self, connection: Any, name: str, limit: int) -> bytes:
        volume = self._find_refreshed(connection, name)
        size = volume.info()[1] if volume is not None else 0
        if size == 0:
            return b""
        return _read(volume, max(0, size - limit), min(size, limit))[-limit:]

    def _remove(self, connection: Any, name: str, wanted: Callable[[str], bool]) -> None:
        found = []
        for volume in _names(self._refreshed(connection)):
            ending = volume.removeprefix(name)
            if volume.startswith(name) and _GUESTS.fullmatch(ending) and wanted(ending):
                found.append(volume)
        for volume in sorted(found, key=lambda one: not one.endswith(".saved")):
            self._patiently(functools.partial(self._delete, connection, volume))

    def _delete(self, connection: Any, name: str) -> None:
        _delete(self.pool(connection), name)

    def _find_refreshed(self, connection: Any, name: str) -> Any:
        """Find a volume that others than libvirt may have written."""
        return _find(self.pool(connection), name) or _find(self._refreshed(connection), name)

    def _refreshed(self, connection: Any) -> Any:
        """Return the pool, with all that is in it known to libvirt."""

        def refresh() -> Any:
            pool = self.pool(connection)
            pool.refresh(0)
            return pool

        return self._patiently(refresh)

    def _create(self, connection: Any, name: str, document: str) -> Any:
        """Make a volume, anew also where libvirt does not know yet of a file of that name."""
        try:
            return self.pool(connection).createXML(document, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_STORAGE_VOL_EXIST):
                raise
        pool = self._refreshed(connection)
        _delete(pool, name)
        return pool.createXML(document, 0)

    def _upload(self, connection: Any, name: str, file: IO[bytes], size: int) -> str:
        volume = self._create(connection, name, xml.volume_document(name, size, "raw"))
        stream = connection.newStream(0)
        volume.upload(stream, 0, size, 0)
        try:
            stream.sendAll(lambda _stream, count, source: source.read(count), file)
            stream.finish()
        except libvirt.libvirtError:
            with contextlib.suppress(libvirt.libvirtError):
                volume.delete(0)  # a full disk, say: leave no half of it
            raise
        path: str = volume.path()
        return path

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """Do what libvirt refuses while others work in the pool; its last refusal is raised when they do not come to an
        end."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return action()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in _BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE)


def _complete(pool: Any, digest: str) -> str | None:
    """The name, without suffix, of a complete image; of several, always the same one."""
    found = sorted(name for name in _names(pool) if name.startswith(f"{digest}-") and name.endswith(".ok"))
    return found[0].removesuffix(".ok") if found else None


def _names(pool: Any) -> list[str]:
    """The names of all volumes. Never `listVolumes`: it asks for their number first and for so many names then, so that one
    made in between has another left out."""
    return [volume.name() for volume in pool.listAllVolumes(0)]


def _find(pool: Any, name: str) -> Any:
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


def _delete(pool: Any, name: str) -> None:
    volume = _find(pool, name)
    if volume is None:
        return
    try:
        volume.delete(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:  # else another was first
            raise


def _pool_of(connection: Any, uuid_: str) -> Any:
    try:
        return connection.storagePoolLookupByUUIDString(uuid_)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
            return None
        raise


def _virtual_size(volume: Any) -> int:
    """The size of the disk in a qcow2 file, from its header (libvirt may still think of it as raw)."""
    header = _read(volume, 0, 32)
    if header[:4] != b"QFI\xfb":
        raise InfrastructureError(f"{volume.name()} is no qcow2 image", permanent=True)
    return int.from_bytes(header[24:32])


def _read(volume: Any, start: int, size: int) -> bytes:
    stream = volume.connect().newStream(0)
    volume.download(stream, start, size, 0)
    out = io.BytesIO()
    stream.recvAll(lambda _stream, data, sink: sink.write(data), out)
    stream.finish()
    return out.getvalue()
