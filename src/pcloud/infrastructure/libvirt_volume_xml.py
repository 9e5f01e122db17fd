"""Volumes in a domain's document: disks behind one virtio SCSI controller, told from others by where their files are.

Pure. A disk on SCSI comes and goes without the guest's help, needs no slot on a bus, and tells the guest two words of ours:
its model is the name that was asked for, its serial number is the volume's id. Source: libvirt's "Domain XML format".
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from lxml import etree

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.model import names
from pcloud.model.deployable import AttachedVolume

VENDOR = "pcloud"
"""What a volume's disk says of itself in a guest; `pcloud.infrastructure.seed` goes by it."""
_LETTERS = string.ascii_lowercase
_OWN = "vda"
PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
"""Reads what libvirt says of a domain."""


class VolumeDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as a disk of a domain."""

    volume: str
    path: str
    name: str
    """Its name in the guest's `/dev`."""
    unit: int
    """Its number at the controller."""

    @property
    def target(self) -> str:
        """What libvirt calls it."""
        return f"sd{_LETTERS[self.unit]}"

    @property
    def what(self) -> tuple[str, str]:
        """The volume and its name: what a guest asks for."""
        return self.volume, self.name


def guest_name(device: str) -> str:
    """Return the name that a volume has in a guest's `/dev` when `device` is asked for; permanent InfrastructureError when
    it can have none.

    The kernel itself names these disks `sda` and so on in the order in which it finds them: who asks for such a name gets
    `xvd`, as on EC2.
    """
    if not re.fullmatch(names.DISK, device):
        raise InfrastructureError(f"{device!r} is no name of a disk", permanent=True)
    name = device.removeprefix("/dev/")
    if name == _OWN:
        raise InfrastructureError(f"{device} is the guest's own disk", permanent=True)
    return f"xvd{name.removeprefix('sd')}" if name.startswith("sd") else name


def guest_names(wanted: Iterable[AttachedVolume]) -> dict[str, str]:
    """Return the name of each volume in the guest; permanent InfrastructureError when two have the same."""
    found: dict[str, str] = {}
    for one in wanted:
        name = guest_name(one.device)
        if name in found.values():
            raise InfrastructureError(f"{one.device} is another volume (sd* is xvd* in a machine)", permanent=True)
        found[one.volume] = name
    return found


def free_units(taken: Iterable[int], number: int) -> Sequence[int]:
    """Return so many numbers at the controller that are not taken; InfrastructureError when there are fewer."""
    used = set(taken)
    free = [unit for unit in range(len(_LETTERS)) if unit not in used][:number]
    if len(free) < number:
        raise InfrastructureError("the guest has all the volumes that it can have", permanent=True)
    return free


def controller() -> etree._Element:
    """Return the controller that volumes' disks are behind; it is there before there are any."""
    return etree.Element("controller", type="scsi", index="0", model="virtio-scsi")


def element(disk: VolumeDisk) -> etree._Element:
    """Return a volume's disk as part of a domain's document."""
    root = etree.Element("disk", type="file", device="disk")
    # Without room for what a guest writes it gets an error and goes on; libvirt's default stops the machine.
    etree.SubElement(
        root, "driver", name="qemu", type="raw", discard="unmap", error_policy="report", rerror_policy="report"
    )
    etree.SubElement(root, "source", file=disk.path)
    etree.SubElement(root, "target", dev=disk.target, bus="scsi")
    for name, value in (("serial", disk.volume), ("vendor", VENDOR), ("product", disk.name)):
        etree.SubElement(root, name).text = value
    etree.SubElement(root, "address", type="drive", controller="0", bus="0", target="0", unit=str(disk.unit))
    return root


def document(disk: VolumeDisk) -> str:
    """Return a volume's disk as libvirt is asked to attach or detach it."""
    return etree.tostring(element(disk), encoding="unicode")


def disks_of(text: str, folder: Path) -> list[VolumeDisk]:
    """Return the volumes among the disks of a domain's document: those whose files lie in `folder`."""
    found = []
    for device in etree.fromstring(text.encode(), PARSER).findall("devices/disk"):
        source, address = device.find("source"), device.find("address")
        path = Path(source.get("file") or "/") if source is not None else Path("/")
        if path.parent == folder and address is not None:
            found.append(
                VolumeDisk(
                    volume=path.stem,
                    path=str(path),
                    name=device.findtext("product") or "",
                    unit=int(address.get("unit", "0")),
                )
            )
    return found


def has_controller(text: str) -> bool:
    """Tell whether a domain has the controller: one that was started by an older version has not."""
    return etree.fromstring(text.encode(), PARSER).find("devices/controller[@model='virtio-scsi']") is not None
