"""Runs HTTP servers inside the daemon's event loop: any number of applications, each on an address of its own.

Concurrency: one task a server. Signals belong to the daemon, so uvicorn's own handling of them is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from pcloud.cpe.settings import ApiSettings, split_address
from pcloud.model.errors import Problem, Unavailable


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield


KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept: longer than clients wait between two questions (`openstack … --wait` asks
every 5 s), or a question meets a connection that is just being closed."""


class HttpServer:
    """One application on one address."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, certificate: str = "", key: str = "", grace: float = 2.0
    ) -> None:
        self._host = host
        self._port = port
        self._tls = bool(certificate)
        self._config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=int(grace),
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=64 * 1024,
            ssl_certfile=certificate or None,
            ssl_keyfile=key or None,
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen; Unavailable when the address can not be had or the certificate can not be used."""
        self._check_certificate()
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it. asyncio sets it only on sockets made for TCP by name, and a body that waits for the
            # acknowledgement of its header waits 40 ms.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.bind((self._host, self._port))
            made.listen(1024)
        except OSError as error:
            made.close()
            raise Unavailable(
                Problem(
                    code="ADDRESS_UNAVAILABLE",
                    message=f"{self._host}:{self._port} can not be listened on: {error.strerror or error}",
                    hint="choose another address with --listen",
                )
            ) from error
        made.setblocking(False)
        self._socket = made
        port = made.getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"{'https' if self._tls else 'http'}://{host}:{port}"
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve(sockets=[made]), name=f"http-{port}")
        while not self._server.started:
            done, _ = await asyncio.wait({self._task}, timeout=0.01)
            if done:
                self._task.result()
                raise Unavailable(Problem(code="SERVER_FAILED", message="the HTTP server did not start"))

    def _check_certificate(self) -> None:
        certificate, key = self._config.ssl_certfile, self._config.ssl_keyfile
        if not certificate:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:  # SSLError is an OSError that names no file
            raise Unavailable(
                Problem(
                    code="TLS_UNUSABLE",
                    message=f"the certificate {certificate} with the key {key} can not be used: {error.strerror or error}",
                    hint="both are PEM files: the certificate with its chain, and the key that fits it, without a password",
                )
            ) from error

    async def close(self) -> None:
        """Finish what is being answered, for a bounded time, and stop."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        if self._socket is not None:
            self._socket.close()


async def native_server(app: ASGIApp, home: Path, settings: ApiSettings) -> HttpServer:
    """Return the server, not started yet, of the daemon's own interface: address and certificate as they are set."""
    host, port = split_address(settings.listen)
    certificate, key = settings.tls_certificate, settings.tls_key
    if settings.tls and not certificate:
        from pcloud.cpe.certificates import self_signed

        made = await asyncio.to_thread(self_signed, home / "tls", host)
        certificate, key = str(made[0]), str(made[1])
    return HttpServer(app, host, port, certificate=certificate, key=key)
