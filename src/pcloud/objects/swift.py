"""Containers by OpenStack Swift's own API, with a token of its version 1 or of Keystone.

Every method may be called again and then changes nothing: what is there already, or gone already, is no error.
Concurrency: any task of one loop; the token is asked for by one at a time, and again when it has run out.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pcloud.objects.errors import ObjectStoreError
from pcloud.objects.settings import ObjectStoreSettings

if TYPE_CHECKING:
    import httpx2

_PAGE = 1000
_AT_ONCE = 8
_PURGE = 600.0
"""Seconds after which a container that does not become empty is given up."""
_PAUSE = 0.5


class Containers:
    """The containers of one account."""

    def __init__(self, settings: ObjectStoreSettings, key: str) -> None:
        self.settings = settings
        self._key = key
        self._token = self._url = ""
        self._client: httpx2.AsyncClient | None = None
        self._lock = asyncio.Lock()

    async def root(self) -> str:
        """Return the account's URL."""
        if not self._url:
            await self._login("")
        return self._url

    async def exists(self, name: str) -> bool:
        """Return whether there is a container of that name."""
        return (await self._call("HEAD", quote(name, safe=""), fine=(404,))).status_code != 404

    async def create(self, name: str, headers: Mapping[str, str]) -> None:
        """Make a container with these `X-Container-…` headers."""
        await self._call("PUT", quote(name, safe=""), headers=headers)

    async def change(self, name: str, headers: Mapping[str, str]) -> None:
        """Set headers of a container; an empty one is removed."""
        await self._call("POST", quote(name, safe=""), headers=headers)

    async def delete(self, name: str, *, purge: bool) -> None:
        """Remove a container, with `purge` after everything in it; ObjectStoreError `NOT_EMPTY` while something is."""
        deadline = asyncio.get_running_loop().time() + _PURGE
        while True:
            emptied = await self._purge(name) if purge else 0
            answer = await self._call("DELETE", quote(name, safe=""), fine=(404, 409))
            if answer.status_code != 409:
                return
            if not purge or asyncio.get_running_loop().time() > deadline:
                raise ObjectStoreError.of("NOT_EMPTY", f"the container '{name}' is not empty")
            if not emptied:  # listings of Swift come after the fact
                await asyncio.sleep(_PAUSE)

    async def _purge(self, name: str) -> int:
        """Remove what the next page of the listing names; return how much of it was there."""
        where = quote(name, safe="")
        answer = await self._call("GET", f"{where}?format=json&limit={_PAGE}", fine=(404,))
        if answer.status_code == 404:
            return 0
        try:
            names = [str(item["name"]) for item in json.loads(answer.content or b"[]")]
        except (ValueError, TypeError, KeyError):
            raise ObjectStoreError.of("NO_ANSWER", "the object store lists a container in words of its own") from None
        slots = asyncio.Semaphore(_AT_ONCE)

        async def remove(item: str) -> int:
            async with slots:
                said = await self._call("DELETE", f"{where}/{quote(item, safe='')}", fine=(404,))
                return said.status_code != 404

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(remove(item)) for item in names]
        except* ObjectStoreError as problems:
            first = problems.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None
        return sum(task.result() for task in tasks)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, fine: tuple[int, ...] = ()
    ) -> httpx2.Response:
        """Call the store; statuses of 300 and more that are not `fine` are ObjectStoreError."""
        for again in (True, False):
            url, token = await self.root(), self._token
            answer = await self._send(method, f"{url}/{path}", {**(headers or {}), "X-Auth-Token": token})
            if answer.status_code != 401 or not again:
                break
            await self._login(token)
        if answer.status_code >= 300 and answer.status_code not in fine:
            raise ObjectStoreError.of(
                f"HTTP_{answer.status_code}",
                f"the object store answers {method} of a container with {_words(answer.status_code)}",
            )
        return answer

    async def _login(self, stale: str) -> None:
        """Ask for a token, unless somebody did since `stale` was the one."""
        async with self._lock:
            if self._token != stale:
                return
            if self.settings.swift.cloud:
                where, url, token = await asyncio.to_thread(self._ask_keystone)
            else:
                where, url, token = await self._ask_swift()
            if urlsplit(where).scheme == "https" and urlsplit(url).scheme != "https":
                raise ObjectStoreError.of(
                    "NOT_PROTECTED", "the object store wants the token sent in the clear: its storage URL is not https"
                )
            self._url, self._token = url.rstrip("/"), token

    async def _ask_swift(self) -> tuple[str, str, str]:
        """Return who was asked, the account's URL and a token of Swift's own, version 1."""
        settings = self.settings.swift
        answer = await self._send("GET", settings.auth_url, {"X-Auth-User": settings.user, "X-Auth-Key": self._key})
        url, token = answer.headers.get("X-Storage-Url", ""), answer.headers.get("X-Auth-Token", "")
        if answer.status_code >= 300 or not url or not token:
            raise ObjectStoreError.of(
                "NOT_AUTHENTICATED",
                f"the object store gives {settings.user} no token: {_words(answer.status_code)}",
            )
        return settings.auth_url, url, token

    def _ask_keystone(self) -> tuple[str, str, str]:
        """Return who was asked, the project's URL and a token, by an entry of clouds.yaml. Blocking."""
        name = self.settings.swift.cloud
        try:
            from keystoneauth1.exceptions import ClientException
            from openstack.config import OpenStackConfig
            from openstack.exceptions import ConfigException
        except ImportError:
            sentence = "openstacksdk is not installed: the object store's Keystone can not be asked"
            raise ObjectStoreError.of("NO_ANSWER", sentence) from None
        try:
            region = OpenStackConfig(app_name="pacemaker-cloud").get_one(
                cloud=name, api_timeout=self.settings.timeout, **_trusting(self.settings.ca_file)
            )
            session = region.get_session()
            url = session.get_endpoint(
                service_type="object-store",
                interface=region.get_interface("object-store"),
                region_name=region.get_region_name("object-store"),
            )
            token = session.get_token()
        except (ClientException, ConfigException) as error:
            sentence = f"Keystone of the cloud {name} gives no token: {type(error).__name__}: {str(error)[:200]}"
            raise ObjectStoreError.of("NOT_AUTHENTICATED", sentence) from None
        if not url or not token:
            raise ObjectStoreError.of("NO_CONTAINERS", f"the catalogue of the cloud {name} has no object store")
        return str(region.config["auth"].get("auth_url", "")), str(url), str(token)

    async def _send(self, method: str, url: str, headers: Mapping[str, str]) -> httpx2.Response:
        import httpx2  # heavy, and most daemons have no object store

        try:
            if self._client is None:
                ca = self.settings.ca_file
                context = ssl.create_default_context(cafile=ca) if ca else True
                # No connection is used twice: Swift's own server (eventlet) ends answers to HEAD and 204s with the last
                # chunk of a body that they can not have, which would be taken for the next answer.
                limits = httpx2.Limits(max_keepalive_connections=0)
                self._client = httpx2.AsyncClient(
                    timeout=self.settings.timeout, follow_redirects=False, verify=context, limits=limits
                )
            return await self._client.request(method, url, headers=dict(headers))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
            detail = f"{type(error).__name__}: {error}"[:300]
            if self._key:
                detail = detail.replace(self._key, "***")
            raise ObjectStoreError.of("NO_ANSWER", f"the object store does not answer ({detail})") from None


def _trusting(ca_file: str) -> dict[str, Any]:
    return {"cacert": ca_file} if ca_file else {}


def _words(status: int) -> str:
    """Return a status in words: ours, since the store's own may hold anything."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
