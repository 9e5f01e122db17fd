"""The transport `none`: nobody goes into the guest, the infrastructure's word on it is all there is.

For guests that nothing of ours can reach (a network of its own, an appliance) and that hold no resource of ours. Holds
nothing; a connection is never lost, for nothing was ever heard on it.
"""

from __future__ import annotations

from collections.abc import Callable

from pcloud.environment.transport import Connection, Endpoint, Operation, OperationResult, TransportError


class NoTransport:
    """Implements `pcloud.environment.transport.Transport`."""

    name = "none"

    async def connect(
        self,
        endpoint: Endpoint,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        timeout: float,
    ) -> Connection:
        """Return at once: that the infrastructure says that the guest runs is what the engine came from."""
        return _NoConnection(endpoint.guest_id)

    async def close(self) -> None:
        """There is nothing to close."""


class _NoConnection:
    """Implements `pcloud.environment.transport.Connection`."""

    def __init__(self, guest_id: str) -> None:
        self._guest_id = guest_id

    async def execute(self, operation: Operation) -> OperationResult:
        """Refuse it: TransportError `NOT_SUPPORTED`. Validation keeps resources out of such guests."""
        raise TransportError("NOT_SUPPORTED", f"nothing can be run in {self._guest_id}: its transport is `none`")

    async def cancel(self, resource: str, action: str, interval: float) -> None:
        """Nothing is ever repeated."""

    async def forget(self, resource: str) -> None:
        """Nothing is ever remembered."""

    async def check(self, *, timeout: float) -> None:
        """Nothing can be proved: as good as it gets."""

    async def close(self) -> None:
        """There is nothing to close."""
