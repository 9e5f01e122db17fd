"""Version discovery and the minimal identity catalogue that openstacksdk needs to find the Heat API."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pcloud.api.aws.app import read_body
from pcloud.api.aws.query import QueryError
from pcloud.api.heat.requests import failure


def identity_routes(authenticate: Callable[[str], str | None]) -> list[Route]:
    """Return the routes of version discovery and of an identity service with a token in, the same token out.

    `authenticate` gives the role of a token or None.
    """

    async def versions(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        entry = {"id": "v1.0", "status": "CURRENT", "links": [{"rel": "self", "href": f"{base}/v1/"}]}
        return JSONResponse({"versions": [entry]}, status_code=300)

    async def identity(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        links = [{"rel": "self", "href": f"{base}/identity/v3/"}]
        entry = {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": links,
            "media-types": [],
        }
        if request.url.path.rstrip("/").endswith("/v3"):
            return JSONResponse({"version": entry})
        return JSONResponse({"versions": {"values": [entry]}}, status_code=300)

    async def tokens(request: Request) -> Response:
        try:
            body = json.loads(await read_body(request, 64 * 1024))
            given = body["auth"]["identity"]
            secret = given["password"]["user"]["password"] if "password" in given["methods"] else given["token"]["id"]
        except (ValueError, KeyError, TypeError, QueryError):
            return failure(400, "BadRequest", "the request is not one of Keystone v3")
        if not isinstance(secret, str) or authenticate(secret) is None:
            return failure(401, "Unauthorized", "the password must be a token of the native API")
        base = str(request.base_url).rstrip("/")
        now = datetime.datetime.now(datetime.UTC)

        def service(kind: str, url: str) -> dict[str, Any]:
            endpoints = [
                {"id": f"{kind}-{face}", "interface": face, "region": "local", "region_id": "local", "url": url}
                for face in ("public", "internal", "admin")
            ]
            return {"id": kind, "type": kind, "name": kind, "endpoints": endpoints}

        token = {
            "methods": ["password"],
            "user": {"id": "admin", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "admin", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "admin", "name": "admin"}],
            "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "expires_at": (now + datetime.timedelta(hours=24)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "catalog": [service("orchestration", f"{base}/v1/admin"), service("identity", f"{base}/identity/v3")],
        }
        return JSONResponse({"token": token}, status_code=201, headers={"X-Subject-Token": secret})

    return [
        Route("/", versions),
        Route("/v1", versions),
        Route("/v1/", versions),
        Route("/identity", identity),
        Route("/identity/v3", identity),
        Route("/identity/v3/", identity),
        Route("/identity/v3/auth/tokens", tokens, methods=["POST"]),
    ]
