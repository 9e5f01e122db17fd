"""The `Images` port: the image store of the room `images`, seen as the daemon needs it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pcloud.cpe.keys import Keys
from pcloud.cpe.ports import Jeos, Report
from pcloud.environment.infrastructure import Identity, Image
from pcloud.model.deployable import Assembly
from pcloud.model.errors import Problem, Unavailable


def make_keys(hostname: str) -> Keys:
    """Make the keys of a new guest: an ssh key pair, a host key to be pinned, an agent key."""
    import asyncssh  # heavy

    user = asyncssh.generate_private_key("ssh-ed25519", comment=f"pcloud@{hostname}")
    host = asyncssh.generate_private_key("ssh-ed25519", comment=hostname)
    return Keys(
        identity=Identity(
            hostname=hostname,
            authorized_key=user.export_public_key().decode().strip(),
            agent_key=secrets.token_bytes(128),
            host_private_key=host.export_private_key().decode(),
        ),
        private_key=user.export_private_key().decode(),
        host_key=host.export_public_key().decode().strip(),
    )


class NoImages:
    """Stands in where no image store is installed: every build says so."""

    def key(self, assembly: Assembly) -> str:
        """Return what identifies the image."""
        return f"{assembly.image}/{assembly.arch}"

    def ready(self, assembly: Assembly) -> Image | None:
        """Nothing is ever there."""
        return None

    async def build(self, assembly: Assembly, report: Report) -> Image:
        """Refuse."""
        raise _missing()

    async def jeos(self) -> Sequence[Jeos]:
        """Nothing can be built."""
        return ()

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        """Refuse."""
        raise _missing()

    async def delete_jeos(self, name: str, arch: str) -> None:
        """Refuse."""
        raise _missing()

    def keys(self, hostname: str) -> Keys:
        """Make the keys of a new guest."""
        return make_keys(hostname)


def _missing() -> Unavailable:
    return Unavailable(Problem(code="NO_IMAGE_STORE", message="this installation can not build images"))
