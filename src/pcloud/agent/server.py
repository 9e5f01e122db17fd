"""Connections: listens, does TLS, cuts frames, and queues what is to be sent. What a message means is `dispatch`'s.

Owns: the listening socket and every client's socket, session, decoder and output queue. Callbacks of the loop;
nothing waits, and a client that misbehaves (garbage, silence in the handshake, a reader that does not read) costs only
its own connection.
"""

from __future__ import annotations

import os

from pcloud.agent import system
from pcloud.agent.loop import READ, WRITE, Loop, Timer, log
from pcloud.wire import frame, gnutls
from pcloud.wire.messages import Element, MessageError, parse

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

HANDSHAKE_TIMEOUT = 10.0
FRAME_TIMEOUT = 60.0
"""Seconds a client may take to send one frame completely."""
MAX_STRANGERS = 64
"""Connections that have not proved themselves yet."""
MAX_QUEUED = 64 * 1024 * 1024
"""Bytes that may wait for a client that does not read."""
RECORDS_A_TURN = 64


class Client:
    """One connection."""

    __slots__ = (
        "_decoder",
        "_events",
        "_frame_timer",
        "_out",
        "_queued",
        "_server",
        "_session",
        "_socket",
        "_timer",
        "address",
        "id",
        "name",
        "provider",
        "ready",
    )

    def __init__(self, server: Server, connection: system.socket, address: str) -> None:
        self._server = server
        self._socket: system.socket | None = connection
        self._session: gnutls.Session | None = gnutls.Session(server.credentials, connection.fileno())
        self._decoder = frame.Decoder()
        self._out: list[bytes] = []
        self._queued = 0
        self._events = 0
        self._frame_timer: Timer | None = None
        self.address = address
        self.id = new_id()
        self.name = ""
        self.ready = False
        self.provider = False
        """Whether it signed on as a relay for cluster IPC: a cluster's controller."""
        self._timer: Timer | None = server.loop.later(HANDSHAKE_TIMEOUT, self._too_slow)
        self._want(READ)

    @property
    def connected(self) -> bool:
        """Whether messages can still be sent."""
        return self._socket is not None

    def send(self, message: Element, number: int, kind: str) -> None:
        """Queue a message (`reply` or `notify`) and send what the socket takes."""
        if self._socket is None or not self.ready:
            return
        message.attributes["lrmd_remote_msg_id"] = str(number)
        message.attributes["lrmd_remote_msg_type"] = kind
        try:
            parts = frame.encode(message.to_bytes(), self._server.next_number())
        except frame.FrameError as error:
            log(3, f"a message for {self.address} can not be sent: {error}")
            return
        self._out.extend(parts)
        self._queued += len(parts[0]) + len(parts[1])
        if self._queued > MAX_QUEUED:
            self.drop("does not read what we send")
            return
        self._flush()

    def drop(self, why: str, level: int = 5) -> None:
        """Close the connection at once."""
        connection = self._socket
        if connection is None:
            return
        self._socket = None
        log(level, f"client {self.name or self.address} {why}")
        for timer in (self._timer, self._frame_timer):
            if timer is not None:
                timer.cancel()
        self._server.loop.forget(connection.fileno())
        if self._session is not None:
            if self.ready:
                self._session.say_bye()
            self._session.free()
            self._session = None
        connection.close()
        self._out.clear()
        self._server.removed(self)

    def _want(self, events: int) -> None:
        if events != self._events and self._socket is not None:
            self._events = events
            self._server.loop.watch(self._socket.fileno(), events, self._on_ready)

    def _on_ready(self, events: int) -> None:
        try:
            if not self.ready:
                self._handshake()
            else:
                if events & WRITE:
                    self._flush()
                if events & ~WRITE:
                    self._receive()
        except gnutls.TlsClosed as closed:
            self.drop(
                "disconnected" if closed.clean or not self.ready else "disconnected without notice",
                5 if self.ready else 6,
            )
        except gnutls.TlsError as error:
            self.drop(f"failed: {error}", 4)
        except (frame.FrameError, MessageError) as error:
            self.drop(f"does not speak the protocol: {error}", 4)

    def _handshake(self) -> None:
        assert self._session is not None
        wanted = self._session.handshake()
        if wanted:
            self._want(READ if wanted == "read" else WRITE)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.ready = True
        self._want(READ)
        self._server.accepted(self)
        if self._session is not None and self._session.pending:
            self._receive()

    def _receive(self) -> None:
        for _ in range(RECORDS_A_TURN):
            session = self._session
            if session is None:
                return
            size = session.receive_into(self._server.buffer)
            if size == 0:
                break
            for payload in self._decoder.feed(bytes(self._server.view[:size])):
                self._server.on_message(self, parse(payload))
                if self._socket is None:
                    return
        else:
            # Others first; what waits inside the session would not make the socket ready again.
            self._server.loop.soon(lambda: self._on_ready(READ) if self._socket is not None else None)
        if self._decoder.incomplete:
            if self._frame_timer is None:
                self._frame_timer = self._server.loop.later(FRAME_TIMEOUT, self._too_slow)
        elif self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None

    def _flush(self) -> None:
        out = self._out
        try:
            while out and self._session is not None:
                sent = self._session.send(out[0])
                if sent == 0:
                    self._want(READ | WRITE)
                    return
                self._queued -= sent
                if sent == len(out[0]):
                    del out[0]
                else:
                    out[0] = out[0][sent:]
        except gnutls.TlsError as error:
            self.drop(f"can not be sent to: {error}")
            return
        self._want(READ)

    def _too_slow(self) -> None:
        self.drop("is too slow" if self.ready else "did not prove itself in time", 4)


