"""Images in Glance, each uploaded once by its digest.

Owns the images named `PREFIXDIGEST` (and `…-kernel`, `…-ramdisk`). An image counts when Glance says `active`, which it
says only of a whole upload; what a crash left half done is deleted and done again. Concurrency: blocking functions for
the session's threads; the driver sees to it that one image is not uploaded twice at once by this process.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pcloud.environment.infrastructure import Image, InfrastructureError

_STALLED = 60.0
"""Seconds after which an unfinished upload of another process counts as given up."""
_COMMAND_LINE = "root=/dev/vda rw console=tty0 console=ttyS0 net.ifnames=0"


def ensure_image(connection: Any, image: Image, prefix: str) -> str:
    """Return the id of an image in Glance, uploading it where it is not. Permanent InfrastructureError without a disk."""
    name = f"{prefix}{image.digest}"
    found = _active(connection, name)
    if found is not None:
        return found
    if not image.disk:
        raise InfrastructureError(f"image {image.name} has no disk for machines", permanent=True)
    bootable = Path(image.disk).with_name("cloud.qcow2")
    properties: dict[str, str] = {"pcloud_digest": image.digest}
    disk = Path(image.disk)
    if bootable.exists():
        disk = bootable
    elif image.kernel:
        properties["kernel_id"] = _upload(connection, f"{name}-kernel", Path(image.kernel), "aki", {})
        properties["ramdisk_id"] = _upload(connection, f"{name}-ramdisk", Path(image.initrd), "ari", {})
        properties["os_command_line"] = _COMMAND_LINE
    return _upload(connection, name, disk, "qcow2", properties)


def remove_image(connection: Any, digest: str, prefix: str) -> None:
    """Remove an image and its parts."""
    for suffix in ("", "-kernel", "-ramdisk"):
        for found in connection.image.images(name=f"{prefix}{digest}{suffix}"):
            connection.image.delete_image(found.id, ignore_missing=True)


def _upload(connection: Any, name: str, path: Path, kind: str, properties: dict[str, str]) -> str:
    found = _active(connection, name)
    if found is not None:
        return found
    container = kind if kind in ("aki", "ari") else "bare"
    made = connection.image.create_image(
        name=name,
        disk_format=kind,
        container_format=container,
        visibility="private",
        allow_duplicates=True,
        **properties,
    )
    try:
        with path.open("rb") as file:
            made.data = file
            made.upload(connection.image)
    except Exception:
        connection.image.delete_image(made.id, ignore_missing=True)
        raise
    deadline = time.monotonic() + _STALLED
    while connection.image.get_image(made.id).status != "active":
        if time.monotonic() > deadline:
            raise InfrastructureError(f"image {name} was uploaded, but did not become active")
        time.sleep(0.5)
    identity: str = made.id
    return identity


def _active(connection: Any, name: str) -> str | None:
    """Return the id of a whole image of that name; wait for one that is being uploaded, delete what was given up."""
    deadline = time.monotonic() + _STALLED
    while True:
        found = sorted(connection.image.images(name=name), key=lambda each: each.created_at)
        for each in found:
            if each.status == "active":
                return str(each.id)
        waiting = [each for each in found if each.status in ("queued", "saving", "importing", "uploading")]
        if not waiting:
            return None
        if time.monotonic() > deadline or all(_age(each.updated_at) > _STALLED for each in waiting):
            for each in waiting:
                connection.image.delete_image(each.id, ignore_missing=True)
            return None
        time.sleep(1.0)


def _age(stamp: str) -> float:
    """Seconds since a time as Glance writes it, by this host's clock."""
    import calendar

    return time.time() - calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
