"""What each infrastructure can do, as data: read by `doctor`, validation and policy without opening a driver."""

from __future__ import annotations

from pcloud.environment.infrastructure import Capability

CAPABILITIES: dict[str, frozenset[Capability]] = {
    "lxc": frozenset({Capability.EXECUTE, Capability.CONSOLE, Capability.SECOND_SIGNAL}),
    "libvirt": frozenset(
        # EXECUTE and half of SECOND_SIGNAL need the QEMU guest agent in the image; a hung QEMU is seen without it
        {Capability.EXECUTE, Capability.CONSOLE, Capability.SECOND_SIGNAL, Capability.SAVED_STATE}
    ),
    "openstack": frozenset({Capability.CONSOLE, Capability.ANTI_AFFINITY}),
}
