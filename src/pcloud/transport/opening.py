"""Opens the ways to reach guests, and imports one only when its first guest is connected.

An ssh library weighs more than everything else an engine process holds, and most fleets have no guest behind ssh.
Concurrency: `connect` may be called for many guests at once; the first of them opens the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module

from pcloud.environment.transport import Connection, Endpoint, OperationResult, Transport, TransportError
from pcloud.transport.none import NoTransport
from pcloud.transport.remote import RemoteTransport


def open_transports() -> dict[str, Transport]:
    """Return every transport by the word that manifests use. No guest is connected yet."""
    return {
        "remote": RemoteTransport(),
        "ssh": OnDemand("ssh", "pcloud.transport.ssh", "SshTransport"),
        "none": NoTransport(),
    }


class OnDemand:
    """A `Transport` whose module is imported, in a thread, with the first connection."""

    def __init__(self, name: str, module: str, factory: str) -> None:
        self.name = name
        self._module = module
        self._factory = factory
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
            opened: Transport = getattr(module, self._factory)()
            self._real = opened
        return await self._real.connect(endpoint, on_result=on_result, on_lost=on_lost, timeout=timeout)

    async def close(self) -> None:
        """Close all connections, if there ever was one."""
        if self._real is not None:
            await self._real.close()
