"""Volumes of libvirt's guests on this host: files that are disks of their domains, which say who has which.

Owns no record: a volume is a domain's that has its file in its definition, or in its machine. A domain is defined with its
volumes before it runs, and a change is in the definition before it is in the machine, and out of the machine before it is
out of the definition: what a crash leaves says more than there is, never less. QEMU locks what it has open.

Concurrency: functions block, in threads of the connection, of the daemon and of engine processes. Who has what is asked and
written under the lock of the state folder; no lock is held while a machine is asked for something, for it may hang.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt

from pcloud.environment.infrastructure import Capability, GuestSpec, InfrastructureError
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure import libvirt_volume_xml as xml
from pcloud.infrastructure.host import alone_in
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.volume_files import VolumeFiles
from pcloud.model.deployable import AttachedVolume

_SECONDS = 30.0
"""Until a machine must have let go of a disk."""
_PAUSE = 0.05
_FLOCK = struct.Struct("hhqqi4x")
"""C's `struct flock` on 64-bit Linux."""
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
_GONE = {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN}
"""What libvirt says of a machine that does not run any more."""


def refuse_volumes(spec: GuestSpec, capabilities: frozenset[Capability]) -> None:
    """Permanent InfrastructureError when a guest is to have volumes that it can not have."""
    if spec.volumes and Capability.VOLUMES not in capabilities:
        raise InfrastructureError("machines have volumes only where libvirtd is on this host", permanent=True)
    if spec.volumes and spec.saved_state:
        raise InfrastructureError("a guest that is restored from its saved state has no volumes", permanent=True)


