"""A pair of datagram sockets of local IPC: ours, and the client's that it is for.

Owns: the sockets' abstract names, the queue of what the client has not read yet, and the check of who sent a datagram.
Callbacks of the loop; nothing waits.
"""

from __future__ import annotations

import errno
import struct

from pcloud.agent import system
from pcloud.agent.loop import READ, WRITE, Loop, log

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_QUEUED = 500
"""Messages that may wait for a client that does not read them (upstream's limit)."""
CREDENTIALS = struct.Struct("=iII")
"""Process, user and group, as the kernel tells them."""


class Channel:
    """One way to the client and back."""

    __slots__ = (
        "_broken",
        "_connected",
        "_loop",
        "_out",
        "_peer",
        "_received",
        "_size",
        "_socket",
        "_theirs",
        "_tries",
    )

    def __init__(
        self,
        loop: Loop,
        mine: str,
        theirs: str,
        size: int,
        peer: tuple[int, int],
        *,
        received: Callable[[bytes], None],
        broken: Callable[[str], None],
    ) -> None:
        """Bind the name `mine`, for datagrams of at most `size` bytes from the process `peer` (process and user); OSError.
        `broken` says why nothing more can be sent or received."""
        self._loop, self._theirs, self._size, self._peer = loop, theirs, size, peer
        self._received, self._broken = received, broken
        self._out: list[bytes] = []
        self._connected = False
        self._tries = 0
        self._socket = system.socket(system.AF_UNIX, system.SOCK_DGRAM)
        self._socket.setblocking(False)
        # A name of the abstract kind is open to all who read /proc/net/unix: the sender is checked.
        self._socket.setsockopt(system.SOL_SOCKET, system.SO_PASSCRED, 1)
        self._socket.setsockopt(system.SOL_SOCKET, system.SO_SNDBUFFORCE, 2 * size)
        self._socket.bind(abstract(mine))
        loop.watch(self._socket.fileno(), READ, self._on_ready)

    def send(self, data: bytes) -> None:
        """Send, now or as soon as the client reads."""
        self._out.append(data)
        if len(self._out) > MAX_QUEUED:
            self._broken("does not read its messages")
        elif len(self._out) == 1:
            self._flush()

    def close(self) -> None:
        """Close."""
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
        self._out = []

    def _flush(self) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            if not self._connected:
                self._socket.connect(abstract(self._theirs))
                self._connected = True
            while self._out:
                self._socket.send(self._out[0])
                del self._out[0]
        except BlockingIOError:
            self._loop.watch(self._socket.fileno(), READ | WRITE, self._on_ready)
            return
        except OSError as error:
            self._tries += 1
            if error.errno == errno.ECONNREFUSED and not self._connected and self._tries <= 20:
                self._loop.later(0.1, self._flush)  # the client has not made its end yet
                return
            self._broken(f"can not be sent to: {error.strerror}")
            return
        self._loop.watch(self._socket.fileno(), READ, self._on_ready)

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE and self._socket.fileno() >= 0:
            self._receive()

    def _receive(self) -> None:
        try:
            data, ancillary, flags, _address = self._socket.recvmsg(self._size, system.CREDENTIALS_SPACE)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(f"can not be received from: {error.strerror}")
            return
        sender = [
            CREDENTIALS.unpack(each)
            for level, kind, each in ancillary
            if level == system.SOL_SOCKET and kind == system.SCM_CREDENTIALS
        ]
        if not sender or sender[0][:2] != self._peer:
            log(4, f"a message in the name of process {self._peer[0]} came from another process")
        elif flags & system.MSG_TRUNC:
            self._broken("sent a message that is too large")
        else:
            self._received(data)


def abstract(name: str) -> bytes:
    """Return an abstract socket's address as libqb makes it: the name filled up with NULs to the full 108 bytes."""
    return (b"\0" + name.encode()).ljust(108, b"\0")
