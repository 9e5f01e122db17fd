"""A man in the middle that knows the key: writes down every message between a cluster and an agent, and replays sessions.

`python -m tests.peers.recorder PORT TARGET_PORT KEYFILE OUT` relays one connection after the other on all addresses. OUT
gets one JSON line a message: `[">" from the cluster or "<" from the agent, XML]`.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pcloud.wire import frame, gnutls
from pcloud.wire import messages as m


class End:
    """One side of the relay: a TLS session with frames."""

    def __init__(self, connection: socket.socket, credentials: gnutls.Credentials) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.session = gnutls.Session(credentials, connection.fileno())
        self.decoder = frame.Decoder()
        self.buffer = gnutls.buffer()
        while wanted := self.session.handshake():
            ready = ([connection], [], []) if wanted == "read" else ([], [connection], [])
            if not any(select.select(*ready, 60)):
                raise TimeoutError("handshake")

    def receive(self) -> list[bytes]:
        """Return the payloads that are there."""
        payloads: list[bytes] = []
        while size := self.session.receive_into(self.buffer):
            payloads += self.decoder.feed(self.buffer.raw[:size])
        return payloads

    def send(self, payload: bytes) -> None:
        """Send one message completely."""
        for data in frame.encode(payload):
            rest = data
            while rest:
                sent = self.session.send(rest)
                rest = rest[sent:]
                if not sent:
                    select.select([], [self.socket], [], 10)

    def close(self) -> None:
        """Close."""
        self.session.free()
        self.socket.close()


def relay(listener: socket.socket, target: int, key: bytes, out: Path) -> None:
    """Relay one connection and write its messages down."""
    connection, _ = listener.accept()
    with out.open("a") as file:
        try:
            cluster = End(connection, gnutls.Credentials.psk_server(lambda: key))
        except (gnutls.TlsError, TimeoutError, OSError):
            connection.close()
            return
        agent = End(socket.create_connection(("127.0.0.1", target)), gnutls.Credentials.psk_client(key))
        try:
            while True:
                ready, _, _ = select.select([cluster.socket, agent.socket], [], [])
                for source, sink, mark in ((cluster, agent, ">"), (agent, cluster, "<")):
                    if source.socket in ready:
                        for payload in source.receive():
                            file.write(json.dumps([mark, payload.decode()]) + "\n")
                            file.flush()
                            sink.send(payload)
        except (gnutls.TlsError, OSError):
            pass
        finally:
            cluster.close()
            agent.close()


def replay(
    port: int, key: bytes, session: list[tuple[str, str]], happens: Callable[[str], bool] = lambda _text: False
) -> list[m.Element]:
    """Send what the cluster sent, each request once all that the agent had sent before it (in number) has come; return
    all that the daemon answered. `happens(text)` may cause what the agent had noticed by itself."""
    end = End(socket.create_connection(("127.0.0.1", port)), gnutls.Credentials.psk_client(key))
    got: list[m.Element] = []
    expected = 0
    try:
        for mark, text in session:
            if mark == "<":
                if "<lrmd_notify" in text:
                    _collect(end, got, expected)
                    happens(text)
                expected += 1
                continue
            _collect(end, got, expected)
            end.send(text.encode())
        _collect(end, got, expected)
        _collect(end, got, expected + 1000, 0.5)  # what comes beyond
    finally:
        end.close()
    return got


def _collect(end: End, got: list[m.Element], count: int, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while len(got) < count and time.monotonic() < deadline:
        select.select([end.socket], [], [], 0.05)
        got += [m.parse(payload) for payload in end.receive()]


def main() -> None:
    """Relay for ever."""
    port, target, key_file, out = sys.argv[1:]
    key = Path(key_file).read_bytes()
    with socket.create_server(("", int(port))) as listener:
        while True:
            relay(listener, int(target), key, Path(out))


if __name__ == "__main__":
    main()
