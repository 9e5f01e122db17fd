"""Local IPC as Pacemaker's tools speak it (libqb, socket type): listens under a daemon's name, passes messages.

Owns: the listening sockets, each connection's hand-shake and its folder below `/dev/shm`; `ipc_channel` has its datagrams.
What a message means is `relay`'s.
Imported only where a cluster is connected. Callbacks of the loop; nothing waits.

A client connects to an abstract stream socket, says how large its messages may be, and is answered with names: a file for
flow control (which only it uses) and two pairs of datagram sockets, one for requests and responses, one for events. The
stream stays open: its end is the connection's end. Sources: libqb (`lib/ipc_setup.c`, `lib/ipc_socket.c`) and Pacemaker
(`lib/common/ipc_*.c`), both as of Debian 12.
"""

from __future__ import annotations

import errno
import os
import struct

from pcloud.agent import system
from pcloud.agent.ipc_channel import CREDENTIALS, Channel, abstract
from pcloud.agent.loop import READ, Loop, Timer, log
from pcloud.wire import frame

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

SHM = "/dev/shm"  # noqa: S108 - where libqb has its files; each of ours is in a folder of its own, mode 0700
HANDSHAKE_TIMEOUT = 5.0
MAX_CONNECTIONS = 64
_SMALLEST, _LARGEST = 128 * 1024, 1024 * 1024
"""Bytes a message may have: at least upstream's default, at most this. Larger ones travel compressed."""
_MAX_PLAIN = 20 * 1024 * 1024
_AUTHENTICATE = -1
_REQUEST = struct.Struct("=i4xi4xI4x")
_RESPONSE = struct.Struct("=i4xi4xi4xiIq4096s4096s4096s")
_HEADER = struct.Struct("=i4xi4xi4xIIIB3x")
"""id, size, error; size of the payload uncompressed and compressed (0: it is not), flags, version."""
_CONTROL_SIZE = 24
COMPRESSED, EVENT = 0x1, 0x10000
"""Flags of a message."""


