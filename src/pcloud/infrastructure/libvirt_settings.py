"""What the libvirt driver can be told; the manifest's and the daemon's settings for `libvirt` have these names."""

from __future__ import annotations

import msgspec


class LibvirtSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one libvirt connection. Every time in seconds."""

    uri: str = "qemu:///system"
    """Where libvirtd is; remote ones too, such as `qemu+ssh://root@host/system`."""
    state: str = ""
    """Folder *on libvirtd's host* for the storage pool, made when it is missing."""
    prefix: str = "pcloud-"
    """Begins the names of our domains: two daemons at one libvirtd need two prefixes."""
    pool: str = "pcloud"
    """libvirt storage pool for disks; defined in `state` when there is none of that name."""
    network: str = "pcloud"
    """libvirt network for guests; defined with a free subnet when there is none. `user` is user-mode networking: guests
    are reached by forwarded ports and can not reach each other, for machines where no bridge can be made."""
    subnet: str = ""
    """IPv4 network of the `network` that we define, such as `10.90.0.0/16`; empty takes the first free one."""
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
