"""The connection to libvirtd: threads for its blocking calls, its events, its errors as ours.

Owns the process-wide libvirt event loop (a thread of its own: libvirt allows one per process, for ever, and its
keep-alive must go on when asyncio's loop is busy) and one connection that is opened again when it went. Concurrency:
`call` may be used by any number of tasks; at most `_THREADS` calls run at once, and events arrive in asyncio's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt

from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable

_THREADS = 8
_KEEPALIVE = (5, 3)
"""Seconds between keep-alives, and how many may stay unanswered: a hung libvirtd is noticed after 20 seconds."""
_T = TypeVar("_T")
_loop_lock = threading.Lock()
_loop_thread: threading.Thread | None = None

_PERMANENT = {
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_XML_ERROR,
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_INVALID_ARG,
}
_AWAY = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}

Listener = Callable[[str, int, int], None]
"""Called with a domain's name, the libvirt event and its detail."""


class LibvirtConnection:
    """One libvirtd, reached whenever it is there."""

    def __init__(self, uri: str, *, timeout: float) -> None:
        self._uri = uri
        self._timeout = timeout
        self._connection: Any = None
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="libvirt")
        self._listener: Listener | None = None
        self._closed = False
        self.generation = 0
        """Counts the connections made: another number means that events may have been missed."""

    def listen(self, listener: Listener | None) -> None:
        """Set who hears of domains' life-cycle events, from now on and on later connections. Called in asyncio's loop."""
        self._listener = listener

    async def call(self, function: Callable[[Any], _T], *, timeout: float | None = None) -> _T:
        """Run `function(connection)` in a thread and return its result.

        InfrastructureUnavailable when libvirtd does not answer, InfrastructureError when it refuses. A function that
        did not end in time goes on in its thread; libvirt has no way to stop it.
        """
        connection = await self._open()
        try:
            return await self._in_thread(function, connection, timeout=timeout)
        except libvirt.libvirtError as error:
            raise await self._translate(error, connection) from error

    async def raw(self, function: Callable[[Any], _T], *, timeout: float) -> _T:
        """As `call`, in a thread of its own and with TimeoutError: for calls that a hung guest may hold for ever."""
        connection = await self._open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        def work() -> None:
            result, failure = None, None
            try:
                result = function(connection)
            except Exception as error:  # noqa: BLE001 - handed to the waiter, whatever it is
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result, failure)

        threading.Thread(target=work, daemon=True, name="libvirt-slow").start()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except libvirt.libvirtError as error:
            raise await self._translate(error, connection) from error

    async def close(self) -> None:
        """Close the connection; domains go on."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, _close, connection)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def connected(self) -> bool:
        """Whether there was a connection when it was last used."""
        return self._connection is not None

    async def _open(self) -> Any:
        if self._closed:
            raise InfrastructureError("the libvirt driver was closed")
        if self._connection is not None:
            return self._connection
        async with self._opening:
            if self._connection is None:
                _start_event_loop()
                try:
                    connection = await self._in_thread(lambda _: _connect(self._uri), None)
                except libvirt.libvirtError as error:
                    raise InfrastructureUnavailable(f"libvirtd at {self._uri} does not answer: {error}") from error
                loop = asyncio.get_running_loop()
                try:
                    await self._in_thread(lambda c: self._subscribe(c, loop), connection)
                except libvirt.libvirtError as error:
                    raise InfrastructureUnavailable(f"libvirtd at {self._uri} went away: {error}") from error
                self._connection = connection
                self.generation += 1
        return self._connection

    def _subscribe(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        def later(callback: Callable[..., None], *arguments: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(callback, *arguments)

        def lifecycle(_connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
            later(self._event, domain.name(), event, detail)

        def closed(_connection: Any, _reason: int, _opaque: Any) -> None:
            later(self._lost, connection)

        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        connection.registerCloseCallback(closed, None)

    def _event(self, name: str, event: int, detail: int) -> None:
        if self._listener is not None:
            self._listener(name, event, detail)

    def _lost(self, connection: Any) -> None:
        if self._connection is connection:
            self._connection = None

    async def _in_thread(self, function: Callable[[Any], _T], connection: Any, *, timeout: float | None = None) -> _T:
        limit = timeout or self._timeout
        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(self._threads, function, connection)
        except TimeoutError:
            raise InfrastructureUnavailable(
                f"libvirtd at {self._uri} did not answer within {limit:g} seconds"
            ) from None

    async def _translate(self, error: libvirt.libvirtError, connection: Any) -> InfrastructureError:
        code = error.get_error_code()
        away = code in _AWAY or error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        if away:
            self._lost(connection)
            return InfrastructureUnavailable(f"libvirtd at {self._uri} went away: {error}")
        return InfrastructureError(str(error), permanent=code in _PERMANENT)


def _connect(uri: str) -> Any:
    connection = libvirt.open(uri)
    with contextlib.suppress(libvirt.libvirtError):  # drivers without a socket have none
        connection.setKeepAlive(*_KEEPALIVE)
    return connection


def _close(connection: Any) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        connection.unregisterCloseCallback()
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()


def _start_event_loop() -> None:
    """Start libvirt's event loop, once per process."""
    global _loop_thread
    with _loop_lock:
        if _loop_thread is not None:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print every error
        libvirt.virEventRegisterDefaultImpl()

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        # A time-out that fires for ever wakes the loop, so that registrations from other threads are never overlooked.
        libvirt.virEventAddTimeout(1000, lambda _timer, _opaque: None, None)
        _loop_thread = threading.Thread(target=run, daemon=True, name="libvirt-events")
        _loop_thread.start()