class Connection:
    """One local client of one name."""

    __slots__ = (
        "_allowed",
        "_channels",
        "_events",
        "_folder",
        "_largest",
        "_received",
        "_server",
        "_setup",
        "_timer",
        "gid",
        "name",
        "pid",
        "session",
        "uid",
    )

    def __init__(self, server: Server, name: str, setup: system.socket) -> None:
        self._server, self.name, self._setup = server, name, setup
        raw = setup.getsockopt(system.SOL_SOCKET, system.SO_PEERCRED, CREDENTIALS.size)
        self.pid, self.uid, self.gid = CREDENTIALS.unpack(raw)
        self.session = ""
        """For the owner's use; empty until the connection has been accepted."""
        self._received = b""
        self._folder = ""
        self._largest = _SMALLEST
        self._channels: list[Channel] = []
        self._events = 0
        self._timer: Timer | None = server.loop.later(HANDSHAKE_TIMEOUT, self.close)
        server.loop.watch(setup.fileno(), READ, self._on_setup)

    def send(self, payload: bytes, number: int, *, event: bool) -> None:
        """Send a response to the request of that number, or an event. A client that does not read is let go."""
        if not self._channels:
            return
        body, flags, packed = payload + b"\0", EVENT if event else 0, 0
        plain = len(body)
        if _HEADER.size + plain >= self._largest:
            import bz2  # here, because it costs memory and hardly any message is so large

            body = bz2.compress(body, 1)
            flags |= COMPRESSED
            packed = len(body)
            if _HEADER.size + packed >= self._largest:
                log(4, f"a message of {plain} bytes is too large for the client {self.pid} of {self.name}")
                self.close()
                return
        if event:
            self._events += 1
            number = self._events
        header = _HEADER.pack(number, _HEADER.size + len(body), 0, plain, packed, flags, 1)
        self._channels[1 if event else 0].send(header + body)

    def close(self) -> None:
        """End the connection and remove its names; may be called twice."""
        if self._setup.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._server.loop.forget(self._setup.fileno())
        self._setup.close()
        for channel in self._channels:
            channel.close()
        self._channels = []
        if self._folder:
            remove(self._folder)
        self._server.removed(self)

    def _on_setup(self, _events: int) -> None:
        try:
            data = self._setup.recv(_REQUEST.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self._channels:
            self._received += data
            if len(self._received) >= _REQUEST.size:
                self._accept()

    def _accept(self) -> None:
        kind, size, asked = _REQUEST.unpack(self._received[: _REQUEST.size])
        if kind != _AUTHENTICATE or size != _REQUEST.size:
            self.close()
            return
        self._largest = max(_SMALLEST, min(asked, _LARGEST))
        refused = self._server.on_new(self)
        control = response = b""
        if not refused:
            try:
                control, response = self._open()
            except OSError as error:
                log(4, f"no IPC for process {self.pid}: {error}")
                refused = error.errno or errno.EIO
        answer = _RESPONSE.pack(
            _AUTHENTICATE, _RESPONSE.size, -refused, 0, 0 if refused else self._largest, 0, control, response, b""
        )
        try:
            sent = self._setup.send(answer)
        except OSError:
            sent = 0
        if refused or sent != len(answer):
            self.close()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _open(self) -> tuple[bytes, bytes]:
        """Make the names, and return those of the control file and of the datagram sockets; OSError."""
        folder = f"{SHM}/qb-pcloud-{os.getpid()}-{self.pid}-{os.urandom(6).hex()}"
        os.mkdir(folder, 0o700)
        self._folder = folder
        base = f"{folder}/qb"
        control = f"{base}-control-{self.name}"
        made = os.open(control, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(made, bytes(_CONTROL_SIZE))
            os.fchown(made, self.uid, self.gid)
        finally:
            os.close(made)
        os.chown(folder, self.uid, self.gid)  # last: from now on the client could put something else in its place
        response = f"{base}-{self.name}"
        for mine, theirs in (("request", "response"), ("event-tx", "event")):
            self._channels.append(
                Channel(
                    self._server.loop,
                    f"{response}-{mine}",
                    f"{response}-{theirs}",
                    self._largest,
                    (self.pid, self.uid),
                    received=self.received,
                    broken=self._broken,
                )
            )
        return control.encode(), response.encode()

    def _broken(self, why: str) -> None:
        log(4, f"the client {self.pid} of {self.name} {why}")
        self.close()

    def received(self, data: bytes) -> None:
        """A datagram came from the client."""
        try:
            number, size, _error, plain, packed, flags, version = _HEADER.unpack_from(data)
            body = data[_HEADER.size :]
            if size != len(data) or version > 1 or not 0 < plain <= _MAX_PLAIN or len(body) != (packed or plain):
                raise frame.FrameError("BAD_HEADER", "sizes contradict each other")
            if packed:
                body = frame.unpack(body, plain)
            if body[-1] != 0:
                raise frame.FrameError("BAD_PAYLOAD", "it does not end in a NUL")
        except (struct.error, frame.FrameError) as error:
            self._broken(f"does not speak the protocol: {error}")
            return
        self._server.on_message(self, number, flags & ~COMPRESSED, body[:-1])


class Server:
    """Listens under one or more daemons' names."""

    __slots__ = ("_connections", "_listeners", "loop", "on_closed", "on_message", "on_new")

    def __init__(
        self,
        loop: Loop,
        *,
        on_new: Callable[[Connection], int],
        on_message: Callable[[Connection, int, int, bytes], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        """`on_new` returns 0, or the error number with which the client is refused; `on_message` gets the request's number,
        its flags and its text; `on_closed` follows for every connection that was accepted."""
        self.loop = loop
        self.on_new, self.on_message, self.on_closed = on_new, on_message, on_closed
        self._listeners: list[system.socket] = []
        self._connections: list[Connection] = []

    def listen(self, name: str) -> None:
        """Listen under a name; OSError, when another daemon has it, for example."""
        made = system.socket(system.AF_UNIX, system.SOCK_STREAM)
        try:
            made.bind(abstract(name))
            made.listen(128)
        except OSError:
            made.close()
            raise
        made.setblocking(False)
        self._listeners.append(made)
        self.loop.watch(made.fileno(), READ, lambda _events: self._on_connection(made, name))

    def close(self) -> None:
        """Stop listening and end every connection."""
        for listener in self._listeners:
            self.loop.forget(listener.fileno())
            listener.close()
        self._listeners = []
        for connection in list(self._connections):
            connection.close()

    def removed(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.remove(connection)
        if connection.session:
            self.on_closed(connection)

    def _on_connection(self, listener: system.socket, name: str) -> None:
        try:
            made = system.accept_local(listener)
        except OSError as error:
            log(4, f"an IPC connection could not be accepted: {error.strerror}")
            self.loop.rest(listener, lambda _events: self._on_connection(listener, name))
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            made.close()
            return
        made.setblocking(False)
        self._connections.append(Connection(self, name, made))


def remove(folder: str) -> None:
    """Remove a connection's folder with what is in it. It belongs to the client, who may have put a link in its place."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # the client removes it too
    try:
        for name in os.listdir(held):
            os.unlink(name, dir_fd=held)
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        log(5, f"{folder} can not be removed: {error.strerror}")
    finally:
        os.close(held)


def remove_left() -> None:
    """Remove the folders of agents that were killed."""
    try:
        names = os.listdir(SHM)
    except OSError:
        return
    for name in names:
        if name.startswith("qb-pcloud-") and not os.path.exists(f"/proc/{name.split('-')[2]}"):
            remove(f"{SHM}/{name}")