def new_id() -> str:
    """Return a random UUID (the `uuid` module would cost memory)."""
    digits = bytearray(os.urandom(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Server:
    """The listening side."""

    __slots__ = (
        "_listener",
        "_number",
        "_strangers",
        "buffer",
        "clients",
        "credentials",
        "loop",
        "on_gone",
        "on_message",
        "on_new",
        "view",
    )

    def __init__(
        self,
        loop: Loop,
        credentials: gnutls.Credentials,
        *,
        on_new: Callable[[Client], None],
        on_message: Callable[[Client, Element], None],
        on_gone: Callable[[Client], None],
    ) -> None:
        self.loop = loop
        self.credentials = credentials
        self.on_new, self.on_message, self.on_gone = on_new, on_message, on_gone
        self.buffer = gnutls.buffer()
        self.view = memoryview(self.buffer).cast("B")
        self.clients: dict[str, Client] = {}
        self._strangers = 0
        self._number = 0
        self._listener: system.socket | None = None

    def listen(self, address: str, port: int) -> int:
        """Listen; an empty address means all, IPv6 and IPv4. Return the port (0 asks the kernel for one). OSError."""
        host = address.encode("ascii") if address else None  # as text it would bring the IDNA codec in: 0.7 MB
        found = system.getaddrinfo(host, port, system.AF_UNSPEC, system.SOCK_STREAM, 0, system.AI_PASSIVE)
        found.sort(key=lambda one: one[0] != system.AF_INET6)
        failure: OSError | None = None
        for family, kind, protocol, _name, where in found:
            try:
                made = system.socket(family, kind, protocol)
            except OSError as error:  # no IPv6 here
                failure = error
                continue
            try:
                made.setsockopt(system.SOL_SOCKET, system.SO_REUSEADDR, 1)
                if family == system.AF_INET6:
                    made.setsockopt(system.IPPROTO_IPV6, system.IPV6_V6ONLY, 0)
                made.bind(where)
                made.listen(128)
            except OSError as error:
                made.close()
                failure = error
                continue
            made.setblocking(False)
            self._listener = made
            self.loop.watch(made.fileno(), READ, self._on_connection)
            return int(made.getsockname()[1])
        raise failure or OSError(f"no address for {address!r}")

    def stop_listening(self) -> None:
        """Take no new connections."""
        if self._listener is not None:
            self.loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def next_number(self) -> int:
        """Return the next frame's number."""
        self._number += 1
        return self._number

    def _on_connection(self, _events: int) -> None:
        if self._listener is None:
            return
        try:
            connection, where = system.accept(self._listener)
        except OSError as error:
            log(4, f"a connection could not be accepted: {error.strerror}")
            self.loop.rest(self._listener, self._on_connection)
            return
        if self._strangers >= MAX_STRANGERS:
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(system.IPPROTO_TCP, system.TCP_NODELAY, 1)
        connection.setsockopt(system.SOL_SOCKET, system.SO_KEEPALIVE, 1)
        connection.setsockopt(system.IPPROTO_TCP, system.TCP_USER_TIMEOUT, 60_000)
        try:
            Client(self, connection, where)
        except gnutls.TlsError as error:
            connection.close()
            log(3, f"no TLS session: {error}")
            return
        self._strangers += 1

    def accepted(self, client: Client) -> None:
        """A connection has proved itself."""
        self._strangers -= 1
        self.clients[client.id] = client
        self.on_new(client)

    def removed(self, client: Client) -> None:
        """A connection has ended."""
        if client.ready:
            if self.clients.pop(client.id, None) is not None:
                self.on_gone(client)
        else:
            self._strangers -= 1
