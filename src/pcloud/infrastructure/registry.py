"""Which infrastructures there are, and how each is opened from its settings.

A driver is imported only when it is opened: its libraries may be missing on hosts that do not use it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pcloud.environment.infrastructure import Image, Infrastructure
from pcloud.model.errors import InvalidDocument, NotFound, Problem, Unavailable

Prepare = Callable[[Image], Awaitable[Image]]
"""Makes of an image one that machines boot from; PcloudError when it can not."""


class Machines(Protocol):
    """What drivers of machines need of the room `images`."""

    async def machine(self, image: Image) -> Image:
        """Return the image with files for direct kernel boot."""
        ...

    async def cloud(self, image: Image) -> Image:
        """Return the image with a disk that boots by itself beside those."""
        ...


def _lxc(settings: dict[str, Any], state: Path, machines: Machines | None) -> Infrastructure:
    from pcloud.infrastructure.lxc import LxcInfrastructure
    from pcloud.infrastructure.lxc_settings import LxcSettings

    return LxcInfrastructure(msgspec.convert({"state": str(state), **settings}, LxcSettings))


def _libvirt(settings: dict[str, Any], state: Path, machines: Machines | None) -> Infrastructure:
    try:
        from pcloud.infrastructure.libvirt import LibvirtInfrastructure
    except ModuleNotFoundError as error:
        raise _missing(
            "libvirt-python",
            "apt-get install python3-libvirt; in a checkout make setup-libvirt, else pip install libvirt-python",
        ) from error
    from pcloud.infrastructure.libvirt_settings import LibvirtSettings

    prepare = machines.machine if machines else None
    return LibvirtInfrastructure(msgspec.convert({"state": str(state), **settings}, LibvirtSettings), prepare)


def _openstack(settings: dict[str, Any], state: Path, machines: Machines | None) -> Infrastructure:
    try:
        from pcloud.infrastructure.openstack import OpenStackInfrastructure
    except ModuleNotFoundError as error:
        raise _missing(
            "openstacksdk", "pip install openstacksdk (`make setup` and the Debian package bring it)"
        ) from error
    from pcloud.infrastructure.openstack_settings import OpenStackSettings

    prepare = machines.cloud if machines else None
    return OpenStackInfrastructure(msgspec.convert(settings, OpenStackSettings), prepare)


def _missing(what: str, hint: str) -> Unavailable:
    return Unavailable(
        Problem(code="LIBRARY_MISSING", message=f"the Python package {what} is not installed", hint=hint)
    )


def _hosts(settings: dict[str, Any], state: Path, machines: Machines | None) -> Infrastructure:
    from pcloud.infrastructure.hosts import HostsInfrastructure
    from pcloud.infrastructure.hosts_settings import hosts_settings

    return HostsInfrastructure(hosts_settings(settings, str(state)))


DRIVERS: dict[str, Callable[[dict[str, Any], Path, Machines | None], Infrastructure]] = {
    "hosts": _hosts,
    "libvirt": _libvirt,
    "lxc": _lxc,
    "openstack": _openstack,
}


def open_infrastructure(
    name: str, settings: dict[str, Any], *, state: Path, machines: Machines | None = None
) -> Infrastructure:
    """Return the infrastructure of that name. `settings` are its own (`infrastructures.NAME` of the configuration),
    `state` is the folder it may keep things in, `machines` makes disks of images for the drivers that boot them.
    NotFound for an unknown name, InvalidDocument for settings it does not take."""
    driver = DRIVERS.get(name)
    if driver is None:
        raise NotFound.of(
            "UNKNOWN_INFRASTRUCTURE",
            f"there is no infrastructure {name!r}",
            hint=f"use one of: {', '.join(sorted(DRIVERS))}",
        )
    try:
        return driver(settings, state, machines)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidDocument.of("INVALID_SETTING", str(error), path=f"infrastructures.{name}") from error
