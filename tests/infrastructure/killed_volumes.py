"""Changes the volumes of a machine in a process that is killed at its first, second … line, and again to the end.

    python -m tests.infrastructure.killed_volumes URI STATE PREFIX GUEST

There are the volumes vol-1, vol-2 and vol-3 and a machine without volumes. Prints a JSON list: after each kill, and after
the second try, what the machine and its definition have, and who has each volume. A process of its own: libvirt has threads,
which no fork keeps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import libvirt

from pcloud.infrastructure import libvirt_volume_xml as xml
from pcloud.infrastructure import libvirt_volumes
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.model.deployable import AttachedVolume
from tests.infrastructure.crash_points import killed_at_every_line

ONE = AttachedVolume(volume="vol-1", device="/dev/vdb")
TWO = AttachedVolume(volume="vol-2", device="/dev/vdc")
RENAMED = AttachedVolume(volume="vol-2", device="/dev/vdd")
THREE = AttachedVolume(volume="vol-3", device="/dev/vdb")


def main() -> None:
    uri, state, prefix, guest_id = sys.argv[1:]
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    volumes = libvirt_volumes.LibvirtVolumes(LibvirtSettings(uri=uri, state=state, prefix=prefix))

    def apply(wanted: Sequence[AttachedVolume]) -> None:
        connection = libvirt.open(uri)
        try:
            volumes.apply(connection, guest_id, wanted)
        finally:
            connection.close()

    def look() -> dict[str, Any]:
        connection = libvirt.open(uri)
        try:
            domain = connection.lookupByName(f"{prefix}{guest_id}")
            documents = {"machine": domain.XMLDesc(0), "definition": domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)}
            told: dict[str, Any] = {
                where: sorted(disk.what for disk in xml.disks_of(text, volumes.folder))
                for where, text in documents.items()
            }
            return told | {"holders": volumes.holders(connection)}
        finally:
            connection.close()

    def work() -> Any:
        apply([ONE, TWO])
        return lambda: apply([RENAMED, THREE])

    found = []
    for _ in killed_at_every_line([libvirt_volumes], work):
        between = look()
        apply([RENAMED, THREE])
        found.append([between, look()])
    apply([])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
