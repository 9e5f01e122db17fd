"""A TLS server that knows the key and misbehaves afterwards, in a thread of its own."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

from pcloud.wire import frame, gnutls
from pcloud.wire import messages as m

KEY = b"k" * 4096


class Peer:
    """One accepted connection, with blocking calls."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.setblocking(False)
        self.session = gnutls.Session(gnutls.Credentials.psk_server(lambda: KEY), connection.fileno())
        self.decoder = frame.Decoder()
        self.buffer = gnutls.buffer()
        self.inbox: list[bytes] = []
        while True:
            wanted = self.session.handshake()
            if not wanted:
                return
            select.select([connection] if wanted == "read" else [], [connection] if wanted == "write" else [], [], 5)

    def receive(self) -> m.Element:
        """Return the next message."""
        while not self.inbox:
            size = self.session.receive_into(self.buffer)
            if size:
                self.inbox += self.decoder.feed(self.buffer.raw[:size])
            else:
                select.select([self.socket], [], [], 5)
        return m.parse(self.inbox.pop(0))

    def raw(self, data: bytes) -> None:
        """Send bytes as they are (inside TLS)."""
        while data:
            sent = self.session.send(data)
            data = data[sent:]
            if not sent:
                select.select([], [self.socket], [], 5)

    def send(self, message: m.Element, number: str, kind: str) -> None:
        """Send a message as the protocol wants it."""
        message.set("lrmd_remote_msg_id", number).set("lrmd_remote_msg_type", kind)
        for part in frame.encode(message.to_bytes()):
            self.raw(part)

    def sign_on(self) -> None:
        """Answer the sign-on."""
        request = self.receive()
        reply = m.Element(
            m.REPLY, {"lrmd_rc": "0", "lrmd_op": "register", "lrmd_clientid": "x", "lrmd_protocol_version": "1.1"}
        )
        self.send(reply, request.get("lrmd_remote_msg_id"), "reply")

    def serve(self, count: int) -> None:
        """Answer that many requests with rc 0."""
        for _ in range(count):
            request = self.receive()
            self.send(m.Element(m.REPLY, {"lrmd_rc": "0"}), request.get("lrmd_remote_msg_id"), "reply")

    def wait_closed(self, timeout: float = 60.0) -> bool:
        """Whether the other side closes within `timeout`."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(gnutls.TlsError):
            while time.monotonic() < deadline:
                if not self.session.receive_into(self.buffer):
                    select.select([self.socket], [], [], 0.2)
            return False
        return True


class HostileServer:
    """Accepts connections and hands each to `behave(peer)`."""

    def __init__(self, behave, *, before_tls=None) -> None:
        self.key = KEY
        self._behave = behave
        self._before_tls = before_tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.done = threading.Event()
        self.closed_by_us = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            try:
                if self._before_tls is not None:
                    self._before_tls(connection)
                else:
                    peer = Peer(connection)
                    self._behave(peer)
                    self.closed_by_us = peer.wait_closed()
            except gnutls.TlsClosed:
                self.closed_by_us = True
            except (OSError, gnutls.TlsError, frame.FrameError) as error:
                self.failure = error
            finally:
                self.done.set()

    def close(self) -> None:
        """End."""
        self._listener.close()
        self._thread.join(60)
