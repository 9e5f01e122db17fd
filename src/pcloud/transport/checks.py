"""What `doctor` says of the ways into guests: whether this host can speak ssh, and to how many guests at once."""

from __future__ import annotations

import importlib.metadata
import resource

from pcloud.model.check import Check

_FEW = 4096
"""Below so many open files an engine process reaches fewer guests than it could manage."""


def checks() -> list[Check]:
    """Return what this machine can and can not do."""
    return [_ssh(), _connections()]


def _ssh() -> Check:
    """Whether keys of the kind that guests get can be made and read; some builds of OpenSSL refuse them."""
    try:
        import asyncssh
    except ImportError as error:
        return Check(check="ssh", state="missing", detail=str(error), hint="pip install asyncssh")
    try:
        key = asyncssh.generate_private_key("ssh-ed25519")
        asyncssh.import_private_key(key.export_private_key())
    except asyncssh.KeyGenerationError as error:
        return Check(
            check="ssh", state="missing", detail=f"no ed25519 keys: {error}", hint="install OpenSSL 1.1.1 or newer"
        )
    version = importlib.metadata.version("asyncssh")
    return Check(check="ssh", state="ok", detail=f"asyncssh {version}, ed25519 keys")


def _connections() -> Check:
    """Whether enough files may be open: each guest is a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= _FEW:
        return Check(check="connections", state="ok", detail=f"{most} open files an engine process")
    return Check(
        check="connections", state="warning", detail=f"only {most} open files an engine process: one a guest",
        hint="raise LimitNOFILE of pcloud-cped.service, or `ulimit -n`",
    )  # fmt: skip
