"""Which accelerator QEMU runs with: KVM where it works, found by a machine that is nobody's.

A device may be there and not work, as in nested guests whose host hides a register: QEMU ends at once then. That is found
before any guest is started, with a domain of this module alone: libvirt tells the end of a QEMU some time after the failed
start, and takes whatever runs in the same domain by then for it (libvirt 9.0, `qemuProcessBeginStopJob` kills before it
looks). Concurrency: blocking functions for the connection's threads; one of them asks, the others wait for its answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any

import libvirt

_log = logging.getLogger(__name__)
_QEMU_ENDED = {libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_OPERATION_FAILED}
"""What libvirt says when QEMU ended before it ran the guest."""
_PROBE = """<domain type="{kind}"><name>{name}</name><memory unit="MiB">16</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os>{cpu}</domain>"""


class Accelerator:
    """The accelerator of one libvirtd's machines."""

    def __init__(self, setting: str) -> None:
        """Take the setting: `kvm`, `tcg`, or `auto`."""
        self._chosen = "" if setting == "auto" else setting
        self._lock = threading.Lock()

    def choose(self, connection: Any) -> str:
        """Return `kvm` or `tcg`. libvirtError when no QEMU starts at all: then nothing was found, and it is asked again."""
        with self._lock:
            if not self._chosen:
                self._chosen = "kvm" if offered(connection) and self._works(connection) else "tcg"
            return self._chosen

    def _works(self, connection: Any) -> bool:
        reason = kvm_fails(connection)
        if reason:
            _log.warning("KVM is there and does not work, machines are emulated (TCG): %s", reason)
        return not reason


def offered(connection: Any) -> bool:
    """Tell whether libvirt offers KVM."""
    try:
        connection.getDomainCapabilities(None, "x86_64", "q35", "kvm", 0)
    except libvirt.libvirtError:
        return False
    return True


def kvm_fails(connection: Any) -> str:
    """Return why QEMU does not start with KVM, empty when it does. libvirtError when it starts without KVM neither: that is
    not KVM's fault."""
    try:
        _start(connection, "kvm", '<cpu mode="host-passthrough"/>')
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _QEMU_ENDED:
            raise
        _start(connection, "qemu", "")
        return str(error)
    return ""


def _start(connection: Any, kind: str, cpu: str) -> None:
    """Start a machine without devices, and end it; libvirt ends it where we are gone before."""
    document = _PROBE.format(kind=kind, name=f"pcloud-probe-{os.urandom(4).hex()}", cpu=cpu)
    flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
    domain = connection.createXML(document, flags)
    with contextlib.suppress(libvirt.libvirtError):  # it ended by itself just now; it had started
        domain.destroy()
