"""Calls of openstacksdk: threads, one connection a thread, how often we may call, and what goes wrong as our errors.

Owns the threads and the pace: when the cloud asks to be called later (429, or 503 with `Retry-After`), or refuses the
credentials, no call of ours is sent before that time is over, whoever makes it. keystoneauth renews an expired token by
itself, once a request. Concurrency: `call` may be used by any number of tasks, at most `_THREADS` requests are in flight.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import openstack.connection
import requests
from keystoneauth1 import exceptions as keystone
from openstack import exceptions

from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure.openstack_credentials import region
from pcloud.infrastructure.openstack_settings import OpenStackSettings

CLOUD_ERRORS = (keystone.ClientException, exceptions.SDKException, requests.RequestException)
"""Everything that a call of the SDK raises when the cloud, or the way to it, is at fault."""
_THREADS = 4
_TRIES = 4
_LONGEST_WAIT = 30.0
"""Seconds that a call waits for its turn; where the cloud asks for more, calls fail at once until then."""
_LONGEST_PAUSE = 600.0
_REFUSED_PAUSE = 10.0
"""Seconds without a call after the credentials were refused: clouds lock users out who keep trying."""
_T = TypeVar("_T")


class Missing(InfrastructureError):
    """404: what was asked for does not exist (any more)."""


class Clash(InfrastructureError):
    """409: the state of the thing does not allow this just now."""


class OpenStackSession:
    """One project of one cloud."""

    def __init__(self, settings: OpenStackSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="openstack")
        self._local = threading.local()
        self._made: list[Any] = []
        self._generation = 0
        """Connections of an earlier one are not used again: their credentials were refused."""
        self._not_before = 0.0

    async def call(self, function: Callable[[Any], _T]) -> _T:
        """Run `function(connection)` in a thread. 429 is waited for and tried again a few times.

        InfrastructureUnavailable when the cloud does not answer or is broken (5xx, no token), Missing for 404, Clash
        for 409, permanent InfrastructureError for quotas and refused requests.
        """
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            await self._turn()
            try:
                return await loop.run_in_executor(self._threads, self._run, function)
            except CLOUD_ERRORS as error:
                attempt += 1
                pause = _pause(error, attempt)
                self._not_before = max(self._not_before, loop.time() + pause)
                if _status(error) == 401:
                    self._generation += 1  # clouds.yaml may have been mended: it is read again
                again = _is_overload(error) and pause <= _LONGEST_WAIT and attempt < _TRIES
                if not again:
                    raise translate(error) from error

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        while (wait := self._not_before - loop.time()) > 0:
            if wait > _LONGEST_WAIT:
                raise InfrastructureUnavailable(f"OpenStack asks not to be called for another {wait:.0f} s")
            await asyncio.sleep(wait)

    def close(self) -> None:
        """End the threads; requests in flight end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for connection in self._made:
            connection.close()

    def _run(self, function: Callable[[Any], _T]) -> _T:
        current = self._generation
        generation, connection = getattr(self._local, "connection", (-1, None))
        if generation != current:
            connection = openstack.connection.Connection(config=region(self._settings))
            self._local.connection = (current, connection)
            self._made.append(connection)
        return function(connection)


def translate(error: Exception) -> InfrastructureError:
    """Return our error for one of the SDK's. Messages of theirs hold no credentials, only names, numbers and addresses."""
    text = " ".join(str(getattr(error, "details", "") or error).split())[:500]
    if isinstance(error, exceptions.ConfigException):
        return InfrastructureUnavailable(f"there are no usable credentials: {text}")
    status = _status(error)
    lowered = text.lower()
    match status:
        case 404:
            return Missing(text)
        case 409 if "possible networks" in lowered:
            return InfrastructureError(f"{text} Name one as `network` in the settings.", permanent=True)
        case 409 if "quota exceeded" in lowered:  # Neutron's
            return InfrastructureError(f"the quota is used up: {text}", permanent=True)
        case 409:
            return Clash(text)
        case 403 | 413 if "quota" in lowered or "exceeded" in lowered:
            return InfrastructureError(f"the quota is used up: {text}", permanent=True)
        case 401:
            return InfrastructureUnavailable(f"OpenStack refused the credentials: {text}")
        case 429:
            return InfrastructureUnavailable(f"OpenStack asks to be called less often: {text}")
        case int() if 400 <= status < 500:
            return InfrastructureError(text, permanent=True)
        case _:
            return InfrastructureUnavailable(f"OpenStack does not answer: {text}")


def _status(error: Exception) -> int | None:
    return getattr(error, "status_code", None) or getattr(error, "http_status", None)


def _is_overload(error: Exception) -> bool:
    """Tell whether the request was refused for its haste alone, and not carried out."""
    return _status(error) == 429 or (_status(error) == 413 and _header(error) != "")


def _pause(error: Exception, attempt: int) -> float:
    """Seconds for which nothing more may be sent after an error."""
    status = _status(error)
    if status == 401:
        return _REFUSED_PAUSE
    if not _is_overload(error) and status != 503:
        return 0.0
    asked = retry_after(_header(error))
    if asked is None:
        asked = 2.0**attempt if _is_overload(error) else 0.0
    return min(asked, _LONGEST_PAUSE)


def _header(error: Exception) -> str:
    response = getattr(error, "response", None)
    return "" if response is None else str(getattr(response, "headers", {}).get("Retry-After", ""))


def retry_after(header: str) -> float | None:
    """Return the seconds that a `Retry-After` asks for, in either of its forms (RFC 9110, 10.2.3); None when it holds
    neither."""
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
