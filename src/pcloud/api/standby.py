"""What a daemon answers that does not own its store: 503 to everything, with who does.

Without asking for a token: tokens are in the store. It tells the owner's host and address, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from pcloud.api.errors import refusal
from pcloud.api.middleware import BodyLimit, HostGuard
from pcloud.api.server import HttpServer, native_server
from pcloud.cpe.settings import ApiSettings
from pcloud.model.errors import Unavailable

RETRY = "2"
"""Seconds after which to ask again, for clients that heed it."""


def make_app(settings: ApiSettings, why: Callable[[], Unavailable]) -> ASGIApp:
    """Return the application; `why` tells who owns the store now."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            error = why()
            await refusal(error.status, error.problems, {"Retry-After": RETRY})(scope, receive, send)

    return HostGuard(BodyLimit(answer, limit=settings.body_limit), allowed=settings.allowed_hosts)


async def start(home: Path, settings: ApiSettings, why: Callable[[], Unavailable]) -> HttpServer:
    """Serve it where the daemon's own interface will be; Unavailable when that address can not be had."""
    server = await native_server(make_app(settings, why), home, settings)
    await server.start()
    return server
