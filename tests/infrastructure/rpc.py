"""A link to a libvirtd that breaks or falls silent at a call that a test chooses: a TCP proxy that reads libvirt's framing.

Source of the framing: libvirt's "libvirt RPC protocol": a message is its length, program, version, procedure, type, serial
and status, four bytes each, and the payload.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_HEADER = struct.Struct(">IIIIIII")
_REMOTE = 0x20008086
_CALL, _REPLY = 0, 1
_VOLUME = re.compile(rb"\.(ok|seed|console|kernel|initrd|(?:base\.)?qcow2)\b")

Call = tuple[int, str]
"""The number of a procedure, and the kind of volume that it concerns, if any."""


@dataclass
class Link:
    """The proxy. `fault` is asked of each call, and answers `cut` (it is carried out, but its answer never arrives), `hang`
    (it, and all after it, wait until `release`) or nothing."""

    target: tuple[str, int]
    fault: Callable[[Call], str] = field(default=lambda _: "")
    port: int = 0
    _released: threading.Event = field(default_factory=threading.Event)

    @property
    def uri(self) -> str:
        """Where a driver finds it."""
        return f"qemu+tcp://127.0.0.1:{self.port}/system"

    def release(self) -> None:
        """Let go on what hangs."""
        self._released.set()

    def serve(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            cut: set[int] = set()

            def answers() -> None:
                with contextlib.suppress(OSError):
                    self._answers(client, server, cut)
                end()

            def end() -> None:
                for side in (client, server):
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)

            back = threading.Thread(target=answers, daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                self._requests(client, server, cut)
            end()
            back.join()

    def _requests(self, client: socket.socket, server: socket.socket, cut: set[int]) -> None:
        for message, (program, procedure, kind, serial) in _messages(client):
            if program == _REMOTE and kind == _CALL:
                found = _VOLUME.search(message)
                answer = self.fault((procedure, found[1].decode() if found else ""))
                if answer == "cut":
                    cut.add(serial)
                elif answer == "hang":
                    self._released.wait()
            server.sendall(message)

    def _answers(self, client: socket.socket, server: socket.socket, cut: set[int]) -> None:
        for message, (program, _, kind, serial) in _messages(server):
            if program == _REMOTE and kind == _REPLY and serial in cut:
                return
            client.sendall(message)


def _messages(source: socket.socket) -> Iterator[tuple[bytes, tuple[int, int, int, int]]]:
    with source.makefile("rb") as stream:
        while len(head := stream.read(_HEADER.size)) == _HEADER.size:
            length, program, _, procedure, kind, serial, _ = _HEADER.unpack(head)
            yield head + stream.read(length - _HEADER.size), (program, procedure, kind, serial)


@contextlib.contextmanager
def link_to(host: str, port: int = 16509) -> Iterator[Link]:
    """Run a link to the libvirtd that listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = Link((host, port), port=listener.getsockname()[1])
        thread = threading.Thread(target=link.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield link
        finally:
            link.release()
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()
