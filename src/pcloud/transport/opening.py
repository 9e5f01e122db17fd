"""Opens the ways to reach guests, and imports one only when its first guest is connected.

An ssh library weighs more than everything else an engine process holds, and most fleets have no guest behind ssh.
Concurrency: `connect` may be called for many guests at once; the first of them opens the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module

from pcloud.environment.transport import Connection, Endpoint, OperationResult, Transport, TransportError
from pcloud.transport.none import NoTransport
from pcloud.transport.settings import TransportSettings


def open_transports() -> dict[str, Transport]:
    """Return every transport by the word that manifests use. No guest is connected yet."""
    return {
        "remote": OnDemand("remote", "pcloud.transport.remote"),
        "ssh": OnDemand("ssh", "pcloud.transport.ssh"),
        "none": NoTransport(),
    }


def configure(transports: Mapping[str, Transport], settings: TransportSettings) -> None:
    """Give transports their settings. One that has connected a guest keeps those that it had."""
    for transport in transports.values():
        if isinstance(transport, OnDemand):
            transport.settings = settings


class OnDemand:
    """A `Transport` whose module is imported, in a thread, with the first connection; its `open_transport` makes it."""

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self.settings = TransportSettings()
        self._module = module
        self._real: Transport | None = None

    async def connect(
        self,
        endpoint: Endpoint,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        timeout: float,
    ) -> Connection:
        """As the transport itself does."""
        module = await asyncio.to_thread(import_module, self._module)
        if self._real is None:
            opened: Transport = module.open_transport(self.settings)
            self._real = opened
        return await self._real.connect(endpoint, on_result=on_result, on_lost=on_lost, timeout=timeout)

    async def close(self) -> None:
        """Close all connections, if there ever was one."""
        if self._real is not None:
            await self._real.close()
