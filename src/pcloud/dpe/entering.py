"""Commands in guests of infrastructures that have no way in of their own: over ssh, with the assembly's own key.

Holds no connection: each command makes one and closes it. Concurrency: any number at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import ExecResult, Infrastructure, InfrastructureError
from pcloud.environment.transport import Connection, Endpoint, Transport, TransportError

SSH_PORT = 22
CONNECT_TIMEOUT = 15.0
_AGAIN = 0.2


@runtime_checkable
class Shell(Protocol):
    """A connection that runs commands."""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> ExecResult:
        """Run a command; no shell reads any word of it."""
        ...


async def run_by_ssh(
    infrastructure: Infrastructure,
    transport: Transport,
    guest_id: str,
    material: GuestMaterial,
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = 60.0,
) -> ExecResult:
    """Run a command in a guest as root. TransportError when it can not be reached, InfrastructureError when it does not
    exist or has no address."""
    info = await infrastructure.inspect(guest_id)
    address, port = info.reach(SSH_PORT)
    if not address:
        raise InfrastructureError(f"guest {guest_id} is {info.state} and has no address")
    endpoint = Endpoint(
        guest_id=guest_id,
        address=address,
        port=port,
        private_key=material.private_key,
        host_key=material.host_key,
    )
    connection = await _connected(transport, endpoint, timeout)
    try:
        if not isinstance(connection, Shell):
            raise TransportError("NOT_SUPPORTED", f"transport {transport.name} runs no commands")
        return await connection.run(argv, stdin=stdin, timeout=timeout)
    finally:
        await connection.close()


async def _connected(transport: Transport, endpoint: Endpoint, patience: float) -> Connection:
    """Connect, in the seconds of `patience` again and again while the guest refuses: it counts as running when its agent
    answers, and its sshd comes later in the boot."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while True:
        try:
            return await transport.connect(
                endpoint, on_result=lambda _: None, on_lost=lambda _: None, timeout=CONNECT_TIMEOUT
            )
        except TransportError as error:
            if error.code != "REFUSED" or loop.time() > deadline:
                raise
        await asyncio.sleep(_AGAIN)
