"""Images in Glance, each uploaded once by its digest.

Owns the images named `PREFIXDIGEST` (and `…-kernel`, `…-ramdisk`). An image counts when Glance says `active`, which it
says only of a whole upload; what a crash left half done is deleted and done again. Concurrency: blocking functions for
the session's threads; the driver sees to it that one image is not uploaded twice at once by this process.
"""

from __future__ import annotations

import calendar
import contextlib
import time
import uuid
from collections.abc import Set
from pathlib import Path
from typing import Any

from openstack import exceptions

from pcloud.environment.infrastructure import Image, InfrastructureError
from pcloud.infrastructure.openstack_session import CLOUD_ERRORS

_STALLED = 60.0
"""Seconds after which an unfinished upload of another process counts as given up."""
_FORGOTTEN = 3600.0
"""Seconds after which a kernel or ramdisk without its image counts as left behind."""
_UPLOADER = uuid.uuid4().hex
"""Marks the uploads of this process, of which it knows whether they still go on."""
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


def remove_unused(connection: Any, prefix: str, used: Set[str]) -> None:
    """Remove our images whose digest is not in `used`. What is being uploaded is left to who uploads it."""
    found = [each for each in connection.image.images() if each.name.startswith(prefix) and each.status == "active"]
    whole = {each.name.removeprefix(prefix) for each in found} & {_digest(each) for each in found}
    for each in found:
        own = each.name.removeprefix(prefix)
        digest = own.removesuffix("-kernel").removesuffix("-ramdisk")
        # Parts are uploaded before their image: one without it may be about to get it.
        removable = digest in whole or (digest != own and _age(each.created_at) > _FORGOTTEN)
        if removable and digest not in used:
            connection.image.delete_image(each.id, ignore_missing=True)


def _digest(image: Any) -> str:
    return str((image.properties or {}).get("pcloud_digest", ""))


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
        pcloud_uploader=_UPLOADER,
        **properties,
    )
    try:
        with path.open("rb") as file:
            made.data = file
            answer = made.upload(connection.image)
        if connection.image.get_image(made.id).status == "queued":  # nothing came; else an answer may have been lost
            exceptions.raise_from_response(answer)
        _await_whole(connection, made.id, name, path.stat().st_size)
    except (*CLOUD_ERRORS, InfrastructureError, OSError):
        with contextlib.suppress(*CLOUD_ERRORS):  # the next attempt finds it and deletes it
            connection.image.delete_image(made.id, ignore_missing=True)
        raise
    return str(made.id)


def _await_whole(connection: Any, identity: str, name: str, size: int) -> None:
    deadline = time.monotonic() + _STALLED
    while (image := connection.image.get_image(identity)).status != "active":
        if time.monotonic() > deadline:
            raise InfrastructureError(f"image {name} was uploaded, but did not become active")
        time.sleep(0.5)
    if image.size != size:
        raise InfrastructureError(f"image {name} has {image.size} bytes in Glance, its file has {size}")


def _active(connection: Any, name: str) -> str | None:
    """Return the id of a whole image of that name; wait for one that is being uploaded, delete what was given up."""
    deadline = time.monotonic() + _STALLED
    while True:
        found = sorted(connection.image.images(name=name), key=lambda each: each.created_at)
        for each in found:
            if each.status == "active":
                return str(each.id)
        waiting = [each for each in found if each.status in ("queued", "saving", "importing", "uploading")]
        for each in waiting:
            if (each.properties or {}).get("pcloud_uploader") == _UPLOADER:  # of an attempt that failed: nobody goes on
                connection.image.delete_image(each.id, ignore_missing=True)
                waiting = [other for other in waiting if other is not each]
        if not waiting:
            return None
        if time.monotonic() > deadline or all(_age(each.updated_at) > _STALLED for each in waiting):
            for each in waiting:
                connection.image.delete_image(each.id, ignore_missing=True)
            return None
        time.sleep(1.0)


def _age(stamp: str) -> float:
    """Seconds since a time as Glance writes it, by this host's clock."""
    return time.time() - calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
