"""What every request passes before anything looks at it: the Host header and the size of the body. Plain ASGI."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pcloud.api.errors import refusal
from pcloud.model.errors import Problem

_DRAINED = 64 * 1024 * 1024
_DRAIN_SECONDS = 5.0


class HostGuard:
    """Refuses requests for a host name that is not ours: a web page whose name was re-bound to our address could else
    speak to us with its visitor's browser. IP addresses can not be re-bound and pass."""

    def __init__(self, app: ASGIApp, *, allowed: Iterable[str]) -> None:
        self._app = app
        names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *(one.lower() for one in allowed)}
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse with 421."""
        if scope["type"] == "http":
            values = [value for name, value in scope["headers"] if name == b"host"]
            if len(values) > 1 or (values and not self._ours(values[0].decode("latin-1"))):
                problem = Problem(
                    code="UNKNOWN_HOST",
                    message="the Host header does not name this daemon",
                    hint="use its IP address, or add the name to `allowed_hosts` in [api] of pcloud.toml",
                )
                await refusal(421, [problem])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _ours(self, header: str) -> bool:
        host = header.rsplit(":", 1)[0] if not header.endswith("]") and header.rpartition(":")[2].isdigit() else header
        host = host.lower().rstrip(".")
        if host in self._names or host.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True


class BodyLimit:
    """Refuses bodies above a size, whether announced or not."""

    def __init__(self, app: ASGIApp, *, limit: int, streamed: Callable[[Scope], bool] = lambda _: False) -> None:
        """`streamed` tells which requests are read piece by piece by a handler that bounds them itself."""
        self._app = app
        self._limit = limit
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse with 413."""
        if scope["type"] != "http" or self._streamed(scope):
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > self._limit):
                await self._refuse(scope, receive, send)
                return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    await _drain(message, receive)
                    raise HTTPException(413, f"a request may hold {self._limit} bytes at most")
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _drain({"type": "http.request", "more_body": True}, receive)
        problem = Problem(code="TOO_LARGE", message=f"a request may hold {self._limit} bytes at most")
        await refusal(413, [problem], {"Connection": "close"})(scope, receive, send)


async def _drain(message: Message, receive: Receive) -> None:
    """Read on for a while without keeping anything: a client that is still sending would else never see the answer."""
    left = _DRAINED
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while message["type"] == "http.request" and message.get("more_body") and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
    except TimeoutError:
        return
