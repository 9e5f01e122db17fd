"""Machines as the world of a stage: emulated where there is no KVM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.infrastructure.libvirtd import Libvirtd
from tests.machines.stage import World


class LibvirtWorld(World):
    """Machines, emulated where there is no KVM."""

    infrastructure = "libvirt"
    slow = 4.0

    def __init__(self, libvirtd: Libvirtd) -> None:
        super().__init__()
        self.libvirtd = libvirtd

    def settings(self, home: Path) -> str:
        names = f'network = "pcmeng"\npool = "pcmeng"\nbridge = "pcme{os.getpid()}"\nprefix = "pcme-"\nmemory = 320\n'
        return f'[infrastructures.libvirt]\nuri = "{self.libvirtd.uri}"\n{names}'

    def kill(self, home: Path, guest_id: str) -> None:
        os.kill(self.libvirtd.qemu(f"pcme-{guest_id}"), signal.SIGKILL)

    def hang(self, home: Path, guest_id: str) -> None:
        self.libvirtd.freeze(f"pcme-{guest_id}")
