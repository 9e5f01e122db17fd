"""What each infrastructure can do, as data: read by `doctor`, validation and policy without opening a driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure.libvirt_settings import host_of

CAPABILITIES: dict[str, frozenset[Capability]] = {
    # A second signal only of hosts with a fence device: of others nobody can say more than their transport does.
    "hosts": frozenset({Capability.SECOND_SIGNAL}),
    "lxc": frozenset(
        {
            Capability.EXECUTE,
            Capability.CONSOLE,
            Capability.SECOND_SIGNAL,
            Capability.LIMITS,
            Capability.SEED,
            Capability.FIREWALL,
            Capability.ADDRESSES,
            Capability.NETWORK,
            Capability.RESIZE,
            Capability.VOLUMES,
            Capability.SNAPSHOTS,
            Capability.FIREWALL_GROUPS,
            Capability.FIXED_ADDRESSES,
            Capability.NETWORKS,
        }
    ),
    # Commands through the QEMU guest agent need that in the image, so they are not promised: the engine goes by ssh.
    "libvirt": frozenset(
        {
            Capability.CONSOLE,
            Capability.SECOND_SIGNAL,
            Capability.LIMITS,
            Capability.SAVED_STATE,
            Capability.SEED,
            Capability.FIREWALL,
            Capability.ADDRESSES,
            Capability.NETWORK,
            Capability.RESIZE,
            Capability.VOLUMES,
            Capability.SNAPSHOTS,
        }
    ),
    # A second signal only of servers that were paused or suspended: that Nova calls one ACTIVE proves nothing.
    "openstack": frozenset(
        {
            Capability.CONSOLE,
            Capability.ANTI_AFFINITY,
            Capability.USERS,
            Capability.SEED,
            Capability.FIREWALL,
            Capability.ADDRESSES,
        }
    ),
}


def bound_to_host(name: str, settings: Mapping[str, Any]) -> bool:
    """Tell whether guests of an infrastructure with these settings exist on this very host only: a daemon on another host
    does not reach them, and would make others."""
    if name == "libvirt":
        return not host_of(str(settings.get("uri", "")))
    return name not in ("openstack", "hosts")
