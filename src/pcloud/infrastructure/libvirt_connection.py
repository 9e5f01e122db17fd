"""The connection to libvirtd: threads for its blocking calls, its events, its errors as ours.

Owns the process-wide libvirt event loop (a thread of its own: libvirt allows one per process, for ever, and its
keep-alive must go on when asyncio's loop is busy) and one connection that is opened again when it went. Concurrency:
`call` may be used by any number of tasks; at most `_THREADS` calls run at once, and events arrive in asyncio's loop. A try
to connect has a thread of its own, and all who wait for a connection wait for the same one: a libvirtd that accepts and then
says nothing, or a host that went in that moment, holds a try for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import libvirt

from pcloud.environment.infrastructure import InfrastructureError, InfrastructureUnavailable

_THREADS = 8
_TRIES = 8
"""Tries to connect that may be without an answer at once."""
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


class _Session:
    """One open connection. It is closed when it was dropped and no thread uses it any more, for libvirt frees it under
    whoever does. May be used from any thread."""

    def __init__(self, connection: Any, event: int) -> None:
        self._connection = connection
        self._event = event
        self._lock = threading.Lock()
        self._users = 0
        self._dropped = False

    def use(self, function: Callable[[Any], _T]) -> _T:
        """Return `function(connection)`. InfrastructureUnavailable when the connection was dropped before."""
        with self._lock:
            if self._dropped:
                raise InfrastructureUnavailable("the connection to libvirtd was closed")
            self._users += 1
        try:
            return function(self._connection)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._dropped and not self._users
        if last:
            self._close()

    def drop(self) -> None:
        """Have it closed: now, or by who uses it last. Returns at once."""
        with self._lock:
            now = not self._dropped and not self._users
            self._dropped = True
        if now:
            threading.Thread(target=self._close, daemon=True, name="libvirt-close").start()

    def _close(self) -> None:
        # What is registered keeps the connection open: each refers to it.
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.domainEventDeregisterAny(self._event)
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()


class LibvirtConnection:
    """One libvirtd, reached whenever it is there."""

    def __init__(self, uri: str, *, timeout: float) -> None:
        self._uri = uri
        self._timeout = timeout
        self._session: _Session | None = None
        self._opening: asyncio.Future[_Session] | None = None
        self._opening_since = 0.0
        self._tries = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="libvirt")
        self._changing: dict[str, Future[Any]] = {}
        self._listener: Listener | None = None
        self._closed = False
        self.generation = 0
        """Counts the connections made: another number means that events may have been missed."""

    def listen(self, listener: Listener | None) -> None:
        """Set who hears of domains' life-cycle events, from now on and on later connections. Called in asyncio's loop."""
        self._listener = listener

    async def call(self, function: Callable[[Any], _T], *, timeout: float | None = None, changes: str = "") -> _T:
        """Run `function(connection)` in a thread and return its result. `changes` names what it changes, if anything.

        InfrastructureUnavailable when libvirtd does not answer, InfrastructureError when it refuses. A function that
        did not end in time goes on in its thread; libvirt has no way to stop it. Until it ends, others that change the
        same are refused as unavailable: a guest that is destroyed shall not be started by what was given up.
        """
        limit = timeout or self._timeout
        session = await self._open(limit)
        before = self._changing.get(changes)
        if before is not None and not before.done():
            raise InfrastructureUnavailable(f"libvirtd at {self._uri} still works on an earlier call for {changes}")
        work = self._threads.submit(session.use, function)
        if changes:
            self._changing[changes] = work
        try:
            async with asyncio.timeout(limit):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise self._silent(limit) from None
        except libvirt.libvirtError as error:
            raise self._translate(error, session) from error
        finally:
            if work.done() and self._changing.get(changes) is work:
                del self._changing[changes]

    async def raw(self, function: Callable[[Any], _T], *, timeout: float) -> _T:
        """As `call`, in a thread of its own and with TimeoutError: for calls that a hung guest may hold for ever."""
        session = await self._open(timeout)
        try:
            async with asyncio.timeout(timeout):
                return await _in_own_thread(lambda: session.use(function), "libvirt-slow")
        except libvirt.libvirtError as error:
            raise self._translate(error, session) from error

    async def reach(self, timeout: float) -> None:
        """Return when there is a connection. InfrastructureUnavailable after that time; the try to connect goes on."""
        await self._open(timeout)

    async def close(self) -> None:
        """Close the connection; domains go on."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            session.drop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def connected(self) -> bool:
        """Whether there was a connection when it was last used."""
        return self._session is not None

    async def _open(self, limit: float) -> _Session:
        """Return the connection, opened where there is none, within `limit` seconds or the connection's own time-out."""
        if self._closed:
            raise InfrastructureError("the libvirt driver was closed")
        if self._session is None:
            limit = min(limit, self._timeout)
            try:
                async with asyncio.timeout(limit):
                    await asyncio.shield(self._try())
            except TimeoutError:
                raise self._silent(limit) from None
            except libvirt.libvirtError as error:
                raise InfrastructureUnavailable(f"libvirtd at {self._uri} does not answer: {error}") from error
        if self._session is None:
            raise InfrastructureUnavailable(f"libvirtd at {self._uri} went away")
        return self._session

    def _try(self) -> asyncio.Future[_Session]:
        """Return the try to connect that is under way; another is begun beside one that had its time, for a host that came
        back knows nothing of it."""
        loop = asyncio.get_running_loop()
        old = self._opening is not None and loop.time() - self._opening_since > self._timeout
        if self._opening is None or (old and self._tries < _TRIES):
            self._tries += 1
            self._opening_since = loop.time()
            self._opening = _in_own_thread(lambda: self._connect(loop), "libvirt-connect")
            self._opening.add_done_callback(self._tried)
        return self._opening

    def _tried(self, opening: asyncio.Future[_Session]) -> None:
        self._tries -= 1
        if self._opening is opening:
            self._opening = None
        if opening.cancelled() or opening.exception() is not None:
            return  # whoever waited was told
        if self._closed or self._session is not None:
            opening.result().drop()
        else:
            self._session = opening.result()
            self.generation += 1

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Session:
        _start_event_loop()
        connection = open_unattended(self._uri)
        with contextlib.suppress(libvirt.libvirtError):  # drivers without a socket have none
            connection.setKeepAlive(*_KEEPALIVE)
        opened: list[_Session] = []

        def later(callback: Callable[..., None], *arguments: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(callback, *arguments)

        def lifecycle(_connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
            later(self._event, domain.name(), event, detail)

        def closed(_connection: Any, _reason: int, _opaque: Any) -> None:
            later(lambda: self._lost(*opened))

        number = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        opened.append(_Session(connection, number))
        connection.registerCloseCallback(closed, None)
        return opened[0]

    def _event(self, name: str, event: int, detail: int) -> None:
        if self._listener is not None:
            self._listener(name, event, detail)

    def _lost(self, session: _Session) -> None:
        if self._session is session:
            self._session = None
        session.drop()

    def _silent(self, limit: float) -> InfrastructureUnavailable:
        return InfrastructureUnavailable(f"libvirtd at {self._uri} did not answer within {limit:g} seconds")

    def _translate(self, error: libvirt.libvirtError, session: _Session) -> InfrastructureError:
        code = error.get_error_code()
        away = code in _AWAY or error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        if away:
            self._lost(session)
            return InfrastructureUnavailable(f"libvirtd at {self._uri} went away: {error}")
        return InfrastructureError(str(error), permanent=code in _PERMANENT)


def open_unattended(uri: str) -> Any:
    """Open a connection that never asks a person: names and passwords (SASL) come from libvirt's own `auth.conf`, or the
    file that `authfile` in the URI names, which nobody else may read. Blocks; libvirtError where it is refused."""
    for path in parse_qs(urlsplit(uri).query).get("authfile", ()):
        if problem := _unfit(path):  # libvirt itself would say: the cause is unknown
            libvirt.virResetLastError()
            raise libvirt.libvirtError(f"the file of passwords {path} {problem}")
    asked_for = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
    return libvirt.openAuth(unattended(uri), [asked_for, lambda _credentials, _opaque: -1, None], 0)


def _unfit(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        return f"can not be read: {error.strerror}"
    return f"can be read by others: chmod 600 {path}" if stat.S_IMODE(mode) & 0o077 else ""


def unattended(uri: str) -> str:
    """Return the URI with what keeps `ssh`, where libvirt goes by it, from asking a person who is not there."""
    scheme, _, rest = uri.partition(":")
    if not scheme.endswith("+ssh") or "no_tty=" in rest:
        return uri
    return f"{uri}{'&' if '?' in rest else '?'}no_tty=1"


def _in_own_thread(work: Callable[[], _T], name: str) -> asyncio.Future[_T]:
    """Begin `work` in a thread of its own, which nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - handed to the waiter, whatever it is
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True, name=name).start()
    return future


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
