"""What the driver's tests make guests from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcloud.environment.infrastructure import GuestSpec, Identity, Image, Infrastructure
from pcloud.infrastructure.openstack_settings import OpenStackSettings

SDK_WARNINGS = [
    # the SDK's own, about its own parts
    pytest.mark.filterwarnings("ignore::openstack.warnings.RemovedInSDK50Warning"),
    pytest.mark.filterwarnings("ignore::openstack.warnings.RemovedInSDK60Warning"),
]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl test"


def make_image(folder: Path, digest: str) -> Image:
    """Make a disk that Glance takes; FakeDriver never reads it."""
    header = b"QFI\xfb" + (3).to_bytes(4) + bytes(12) + (16).to_bytes(4) + (1 << 20).to_bytes(8)
    for name, content in (
        ("disk.qcow2", header.ljust(70_000, b"\0")),
        ("kernel", b"k" * 1000),
        ("initrd", b"i" * 1000),
    ):
        (folder / name).write_bytes(content)
    paths = {
        key: str(folder / name) for key, name in (("disk", "disk.qcow2"), ("kernel", "kernel"), ("initrd", "initrd"))
    }
    return Image(name="test", digest=digest, **paths)


def settings(**changes: object) -> OpenStackSettings:
    """Return settings that fit the peer."""
    values: dict[str, object] = {"network": "pcloud", "flavor": "tiny", "poll": 0.5, "prefix": "pct-"}
    return OpenStackSettings(**(values | changes))  # type: ignore[arg-type]


def spec(image: Image, name: str = "web", **changes: object) -> GuestSpec:
    """Return what a guest of the deployable `shop` is made from."""
    values: dict[str, object] = {
        "guest_id": f"shop.{name}",
        "deployable": "shop",
        "assembly": name,
        "image": image,
        "digest": "d1",
        "identity": Identity(hostname=name, authorized_key=KEY, agent_key=b"k" * 32),
    }
    return GuestSpec(**(values | changes))  # type: ignore[arg-type]


async def remove_all(infrastructure: Infrastructure) -> None:
    """Delete every guest."""
    for info in await infrastructure.list_guests():
        await infrastructure.delete(info.guest_id)
