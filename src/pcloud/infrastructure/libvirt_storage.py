"""Disks in a libvirt storage pool, on libvirtd's host wherever that is.

Owns the pool's volumes: `DIGEST-UPLOAD.qcow2`, `….kernel`, `….initrd` (an image, complete when `….ok` exists),
`GUEST.qcow2` (the guest's overlay), `GUEST.seed`, `GUEST.console`, and of saved states `GUEST.base.qcow2`,
`GUEST.state`, `GUEST.FINGERPRINT.saved` (`pcloud.infrastructure.libvirt_saved`). Concurrency: blocking functions for
the connection's threads; every upload has names of its own, so that two at once do not spoil each other.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from pathlib import Path
from typing import IO, Any

import libvirt

from pcloud.environment.infrastructure import Image, InfrastructureError
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt_settings import LibvirtSettings


class Storage:
    """The volumes of one driver."""

    def __init__(self, settings: LibvirtSettings) -> None:
        self._settings = settings
        self._uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{xml.NAMESPACE}/pool/{settings.pool}/{settings.state}"))

    def pool(self, connection: Any) -> Any:
        """Return the pool, defined and started where it is not."""
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

    def remove_pool(self, connection: Any) -> None:
        """Remove the definition of a pool that we made; images stay in its folder for the next time."""
        with contextlib.suppress(libvirt.libvirtError):
            pool = connection.storagePoolLookupByUUIDString(self._uuid)
            if pool.isActive():
                pool.destroy()
            pool.undefine()

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
                _upload(connection, pool, f"{stem}.{suffix}", file, Path(path).stat().st_size)
        for suffix in files:
            pool.storageVolLookupByName(f"{stem}.{suffix}")  # refused when another upload removed ours as unfinished
        if _complete(pool, image.digest) is None:
            pool.createXML(xml.volume_document(f"{stem}.ok", 1, "raw"), 0)
        whole = _complete(pool, image.digest)
        for name in pool.listVolumes():
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
        volume = _find(pool, base) or _find_refreshed(pool, base)
        if volume is None:
            raise InfrastructureError(f"there is no volume {base}")
        _delete(pool, f"{name}.qcow2")
        document = xml.volume_document(f"{name}.qcow2", _virtual_size(volume), "qcow2", backing=volume.path())
        path: str = pool.createXML(document, 0).path()
        return path

    def overlay_path(self, connection: Any, name: str) -> str:
        """Return the path of a guest's disk, empty when it has none."""
        volume = _find(self.pool(connection), f"{name}.qcow2")
        return volume.path() if volume is not None else ""

    def put(self, connection: Any, name: str, content: bytes) -> str:
        """Write a small volume anew and return its path."""
        pool = self.pool(connection)
        _delete(pool, name)
        padded = content + b"\0" * (-len(content) % 4096)  # a disk is made of whole sectors
        return _upload(connection, pool, name, io.BytesIO(padded), len(padded))

    def path(self, connection: Any, name: str) -> str:
        """Return the path, on libvirtd's host, that a volume of that name has or would have."""
        return f"{xml.pool_path(self.pool(connection).XMLDesc(0))}/{name}"

    def exists(self, connection: Any, name: str) -> bool:
        """Tell whether there is a volume of that name."""
        return _find(self.pool(connection), name) is not None

    def forget_state(self, connection: Any, name: str) -> None:
        """Remove a guest's saved state, the mark first, and the disk over it."""
        pool = self.pool(connection)
        pool.refresh(0)  # QEMU wrote some of them
        for mark in [one for one in pool.listVolumes() if one.startswith(f"{name}.") and one.endswith(".saved")]:
            _delete(pool, mark)
        for suffix in ("state", "qcow2", "base.qcow2"):
            _delete(pool, f"{name}.{suffix}")

    def remove_guest(self, connection: Any, name: str) -> None:
        """Remove all of a guest's volumes."""
        pool = self.pool(connection)
        if _find(pool, f"{name}.base.qcow2") is not None:
            self.forget_state(connection, name)
        for suffix in ("seed", "console", "qcow2"):
            _delete(pool, f"{name}.{suffix}")
        if _find(pool, f"{name}.console") is None:  # written by QEMU: libvirt sees it after a refresh only
            with contextlib.suppress(libvirt.libvirtError):
                pool.refresh(0)
                _delete(pool, f"{name}.console")

    def tail(self, connection: Any, name: str, limit: int) -> bytes:
        """Return the newest part of a volume; empty when there is none."""
        pool = self.pool(connection)
        pool.refresh(0)
        volume = _find(pool, name)
        if volume is None:
            return b""
        size = volume.info()[1]
        if size == 0:
            return b""
        stream = connection.newStream(0)
        volume.download(stream, max(0, size - limit), min(size, limit), 0)
        out = io.BytesIO()
        stream.recvAll(lambda _stream, data, sink: sink.write(data), out)
        stream.finish()
        return out.getvalue()[-limit:]


def _complete(pool: Any, digest: str) -> str | None:
    """The name, without suffix, of a complete image; of several, always the same one."""
    found = sorted(name for name in pool.listVolumes() if name.startswith(f"{digest}-") and name.endswith(".ok"))
    return found[0].removesuffix(".ok") if found else None


def _find(pool: Any, name: str) -> Any:
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


def _find_refreshed(pool: Any, name: str) -> Any:
    """Find a volume that others than libvirt may have written."""
    pool.refresh(0)
    return _find(pool, name)


def _delete(pool: Any, name: str) -> None:
    volume = _find(pool, name)
    if volume is not None:
        volume.delete(0)


def _upload(connection: Any, pool: Any, name: str, file: IO[bytes], size: int) -> str:
    volume = pool.createXML(xml.volume_document(name, size, "raw"), 0)
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


def _virtual_size(volume: Any) -> int:
    """The size of the disk in a qcow2 file, from its header (libvirt may still think of it as raw)."""
    connection = volume.connect()
    stream = connection.newStream(0)
    volume.download(stream, 0, 32, 0)
    out = io.BytesIO()
    stream.recvAll(lambda _stream, data, sink: sink.write(data), out)
    stream.finish()
    header = out.getvalue()
    if header[:4] != b"QFI\xfb":
        raise InfrastructureError(f"{volume.name()} is no qcow2 image", permanent=True)
    return int.from_bytes(header[24:32])
