"""A connection with its callbacks recorded, for tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from pcloud.environment.transport import Endpoint, Operation, OperationResult, TransportError
from pcloud.transport.remote import RemoteTransport
from pcloud.transport.settings import RemoteSettings


class Recorder:
    """What a connection told."""

    def __init__(self) -> None:
        self.results: list[OperationResult] = []
        self.lost: list[TransportError] = []
        self._changed = asyncio.Event()

    def on_result(self, result: OperationResult) -> None:
        self.results.append(result)
        self._changed.set()

    def on_lost(self, error: TransportError) -> None:
        self.lost.append(error)
        self._changed.set()

    async def until(self, condition, timeout: float = 60.0) -> None:
        """Wait until `condition(self)` holds."""
        async with asyncio.timeout(timeout):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


def endpoint(daemon, **changes) -> Endpoint:
    values = {
        "guest_id": "test",
        "address": getattr(daemon, "address", "127.0.0.1"),
        "port": daemon.port,
        "key": daemon.key,
        **changes,
    }
    return Endpoint(**values)


@asynccontextmanager
async def connected(daemon, *, credentials=None, ipc_provider=False, **settings):
    """Yield (connection, recorder) of a fresh transport. Silence ends a connection only if its settings tell so: on a busy
    machine a daemon may be silent for long."""
    transport = RemoteTransport(
        RemoteSettings(**{"poke_interval": 3600.0, **settings}), credentials=credentials, ipc_provider=ipc_provider
    )
    recorder = Recorder()
    try:
        connection = await transport.connect(
            endpoint(daemon), on_result=recorder.on_result, on_lost=recorder.on_lost, timeout=60
        )
        yield connection, recorder
    finally:
        await transport.close()


def thing(daemon) -> str:
    """The resource of `operation`. Agents look for processes by it on the whole machine, so no two daemons have the same."""
    return f"thing-{daemon.port}"


def operation(daemon, action: str, **changes) -> Operation:
    """An operation of the OCF agent `test:service`."""
    values = {
        "resource": thing(daemon),
        "resource_class": "ocf",
        "provider": "test",
        "type": "service",
        "action": action,
        "parameters": {"dir": str(daemon.state)},
        "timeout": 60.0,
        **changes,
    }
    return Operation(**values)
