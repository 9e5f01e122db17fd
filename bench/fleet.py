"""A fleet without guests: the real daemon and its real engine processes; their infrastructure only says that guests run.

`python -m bench.fleet HOME LISTEN` is the daemon, `python -m bench.fleet engine …` the engine process that it starts. The
guests' agents are stand-ins (`bench.standin`) behind real TLS connections; `$BENCH_STANDIN` holds their port and key file.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from pcloud.cpe.home import Home
from pcloud.cpe.keys import Keys
from pcloud.cpe.main import Daemon, real_documents, serve, set_up_logging
from pcloud.cpe.ports import Jeos, Report
from pcloud.cpe.settings import ApiSettings, DaemonSettings
from pcloud.environment.infrastructure import (
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    Identity,
    Image,
    Vitality,
)
from pcloud.infrastructure import registry
from pcloud.model.deployable import Assembly


class Pretended:
    """`Infrastructure`: a guest runs from its start to its end, wherever the stand-in listens."""

    name = "lxc"
    capabilities = frozenset[Any]()

    def __init__(self, port: int) -> None:
        self._port = port
        self._running: dict[str, str] = {}

    async def places(self) -> Sequence[str]:
        return ("here",)

    async def list_guests(self) -> Sequence[GuestInfo]:
        return [self._info(name) for name in self._running]

    def _info(self, guest_id: str) -> GuestInfo:
        if guest_id not in self._running:
            return GuestInfo(guest_id=guest_id, state=GuestState.ABSENT)
        return GuestInfo(
            guest_id=guest_id, state=GuestState.RUNNING, address="127.0.0.1", place="here", boot_id="1",
            digest=self._running[guest_id], port_map={3121: ("127.0.0.1", self._port)},
        )  # fmt: skip

    async def inspect(self, guest_id: str) -> GuestInfo:
        return self._info(guest_id)

    async def start(self, spec: GuestSpec) -> GuestInfo:
        self._running[spec.guest_id] = spec.digest
        return self._info(spec.guest_id)

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        self._running.pop(guest_id, None)

    async def destroy(self, guest_id: str) -> None:
        self._running.pop(guest_id, None)

    async def delete(self, guest_id: str) -> None:
        self._running.pop(guest_id, None)

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        return Vitality.UNKNOWN

    async def watch(self) -> AsyncIterator[GuestEvent]:
        import asyncio

        await asyncio.Event().wait()
        yield GuestEvent(guest_id="", state=GuestState.UNKNOWN)

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        return ExecResult(returncode=1)

    async def console(self, guest_id: str) -> bytes:
        return b""

    async def close(self) -> None:
        self._running.clear()


class PretendedImages:
    """`Images`: every image is there; every guest has the stand-ins' key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def key(self, assembly: Assembly) -> str:
        return assembly.image

    def ready(self, assembly: Assembly) -> Image | None:
        return Image(name=assembly.image, digest="bench")

    async def build(self, assembly: Assembly, report: Report) -> Image:
        return Image(name=assembly.image, digest="bench")

    async def jeos(self) -> Sequence[Jeos]:
        return ()

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        raise NotImplementedError("the fleet builds nothing")

    async def delete_jeos(self, name: str, arch: str) -> None:
        raise NotImplementedError("the fleet builds nothing")

    def keys(self, hostname: str) -> Keys:
        # Secrets of the size that real guests have, so that they weigh what they weigh.
        private = secrets.token_hex(200)
        identity = Identity(
            hostname=hostname, agent_key=self._key, authorized_key=private[:90], host_private_key=private
        )
        return Keys(identity=identity, private_key=private, host_key=private[:90])


def standin() -> tuple[int, Path]:
    """Return the port and key file of the stand-ins."""
    port, _, key = os.environ["BENCH_STANDIN"].partition(":")
    return int(port), Path(key)


def main(argv: list[str]) -> int:
    """Be the daemon, or one of its engine processes."""
    port, key = standin()
    if argv[0] == "engine":
        from pcloud.dpe import main as engine

        registry.DRIVERS["lxc"] = lambda settings, state, machines: Pretended(port)
        return engine.main(argv[1:])
    home, listen = Home(Path(argv[0])), argv[1]
    set_up_logging()
    daemon = Daemon(
        home,
        lambda: DaemonSettings(api=ApiSettings(listen=listen)),
        documents=real_documents,
        images=lambda home, settings: PretendedImages(key.read_bytes()),
        command=[sys.executable, "-m", "bench.fleet", "engine"],
    )
    return serve(daemon, ready=lambda url: print("ready", flush=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
