"""`RemoteTransport`: guests are reached by Pacemaker Remote, whether they run our agent or Pacemaker's own.

Owns: the set of connections and their health checks (`health`). Concurrency: one event loop; a connection has no
task of its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from pcloud.environment.transport import Endpoint, OperationResult, TransportError
from pcloud.transport.channel import Buffer, open_channel
from pcloud.transport.health import Health
from pcloud.transport.session import RemoteConnection
from pcloud.transport.settings import RemoteSettings, TransportSettings
from pcloud.wire import gnutls


def open_transport(settings: TransportSettings) -> RemoteTransport:
    """Return the transport with those settings; no guest is connected yet. TransportError `TLS` when a certificate or key
    can not be read."""
    given, credentials = settings.remote, None
    if given.ca:
        try:
            credentials = gnutls.Credentials.x509(
                server=False, ca=given.ca, certificate=given.certificate, key=given.key, crl=given.crl
            )
        except gnutls.TlsError as error:
            raise TransportError("TLS", str(error)) from error
    return RemoteTransport(given, credentials=credentials)


class RemoteTransport:
    """Implements `pcloud.environment.transport.Transport`."""

    name = "remote"

    def __init__(
        self,
        settings: RemoteSettings | None = None,
        *,
        client_name: str = "pcloud",
        ipc_provider: bool = False,
        credentials: gnutls.Credentials | None = None,
    ) -> None:
        """Set up; connects nothing.

        `settings` say how often guests are asked for signs of life. `ipc_provider`: sign on as relay for cluster IPC, as a
        cluster does. `credentials`: use X.509 instead of each endpoint's pre-shared key.
        """
        given = settings or RemoteSettings()
        self._connections: set[RemoteConnection] = set()
        self._health = Health(
            self._connections, interval=given.poke_interval, timeout=given.poke_timeout, rate=given.poke_rate
        )
        self._client_name = client_name
        self._ipc_provider = ipc_provider
        self._credentials = credentials
        self._buffer: Buffer | None = None
        self._numbers = itertools.count(1)

    async def connect(
        self,
        endpoint: Endpoint,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        timeout: float,
    ) -> RemoteConnection:
        """Connect once. Errors: TransportError with code UNREACHABLE, REFUSED, TLS (a wrong key, say), TIMEOUT,
        PROTOCOL, or a frame's (BAD_MAGIC, BAD_HEADER, TOO_LARGE, BAD_PAYLOAD)."""
        if self._buffer is None:
            self._buffer = Buffer()
        try:
            credentials = self._credentials or gnutls.Credentials.psk_client(endpoint.key)
        except gnutls.TlsError as error:
            raise TransportError("TLS", str(error)) from error
        connection: RemoteConnection | None = None
        try:
            async with asyncio.timeout(timeout):
                channel = await open_channel(endpoint.address, endpoint.port, credentials, self._buffer)
                connection = RemoteConnection(
                    channel,
                    next(self._numbers),
                    on_result=on_result,
                    on_lost=on_lost,
                    on_closed=self._connections.discard,
                )
                await connection.sign_on(self._client_name, provider=self._ipc_provider)
        except TimeoutError as error:
            if connection is not None:
                await connection.close()
            where = f"{endpoint.address}:{endpoint.port}"
            raise TransportError("TIMEOUT", f"{where} did not answer within {timeout:g} s") from error
        except BaseException:  # cancelled, too: the connection may not stay open
            if connection is not None:
                await connection.close()
            raise
        self._connections.add(connection)
        self._health.start()
        return connection

    async def close(self) -> None:
        """Close all connections; resources in the guests go on."""
        self._health.stop()
        for connection in list(self._connections):
            await connection.close()
