"""A fleet without guests: the real daemon and its real engine processes; their infrastructure only says that guests run.

`python -m bench.fleet HOME LISTEN` is the daemon; it starts `bench.fleet_engine`. The guests' agents are stand-ins
(`bench.standin`) behind real TLS connections; `$BENCH_STANDIN` holds their port and key file.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from pcloud.cpe.home import Home
from pcloud.cpe.keys import Keys
from pcloud.cpe.main import Daemon, real_documents, serve, set_up_logging
from pcloud.cpe.ports import ImportRequest, Jeos, Report
from pcloud.cpe.settings import ApiSettings, DaemonSettings
from pcloud.environment.infrastructure import Identity, Image
from pcloud.model.deployable import Assembly


class PretendedImages:
    """`Images`: every image is there; every guest has the stand-ins' key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def key(self, assembly: Assembly) -> str:
        return assembly.image

    def ready(self, assembly: Assembly) -> Image | None:
        return Image(name=assembly.image, digest="bench")

    def wish(self, assembly: Assembly) -> str:
        return assembly.image

    def held(self, digest: str) -> Image | None:
        return Image(name="held", digest=digest)

    async def build(self, assembly: Assembly, report: Report) -> Image:
        return Image(name=assembly.image, digest="bench")

    async def jeos(self) -> Sequence[Jeos]:
        return ()

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        raise NotImplementedError("the fleet builds nothing")

    async def delete_jeos(self, name: str, arch: str) -> None:
        raise NotImplementedError("the fleet builds nothing")

    def imported(self) -> Mapping[str, str]:
        return {}

    async def import_image(self, wanted: ImportRequest, content: AsyncIterator[bytes]) -> Jeos:
        raise NotImplementedError("the fleet imports nothing")

    def keys(self, hostname: str) -> Keys:
        # Secrets of the size that real guests have, so that they weigh what they weigh.
        private = secrets.token_hex(200)
        identity = Identity(
            hostname=hostname, agent_key=self._key, authorized_key=private[:90], host_private_key=private
        )
        return Keys(identity=identity, private_key=private, host_key=private[:90])


def main(argv: list[str]) -> int:
    """Be the daemon."""
    key = Path(os.environ["BENCH_STANDIN"].partition(":")[2])
    home, listen = Home(Path(argv[0])), argv[1]
    set_up_logging()
    daemon = Daemon(
        home,
        lambda: DaemonSettings(api=ApiSettings(listen=listen)),
        documents=real_documents,
        images=lambda home, settings: PretendedImages(key.read_bytes()),
        command=[sys.executable, "-m", "bench.fleet_engine"],
    )
    return serve(daemon, ready=lambda url: print("ready", flush=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