class LibvirtVolumes(VolumeFiles):
    """The volumes of one driver with libvirtd on this host."""

    def __init__(self, settings: LibvirtSettings) -> None:
        super().__init__(Path(settings.state).absolute(), "disks", 0o711)  # QEMU may run as another user
        self._prefix = settings.prefix

    def holders(self, connection: Any) -> dict[str, str]:
        """Return who has each volume that somebody has."""
        found = {}
        for domain in connection.listAllDomains(0):
            name = domain.name()
            if name.startswith(self._prefix):
                for disk in self._all_of(domain):
                    found[disk.volume] = name.removeprefix(self._prefix)
        return found

    def delete(self, connection: Any, volume: str) -> None:
        """Remove a volume and what is in it. InfrastructureError while a guest has it."""
        self.path(volume)
        if not self.state.exists():
            return
        with alone_in(self.state):
            if holder := self.holders(connection).get(volume):
                raise InfrastructureError(f"volume {volume} is attached to {holder}")
            self.remove(volume)

    @contextlib.contextmanager
    def claimed(
        self, connection: Any, guest_id: str, wanted: Sequence[AttachedVolume]
    ) -> Iterator[tuple[xml.VolumeDisk, ...]]:
        """Return the disks of a guest that is about to be defined with them, which must be done before this ends.
        InfrastructureError when another guest has one of them, or there is none."""
        if not wanted:
            yield ()
            return
        found = xml.guest_names(wanted)
        self._need(found)
        with alone_in(self.state):
            self._refuse_taken(connection, guest_id, found)
            units = xml.free_units((), len(found))
            yield tuple(self._disk(*pair, unit) for pair, unit in zip(found.items(), units, strict=True))

    def apply(self, connection: Any, guest_id: str, wanted: Sequence[AttachedVolume]) -> None:
        """Give a guest these volumes and no others, at once where it runs; returns when it has let go of those that it must
        not have. Does nothing where there is no such guest."""
        name = f"{self._prefix}{guest_id}"
        domain = domains.find(connection, name)
        if domain is None or not (wanted or self._all_of(domain)):
            return
        found = xml.guest_names(wanted)
        self._need(found)
        pairs = set(found.items())
        with alone_in(self.state):
            self._refuse_taken(connection, guest_id, found)
            self._define(domain, {volume: of for volume, of in found.items() if volume not in self._defined(domain)})
        for disk in self._running(domain):
            if disk.what not in pairs:
                self._take_off(domain, disk)
        with alone_in(self.state):
            for disk in self._disks(domain, libvirt.VIR_DOMAIN_XML_INACTIVE):
                if disk.what not in pairs:
                    domain.detachDeviceFlags(xml.document(disk), _CONFIG)
            defined = self._defined(domain)
            self._define(domain, {volume: of for volume, of in found.items() if volume not in defined})
        there = {disk.volume for disk in self._running(domain)}
        for disk in self._disks(domain, libvirt.VIR_DOMAIN_XML_INACTIVE):
            if disk.what in pairs and disk.volume not in there:
                self._put_on(domain, disk)

    def resize(self, connection: Any, volume: str, size: int) -> None:
        """Have the machine that has a volume see its size."""
        holder = self.holders(connection).get(volume)
        domain = domains.find(connection, f"{self._prefix}{holder}") if holder else None
        if domain is None:
            return
        for disk in self._running(domain):
            if disk.volume == volume:
                with _unless_gone(domain):
                    domain.blockResize(disk.target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def in_use(self, volume: str) -> bool:
        """Tell whether a QEMU has the file open: it locks bytes of it."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            with self.path(volume).open("rb") as file:
                answer = fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, asked)
        except FileNotFoundError:
            return False
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _need(self, found: dict[str, str]) -> None:
        for volume in found:
            if not self.exists(volume):
                raise InfrastructureError(f"there is no volume {volume}")

    def _refuse_taken(self, connection: Any, guest_id: str, found: dict[str, str]) -> None:
        """Refuse what another guest has: two kernels' views of one file system destroy it."""
        holders = self.holders(connection) if found else {}
        for volume in found:
            if (holder := holders.get(volume, guest_id)) != guest_id:
                raise InfrastructureError(f"volume {volume} is attached to {holder}")

    def _disk(self, volume: str, name: str, unit: int) -> xml.VolumeDisk:
        return xml.VolumeDisk(volume=volume, path=str(self.path(volume)), name=name, unit=unit)

    def _disks(self, domain: Any, flags: int) -> list[xml.VolumeDisk]:
        return xml.disks_of(domain.XMLDesc(flags), self.folder)

    def _all_of(self, domain: Any) -> list[xml.VolumeDisk]:
        """Return the disks of a domain's definition and of its machine; nothing when it goes meanwhile."""
        try:
            return [*self._disks(domain, libvirt.VIR_DOMAIN_XML_INACTIVE), *self._disks(domain, 0)]
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return []

    def _defined(self, domain: Any) -> set[str]:
        return {disk.volume for disk in self._disks(domain, libvirt.VIR_DOMAIN_XML_INACTIVE)}

    def _running(self, domain: Any) -> list[xml.VolumeDisk]:
        """Return the disks of a machine that runs."""
        return self._disks(domain, 0) if domain.isActive() else []

    def _define(self, domain: Any, found: dict[str, str]) -> None:
        """Write volumes into a domain's definition."""
        units = xml.free_units([disk.unit for disk in self._all_of(domain)], len(found))
        for pair, unit in zip(found.items(), units, strict=True):
            domain.attachDeviceFlags(xml.document(self._disk(*pair, unit)), _CONFIG)

    def _put_on(self, domain: Any, disk: xml.VolumeDisk) -> None:
        with _unless_gone(domain):
            if not xml.has_controller(domain.XMLDesc(0)):
                raise InfrastructureError(
                    f"{domain.name()} was started before machines could have volumes; it has {disk.volume} when it is "
                    "started again"
                )
            domain.attachDeviceFlags(xml.document(disk), _LIVE)

    def _take_off(self, domain: Any, disk: xml.VolumeDisk) -> None:
        """Take a disk off a machine; returns when it is seen to be off, and its file to be closed."""
        deadline = time.monotonic() + _SECONDS
        with _unless_gone(domain):
            domain.detachDeviceFlags(xml.document(disk), _LIVE)
        while any(each.volume == disk.volume for each in self._running(domain)) or self.in_use(disk.volume):
            if time.monotonic() >= deadline:
                raise InfrastructureError(f"{domain.name()} does not let go of volume {disk.volume}")
            time.sleep(_PAUSE)


@contextlib.contextmanager
def _unless_gone(domain: Any) -> Iterator[None]:
    """Take a machine's end for what was asked of it: its next start has what its definition says."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _GONE or domain.isActive():
            raise
