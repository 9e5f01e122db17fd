"""The engine process of a fleet without guests (`bench.fleet`): the real one over an infrastructure that only pretends.

Imports what the real engine process imports and nothing of the daemon, because its memory is measured.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pcloud.dpe import main as engine
from pcloud.environment.infrastructure import (
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    Vitality,
)
from pcloud.infrastructure import registry


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


def main(argv: list[str]) -> int:
    """Be an engine process."""
    port = int(os.environ["BENCH_STANDIN"].partition(":")[0])
    registry.DRIVERS["lxc"] = lambda settings, state, machines: Pretended(port)
    return engine.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
