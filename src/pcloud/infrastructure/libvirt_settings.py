"""What the libvirt driver can be told; the manifest's and the daemon's settings for `libvirt` have these names."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

_HERE = {"", "localhost", "127.0.0.1", "::1"}


class LibvirtSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one libvirt connection. Every time in seconds."""

    uri: str = "qemu:///system"
    """Where libvirtd is; that of another host too, such as `qemu+ssh://root@host/system`."""
    state: str = ""
    """Folder *on libvirtd's host* for the storage pool, made when it is missing."""
    prefix: str = "pcloud-"
    """Begins the names of our domains: two daemons at one libvirtd need two prefixes."""
    pool: str = "pcloud"
    """libvirt storage pool for disks; defined in `state` when there is none of that name."""
    network: str = "pcloud"
    """libvirt network for guests; defined with a free subnet when there is none. `user` is user-mode networking: guests
    are reached by forwarded ports and can not reach each other, for machines where no bridge can be made; with libvirtd on
    this host only, for its loopback is where those ports are."""
    subnet: str = ""
    """IPv4 network of the `network` that we define, such as `10.90.0.0/16`; empty takes the first free one."""
    forward: Literal["", "nat", "route"] = ""
    """How that network goes outwards. `nat` hides the guests: only their host reaches them. With `route` others do too that
    have a route to `subnet` by that host. Empty is `nat` with libvirtd on this host and `route` with another host's."""
    bridge: str = ""
    """Name of its bridge; empty lets libvirt choose."""
    accelerator: str = "auto"
    """`kvm`, `tcg`, or `auto`: KVM where it works."""
    memory: int = 512
    """MiB of a guest whose assembly does not say."""
    cpus: int = 1
    parallel: int = 0
    """Guests started at once; 0 chooses 8 with KVM and 2 without."""
    call_timeout: float = 60.0
    """Until a call of libvirt's API counts as unanswered (of those that do not wait for a guest)."""
    forwarded_ports: tuple[int, ...] = (22, 80, 3121)
    """Guest ports that `user` networking forwards from this host's loopback."""

    def __post_init__(self) -> None:
        """Refuse what can not work together."""
        if self.network == "user" and self.elsewhere:
            raise ValueError(
                "network `user` forwards ports of libvirtd's host to guests, which can not be reached from here: name a "
                "libvirt network of that host"
            )

    def size(self, memory: int, cpus: float) -> tuple[int, int]:
        """Return the MiB and processors of a guest whose assembly says these; 0 is nothing said."""
        return memory or self.memory, max(1, round(cpus)) if cpus else self.cpus

    @property
    def elsewhere(self) -> str:
        """Name of the other host that libvirtd is on; empty when it is on this one."""
        return host_of(self.uri)

    @property
    def forwarding(self) -> str:
        """How a network that we define goes outwards: `nat` or `route`."""
        return self.forward or ("route" if self.elsewhere else "nat")


def host_of(uri: str) -> str:
    """Return the name of the other host that a libvirt URI means; empty when that is this one."""
    host = urlsplit(uri).hostname or ""
    return "" if host in _HERE else host
