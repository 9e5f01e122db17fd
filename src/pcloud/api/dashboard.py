"""`/ui/`: the dashboard's files, built from `frontend/` into the folder `static`; without them, how to build them.

The files hold nothing that is secret and are served without a token; all that the page shows it asks from `/v1` with one.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
ABSENT = """\
The dashboard is not built. In a checkout of pacemaker-cloud: make dashboard

The same facts on the command line: pcloud get, pcloud status NAME, pcloud events -f, pcloud explain NAME
"""


class Guarded:
    """Puts the headers on that keep other pages and foreign scripts out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers on the answer. What has a digest in its name may be kept for ever."""
        lasting = "/assets/" in scope.get("path", "")

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                fine = message["status"] == 200
                headers["Cache-Control"] = "public, max-age=31536000, immutable" if lasting and fine else "no-cache"
            await send(message)

        await self._app(scope, receive, answer)


def files(folder: Path = STATIC) -> ASGIApp:
    """Return the application that serves the built files of a folder."""
    return Guarded(StaticFiles(directory=folder, html=True))


def install(app: FastAPI, folder: Path = STATIC) -> None:
    """Serve the dashboard below `/ui`, and lead there from `/`."""

    async def front(request: Request) -> Response:
        return RedirectResponse("/ui/")

    async def absent(request: Request) -> Response:
        return PlainTextResponse(ABSENT, status_code=404)

    app.add_route("/", front, include_in_schema=False)
    if (folder / "index.html").is_file():
        app.mount("/ui", files(folder))
    else:
        app.add_route("/ui", absent, include_in_schema=False)
        app.add_route("/ui/{path:path}", absent, include_in_schema=False)
