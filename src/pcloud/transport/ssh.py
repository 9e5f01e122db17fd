"""The `ssh` transport: guests that carry nothing of ours are managed through their plain sshd.

Owns the handshake: the per-assembly key, the pinned host key, and the bound on handshakes at once. Nothing of this host's
own ssh configuration, agent or known hosts takes part. Concurrency: `connect` may be called for many guests at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from pcloud.environment.transport import Connection, Endpoint, OperationResult, TransportError
from pcloud.transport.settings import SshSettings, TransportSettings
from pcloud.transport.ssh_channel import LinkLost, run
from pcloud.transport.ssh_commands import PREFLIGHT, command_line, script
from pcloud.transport.ssh_connection import SshConnection


def open_transport(settings: TransportSettings) -> SshTransport:
    """Return the transport with those settings; no guest is connected yet."""
    return SshTransport(settings.ssh)


class SshTransport:
    """Implements `pcloud.environment.transport.Transport` over asyncssh."""

    name = "ssh"

    def __init__(self, settings: SshSettings | None = None) -> None:
        self._settings = settings or SshSettings()
        self._handshakes = asyncio.Semaphore(self._settings.handshakes)
        self._connections: set[SshConnection] = set()

    async def connect(
        self,
        endpoint: Endpoint,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
        timeout: float,
    ) -> Connection:
        """Connect once. TransportError codes: `TIMEOUT`, `REFUSED`, `HOST_KEY`, `AUTHENTICATION`, `KEY`, `PROTOCOL`,
        `PROGRAMS` (the guest lacks coreutils or util-linux)."""
        client = _Client()
        connection: asyncssh.SSHClientConnection | None = None
        try:
            options = _options(endpoint, self._settings, client)
            async with self._handshakes, asyncio.timeout(timeout):
                connection = await asyncssh.connect(endpoint.address, endpoint.port, options=options)
                end = await run(connection, command_line(script(PREFLIGHT)), timeout=timeout)
            if end.returncode != 0:
                raise TransportError("PROGRAMS", f"{endpoint.guest_id} lacks the programs timeout, flock or env")
        except BaseException as error:  # cancelled, too: the connection may not stay open
            if connection is not None:
                connection.abort()
            translated = _translate(endpoint, error, timeout)
            if translated is None:
                raise
            raise translated from error
        live = SshConnection(connection, endpoint, self._settings, on_result=on_result, on_lost=on_lost)
        self._connections.add(live)
        client.attach(lambda exc: self._gone(live, endpoint, exc))
        return live

    async def close(self) -> None:
        """Close all connections."""
        connections, self._connections = self._connections, set()
        await asyncio.gather(*(connection.close() for connection in connections))

    def _gone(self, connection: SshConnection, endpoint: Endpoint, exc: Exception | None) -> None:
        self._connections.discard(connection)
        reason = str(exc) or "the guest closed it" if exc else "the guest closed it"
        connection.lost(TransportError("CONNECTION_LOST", f"the connection to {endpoint.guest_id} was lost: {reason}"))


class _Client(asyncssh.SSHClient):
    """Hears of the end of a connection, also when it comes before anybody listens."""

    def __init__(self) -> None:
        self._listener: Callable[[Exception | None], None] | None = None
        self._lost: tuple[Exception | None] | None = None

    def attach(self, listener: Callable[[Exception | None], None]) -> None:
        self._listener = listener
        if self._lost is not None:
            listener(self._lost[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost is None:
            self._lost = (exc,)
            if self._listener is not None:
                self._listener(exc)


def _options(endpoint: Endpoint, settings: SshSettings, client: _Client) -> asyncssh.SSHClientConnectionOptions:
    try:
        key = asyncssh.import_private_key(endpoint.private_key)
        pinned = asyncssh.import_public_key(endpoint.host_key)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        raise TransportError("KEY", f"a key for {endpoint.guest_id} can not be read: {error}") from None
    return asyncssh.SSHClientConnectionOptions(
        client_factory=lambda: client,
        config=None,
        username=endpoint.username,
        client_keys=[key],
        known_hosts=([pinned], [], []),
        server_host_key_algs=_algorithms(pinned),
        preferred_auth="publickey",
        agent_path=None,
        pkcs11_provider=None,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_auth=False,
        gss_kex=False,
        disable_trivial_auth=True,
        tcp_keepalive=True,
        keepalive_interval=settings.keepalive_interval,
        keepalive_count_max=settings.keepalive_count,
        compression_algs=[],
        login_timeout=0,
        connect_timeout=None,
    )


def _algorithms(pinned: asyncssh.SSHKey) -> list[str]:
    """Ask the guest for the pinned key's own kind: it may hold keys of other kinds that we do not know."""
    name = pinned.get_algorithm()
    return ["rsa-sha2-512", "rsa-sha2-256"] if name == "ssh-rsa" else [name]


def _translate(endpoint: Endpoint, error: BaseException, timeout: float) -> TransportError | None:
    where = f"{endpoint.guest_id} at {endpoint.address}:{endpoint.port}"
    match error:
        case TransportError():
            return None
        case TimeoutError():
            return TransportError("TIMEOUT", f"{where}: no ssh connection within {timeout:g} seconds")
        case asyncssh.HostKeyNotVerifiable():
            return TransportError("HOST_KEY", f"{where} does not have the host key that its image was given")
        case asyncssh.PermissionDenied():
            return TransportError("AUTHENTICATION", f"{where} refused the key")
        case asyncssh.Error() | LinkLost():
            return TransportError("PROTOCOL", f"{where}: {error}")
        case OSError():
            return TransportError("REFUSED", f"{where}: {error.strerror or error}")
        case _:
            return None
