"""Local IPC as Pacemaker's tools speak it (libqb, socket type): listens under a daemon's name, passes messages.

Owns: the listening sockets, each connection's sockets and its folder below `/dev/shm`. What a message means is `relay`'s.
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
from pcloud.agent.loop import READ, WRITE, Loop, Timer, log
from pcloud.wire import frame

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

SHM = "/dev/shm"  # noqa: S108 - where libqb has its files; each of ours is in a folder of its own, mode 0700
HANDSHAKE_TIMEOUT = 5.0
MAX_CONNECTIONS = 256
MAX_QUEUED = 500
"""Messages that may wait for a client that does not read them (upstream's limit)."""
_SMALLEST, _LARGEST = 128 * 1024, 1024 * 1024
"""Bytes a message may have: at least upstream's default, at most this. Larger ones travel compressed."""
_MAX_PLAIN = 20 * 1024 * 1024
_AUTHENTICATE = -1
_REQUEST = struct.Struct("=i4xi4xI4x")
_RESPONSE = struct.Struct("=i4xi4xi4xiIq4096s4096s4096s")
_HEADER = struct.Struct("=i4xi4xi4xIIIB3x")
"""id, size, error; size of the payload uncompressed and compressed (0: it is not), flags, version."""
_CREDENTIALS = struct.Struct("=iII")
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
        raw = setup.getsockopt(system.SOL_SOCKET, system.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, self.gid = _CREDENTIALS.unpack(raw)
        self.session = ""
        """For the owner's use; empty until the connection has been accepted."""
        self._received = b""
        self._folder = ""
        self._largest = _SMALLEST
        self._channels: list[_Channel] = []
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
        os.chown(folder, self.uid, self.gid)
        base = f"{folder}/qb"
        control = f"{base}-control-{self.name}"
        made = os.open(control, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(made, bytes(_CONTROL_SIZE))
            os.fchown(made, self.uid, self.gid)
        finally:
            os.close(made)
        response = f"{base}-{self.name}"
        for mine, theirs in (("request", "response"), ("event-tx", "event")):
            self._channels.append(
                _Channel(self, f"{response}-{mine}", f"{response}-{theirs}", self._server.loop, self._largest)
            )
        return control.encode(), response.encode()

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
            log(4, f"the client {self.pid} of {self.name} does not speak the protocol: {error}")
            self.close()
            return
        self._server.on_message(self, number, flags & ~COMPRESSED, body[:-1])


class _Channel:
    """A datagram socket of ours and the client's that it is for."""

    __slots__ = ("_connected", "_connection", "_loop", "_out", "_size", "_socket", "_theirs", "_tries")

    def __init__(self, connection: Connection, mine: str, theirs: str, loop: Loop, size: int) -> None:
        self._connection, self._theirs, self._loop, self._size = connection, theirs, loop, size
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
            log(4, f"the client {self._connection.pid} of {self._connection.name} does not read its messages")
            self._connection.close()
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
            self._connection.close()
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
        except OSError:
            self._connection.close()
            return
        sender = [
            _CREDENTIALS.unpack(each)
            for level, kind, each in ancillary
            if level == system.SOL_SOCKET and kind == system.SCM_CREDENTIALS
        ]
        if not sender or sender[0][:2] != (self._connection.pid, self._connection.uid):
            log(
                4,
                f"a message for the client {self._connection.pid} of {self._connection.name} came from another process",
            )
        elif flags & system.MSG_TRUNC:
            log(4, f"a message of the client {self._connection.pid} of {self._connection.name} is too large")
            self._connection.close()
        else:
            self._connection.received(data)


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
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            made.close()
            return
        made.setblocking(False)
        self._connections.append(Connection(self, name, made))


def abstract(name: str) -> bytes:
    """Return an abstract socket's address as libqb makes it: the name filled up with NULs to the full 108 bytes."""
    return (b"\0" + name.encode()).ljust(108, b"\0")


def remove(folder: str) -> None:
    """Remove a connection's folder with what is in it."""
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except OSError:
        pass  # the client removes it too


def remove_left() -> None:
    """Remove the folders of agents that were killed."""
    try:
        names = os.listdir(SHM)
    except OSError:
        return
    for name in names:
        if name.startswith("qb-pcloud-") and not os.path.exists(f"/proc/{name.split('-')[2]}"):
            remove(f"{SHM}/{name}")
