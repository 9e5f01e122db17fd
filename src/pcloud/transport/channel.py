"""One TLS connection to a guest: bytes in and out, frames, nothing of what they mean.

Owns: socket, TLS session, decoder and output queue of one connection. Concurrency: one event loop (`add_reader`,
`add_writer`), no thread and no task a connection. Small: an idle channel holds no buffer; the receive buffer is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from pcloud.environment.transport import TransportError
from pcloud.wire import frame, gnutls

_RECORDS_A_TURN = 64
MAX_QUEUED = 64 * 1024 * 1024

_shared = gnutls.buffer


class Buffer:
    """The receive buffer of all channels of a loop, made when first needed."""

    __slots__ = ("_memory", "_view")

    def __init__(self) -> None:
        self._memory = _shared()
        self._view = memoryview(self._memory).cast("B")

    def receive(self, session: gnutls.Session) -> bytes:
        """Receive one record; b"" when there is none for now."""
        size = session.receive_into(self._memory)
        return bytes(self._view[:size]) if size else b""


class Channel:
    """A connected, encrypted channel. `on_payload` gets each message's bytes; `on_end` why it ended (once)."""

    __slots__ = (
        "_buffer",
        "_decoder",
        "_loop",
        "_number",
        "_out",
        "_queued",
        "_session",
        "_socket",
        "_writing",
        "on_end",
        "on_payload",
        "quick",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: socket.socket, session: gnutls.Session, buffer: Buffer
    ) -> None:
        self._loop = loop
        self._socket: socket.socket | None = connection
        self._session = session
        self._buffer = buffer
        self._decoder = frame.Decoder()
        self._out: list[bytes] | None = None
        self._queued = 0
        self._number = 0
        self._writing = False
        self.quick = False
        """Whether an answer is awaited: then the kernel is told to acknowledge at once, without which Pacemaker's own
        daemon (Nagle on) answers 40 ms later."""
        self.on_payload: Callable[[bytes], None] = _ignore
        self.on_end: Callable[[TransportError], None] = _ignore_end

    def start(self) -> None:
        """Begin to receive; callbacks come from now on."""
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            if self._session.pending:
                self._loop.call_soon(self._readable)

    @property
    def open(self) -> bool:
        """Whether it still stands."""
        return self._socket is not None

    @property
    def incomplete(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._decoder.incomplete

    def send(self, payload: bytes) -> None:
        """Queue one message and send what the socket takes; TransportError when the channel is closed."""
        if self._socket is None:
            raise TransportError("CLOSED", "the connection is closed")
        self._number += 1
        try:
            parts = frame.encode(payload, self._number)
        except frame.FrameError as error:
            raise TransportError("TOO_LARGE", str(error)) from error
        if self._out is None:
            self._out = []
        self._out += parts
        self._queued += len(parts[0]) + len(parts[1])
        if self._queued > MAX_QUEUED:
            self.end(TransportError("NOT_READING", "the guest does not read what we send"))
            raise TransportError("NOT_READING", "the guest does not read what we send")
        self._flush()

    def close(self) -> None:
        """Close without a word to `on_end`."""
        self._release(say_bye=True)

    def end(self, error: TransportError) -> None:
        """Close because of an error, and tell it."""
        if self._socket is not None:
            on_end = self.on_end
            self._release(say_bye=False)
            on_end(error)

    def _release(self, *, say_bye: bool) -> None:
        connection, self._socket = self._socket, None
        if connection is None:
            return
        self._loop.remove_reader(connection.fileno())
        if self._writing:
            self._loop.remove_writer(connection.fileno())
        if say_bye:
            self._session.say_bye()
        self._session.free()
        connection.close()
        self._out = None
        self.on_payload, self.on_end = _ignore, _ignore_end

    def _readable(self) -> None:
        for _ in range(_RECORDS_A_TURN):
            if self._socket is None:
                return
            if self.quick:
                with contextlib.suppress(OSError):  # it may have been reset by now: receiving tells
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            try:
                data = self._buffer.receive(self._session)
                if not data:
                    return
                payloads = self._decoder.feed(data)
            except gnutls.TlsClosed as closed:
                self.end(TransportError("CLOSED", f"{closed}"))
                return
            except gnutls.TlsError as error:
                self.end(TransportError("BROKEN", str(error)))
                return
            except frame.FrameError as error:
                self.end(TransportError(error.code, str(error)))
                return
            for payload in payloads:
                self.on_payload(payload)
        if self._socket is not None:
            self._loop.call_soon(self._readable)

    def _flush(self) -> None:
        out = self._out
        try:
            while out and self._socket is not None:
                sent = self._session.send(out[0])
                if sent == 0:
                    if not self._writing:
                        self._writing = True
                        self._loop.add_writer(self._socket.fileno(), self._flush)
                    return
                self._queued -= sent
                if sent == len(out[0]):
                    del out[0]
                else:
                    out[0] = out[0][sent:]
        except gnutls.TlsError as error:
            # Not from inside `send`: its caller still holds the message's bookkeeping.
            self._loop.call_soon(self.end, TransportError("BROKEN", str(error)))
            out = None
        self._out = None
        if self._writing and self._socket is not None:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())


def _ignore(_payload: bytes) -> None:
    """No receiver (any more)."""


def _ignore_end(_error: TransportError) -> None:
    """Nobody to tell (any more)."""


async def _resolve(loop: asyncio.AbstractEventLoop, address: str, port: int) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except OSError:  # a name: looked up in a thread, since that may take long
        return list(await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM))


async def open_channel(
    address: str, port: int, credentials: gnutls.Credentials, buffer: Buffer, *, source: str = ""
) -> Channel:
    """Connect and shake hands. Errors: TransportError with code UNREACHABLE, REFUSED or TLS. Cancelling cleans up."""
    loop = asyncio.get_running_loop()
    try:
        found = await _resolve(loop, address, port)
    except OSError as error:
        raise TransportError("UNREACHABLE", f"{address}: {error.strerror or error}") from error
    family, kind, protocol, _name, where = found[0]
    connection = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A guest that is cut off is noticed by the kernel, at no cost to us, within some 15 s even when nothing is sent.
        for option, value in ((socket.TCP_KEEPIDLE, 6), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
        if source:
            connection.bind((source, 0))
        try:
            await loop.sock_connect(connection, where)
        except ConnectionRefusedError as error:
            raise TransportError("REFUSED", f"{address}:{port} refuses connections") from error
        except OSError as error:
            raise TransportError("UNREACHABLE", f"{address}:{port}: {error.strerror or error}") from error
        session = gnutls.Session(credentials, connection.fileno())
        await _shake_hands(loop, connection, session)
    except gnutls.TlsError as error:
        connection.close()
        raise TransportError("TLS", f"{address}:{port}: {error}") from error
    except BaseException:  # cancelled, too: the socket may not stay open
        connection.close()
        raise
    return Channel(loop, connection, session, buffer)


async def _shake_hands(loop: asyncio.AbstractEventLoop, connection: socket.socket, session: gnutls.Session) -> None:
    while True:
        wanted = session.handshake()
        if not wanted:
            return
        ready: asyncio.Future[None] = loop.create_future()
        fileno = connection.fileno()

        def wake(future: asyncio.Future[None] = ready) -> None:
            if not future.done():
                future.set_result(None)

        if wanted == "read":
            loop.add_reader(fileno, wake)
        else:
            loop.add_writer(fileno, wake)
        try:
            await ready
        finally:
            if wanted == "read":
                loop.remove_reader(fileno)
            else:
                loop.remove_writer(fileno)
