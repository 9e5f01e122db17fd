"""Calls of openstacksdk: threads, one connection a thread, and what goes wrong as our errors.

Owns the threads. keystoneauth renews an expired token by itself, once a request; what remains is mapped here.
Concurrency: `call` may be used by any number of tasks, at most `_THREADS` requests are in flight.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import openstack
import requests
from keystoneauth1 import exceptions as keystone
from openstack import exceptions

from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure.openstack_settings import OpenStackSettings

_THREADS = 4
_TRIES = 4
_LONGEST_WAIT = 30.0
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

    async def call(self, function: Callable[[Any], _T]) -> _T:
        """Run `function(connection)` in a thread. 429 is waited for and tried again a few times.

        InfrastructureUnavailable when the cloud does not answer or is broken (5xx, no token), Missing for 404, Clash
        for 409, permanent InfrastructureError for quotas and refused requests.
        """
        loop = asyncio.get_running_loop()
        for attempt in range(_TRIES):
            try:
                return await loop.run_in_executor(self._threads, self._run, function)
            except exceptions.HttpException as error:
                wait = _retry_after(error, attempt)
                if wait is None or attempt == _TRIES - 1:
                    raise translate(error) from error
                await asyncio.sleep(wait)
            except (
                keystone.ClientException,
                exceptions.SDKException,
                requests.RequestException,
            ) as error:
                raise translate(error) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the threads; requests in flight end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for connection in self._made:
            connection.close()

    def _run(self, function: Callable[[Any], _T]) -> _T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            settings = self._settings
            connection = openstack.connect(
                cloud=settings.cloud or None,
                region_name=settings.region or None,
                api_timeout=settings.call_timeout,
                app_name="pacemaker-cloud",
            )
            self._local.connection = connection
            self._made.append(connection)
        return function(connection)


def translate(error: Exception) -> InfrastructureError:
    """Return our error for one of the SDK's. Messages of theirs hold no credentials, only names, numbers and addresses."""
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    text = " ".join(str(getattr(error, "details", "") or error).split())[:500]
    match status:
        case 404:
            return Missing(text)
        case 409:
            return Clash(text)
        case 403 | 413 if "uota" in text:
            return InfrastructureError(f"the quota is used up: {text}", permanent=True)
        case 401:
            return InfrastructureUnavailable(f"OpenStack refused the credentials: {text}")
        case 429:
            return InfrastructureUnavailable(f"OpenStack asks to be called less often: {text}")
        case int() if 400 <= status < 500:
            return InfrastructureError(text, permanent=True)
        case _:
            return InfrastructureUnavailable(f"OpenStack does not answer: {text}")


def _retry_after(error: exceptions.HttpException, attempt: int) -> float | None:
    if getattr(error, "status_code", None) != 429:
        return None
    header = getattr(error.response, "headers", {}).get("Retry-After", "") if error.response is not None else ""
    wait = float(header) if str(header).isdigit() else 2.0**attempt
    return min(wait, _LONGEST_WAIT)
