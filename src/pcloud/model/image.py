"""What guests are made from: an image, and the identity that makes one guest different from another of the same image.

The image store makes both; infrastructures take them (`pcloud.environment.infrastructure` hands the names on).
"""

from __future__ import annotations

import msgspec


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that guests are made from, as the image store knows it."""

    name: str
    digest: str
    """Changes when and only when the content's description changes."""
    path: str = ""
    """The image's folder on this host. LXC finds `layers` in it: root file system folders, lowest first."""
    layers: tuple[str, ...] = ()
    disk: str = ""
    """A qcow2 file, for infrastructures that boot disks; kernel and initrd beside it for direct boot."""
    kernel: str = ""
    initrd: str = ""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one guest different from another of the same image; written into it before its first start."""

    hostname: str
    authorized_key: str = ""
    """Public ssh key (one line) of root's authorized_keys."""
    agent_key: bytes = b""
    """The Pacemaker Remote key, written to /etc/pacemaker/authkey (mode 0600)."""
    host_private_key: str = ""
    """The ssh host key (OpenSSH private format), made by us so that we can pin it."""
