"""A small D-Bus client: enough to talk to systemd. Callbacks in the agent's loop; nothing waits.

Owns: the socket to systemd (its private socket where there is one, so that no bus daemon is needed; else the
system bus) and the calls under way. A lost connection fails them all with `DBusError` and is made anew at the next call.
"""

from __future__ import annotations

import os
import struct

from pcloud.agent import system
from pcloud.agent.loop import READ, WRITE, Loop, log

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

    Reply = Callable[["list[object]", "DBusError | None"], None]

PRIVATE, SYSTEM = "/run/systemd/private", "/run/dbus/system_bus_socket"
_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_MAX_MESSAGE = 16 * 1024 * 1024


class DBusError(Exception):
    """A call failed; `name` is the D-Bus error's name, or empty when the connection failed."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


# --- marshalling (little endian)

_ALIGN = {
    "y": 1,
    "b": 4,
    "n": 2,
    "q": 2,
    "i": 4,
    "u": 4,
    "x": 8,
    "t": 8,
    "d": 8,
    "s": 4,
    "o": 4,
    "g": 1,
    "v": 1,
    "a": 4,
    "(": 8,
    "{": 8,
    "h": 4,
}
_FIXED = {"y": "<B", "b": "<I", "n": "<h", "q": "<H", "i": "<i", "u": "<I", "x": "<q", "t": "<Q", "d": "<d", "h": "<I"}


def _pad(data: bytearray, alignment: int) -> None:
    data += b"\0" * (-len(data) % alignment)


def put(data: bytearray, kind: str, value: object, alignment: int = 0) -> None:
    """Add a value of a basic type, aligned to it or, where that is given, to what it begins."""
    _pad(data, alignment or _ALIGN[kind])
    if kind in ("s", "o"):
        raw = str(value).encode()
        data += struct.pack("<I", len(raw)) + raw + b"\0"
    elif kind == "g":
        raw = str(value).encode()
        data += bytes([len(raw)]) + raw + b"\0"
    else:
        data += struct.pack(_FIXED[kind], value)


def build_call(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str,
    arguments: tuple[object, ...] | bytes,
) -> bytes:
    """Return the bytes of a method call; arguments of basic types, or the bytes of all of them."""
    body = bytearray(arguments if isinstance(arguments, bytes) else b"")
    if not body:
        for kind, value in zip(signature, arguments):
            put(body, kind, value)
    data = bytearray(struct.pack("<BBBBII", ord("l"), _CALL, 0, 1, len(body), serial))
    fields = bytearray()
    entries = [(_PATH, "o", path), (_INTERFACE, "s", interface), (_MEMBER, "s", member)]
    if destination:
        entries.append((_DESTINATION, "s", destination))
    if signature:
        entries.append((_SIGNATURE, "g", signature))
    for code, kind, text in entries:
        _pad(fields, 8)
        fields.append(code)
        put(fields, "g", kind)
        put(fields, kind, text)
    data += struct.pack("<I", len(fields)) + fields
    _pad(data, 8)
    return bytes(data + body)


class _Cursor:
    """Reads values out of a message."""

    __slots__ = ("at", "data", "endian")

    def __init__(self, data: bytes, at: int, endian: str) -> None:
        self.data, self.at, self.endian = data, at, endian

    def align(self, to: int) -> None:
        self.at += -self.at % to

    def take(self, kind: str) -> object:
        """Read one value of a basic or container type; `kind` is one complete signature."""
        first = kind[0]
        self.align(_ALIGN[first])
        if first in ("s", "o", "g"):
            if first == "g":
                size = self.data[self.at]
                self.at += 1
            else:
                size = struct.unpack_from(self.endian + "I", self.data, self.at)[0]
                self.at += 4
            text = self.data[self.at : self.at + size].decode("utf-8", "replace")
            self.at += size + 1
            return text
        if first == "v":
            return self.take(str(self.take("g")))
        if first == "a":
            size = struct.unpack_from(self.endian + "I", self.data, self.at)[0]
            self.at += 4
            self.align(_ALIGN[kind[1]])
            end = self.at + size
            if end > len(self.data):
                raise ValueError("an array runs over the message's end")
            items = []
            while self.at < end:
                items.append(self.take(kind[1:]))
            return items
        if first in ("(", "{"):
            return [self.take(part) for part in split(kind[1:-1])]
        form = self.endian + _FIXED[first][1]
        value: object = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value


def split(signature: str) -> list[str]:
    """Return the complete types of a signature: `a{sv}u` → [`a{sv}`, `u`]."""
    parts, start, depth, at = [], 0, 0, 0
    while at < len(signature):
        letter = signature[at]
        at += 1
        if letter in "({":
            depth += 1
        elif letter in ")}":
            depth -= 1
        if depth == 0 and letter != "a":
            parts.append(signature[start:at])
            start = at
    return parts


class Message:
    """A received message."""

    __slots__ = ("arguments", "error", "interface", "kind", "member", "path", "serial")

    def __init__(self, data: bytes) -> None:
        endian = "<" if data[0:1] == b"l" else ">"
        self.kind = data[1]
        fields_size = struct.unpack_from(endian + "I", data, 12)[0]
        cursor = _Cursor(data, 12, endian)
        fields: dict[int, object] = {}
        for code, value in cursor.take("a(yv)"):  # type: ignore[attr-defined]
            fields[code] = value
        self.path, self.interface, self.member = (str(fields.get(n, "")) for n in (_PATH, _INTERFACE, _MEMBER))
        self.error = str(fields.get(_ERROR_NAME, ""))
        serial = fields.get(_REPLY_SERIAL, 0)
        self.serial = serial if isinstance(serial, int) else 0
        body = _Cursor(data[16 + fields_size + (-fields_size % 8) :], 0, endian)
        self.arguments = [body.take(kind) for kind in split(str(fields.get(_SIGNATURE, "")))]


class Bus:
    """The connection to systemd."""

    __slots__ = ("_authenticated", "_calls", "_in", "_loop", "_out", "_serial", "_socket", "_system", "on_signal")

    def __init__(self, loop: Loop, on_signal: Callable[[Message], None]) -> None:
        self._loop = loop
        self.on_signal = on_signal
        self._socket: system.socket | None = None
        self._in, self._out = bytearray(), bytearray()
        self._calls: dict[int, Reply] = {}
        self._serial = 0
        self._authenticated = self._system = False

    def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        arguments: tuple[object, ...] | bytes,
        reply: Reply,
    ) -> int:
        """Call a method of systemd; `reply(values, None)` or `reply([], error)` follows, never before this returns.
        Returns a number for `abandon`."""
        try:
            if self._socket is None:
                self._connect()
        except OSError as error:
            failure = DBusError("", f"No connection to systemd: {error.strerror or error}")
            self._loop.soon(lambda: reply([], failure))
            return 0
        self._serial += 1
        self._calls[self._serial] = reply
        destination = "org.freedesktop.systemd1" if self._system else ""
        self._out += build_call(self._serial, destination, path, interface, member, signature, arguments)
        self._flush()
        return self._serial

    def abandon(self, number: int) -> None:
        """Do not call back for that call any more."""
        self._calls.pop(number, None)

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._socket is not None

    def _connect(self) -> None:
        made = system.socket(system.AF_UNIX, system.SOCK_STREAM)
        try:
            try:
                made.connect(PRIVATE)
                self._system = False
            except OSError:
                made.connect(SYSTEM)
                self._system = True
        except OSError:
            made.close()
            raise
        made.setblocking(False)
        self._socket = made
        self._authenticated = False
        self._out += b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n"
        self._loop.watch(made.fileno(), READ, self._on_ready)
        manager = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
        if self._system:
            self._serial += 1
            self._out += build_call(
                self._serial, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", "", ()
            )
            self._serial += 1
            rule = "type='signal',sender='org.freedesktop.systemd1',member='JobRemoved'"
            self._out += build_call(
                self._serial,
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "AddMatch",
                "s",
                (rule,),
            )
        # Without a subscriber systemd tells nothing; its answer (or "already subscribed") does not matter.
        self._serial += 1
        self._out += build_call(
            self._serial, "org.freedesktop.systemd1" if self._system else "", *manager, "Subscribe", "", ()
        )

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE:
            self._receive()

    def _flush(self) -> None:
        connection = self._socket
        if connection is None:
            return
        try:
            while self._out:
                del self._out[: connection.send(self._out)]
        except BlockingIOError:
            self._loop.watch(connection.fileno(), READ | WRITE, self._on_ready)
            return
        except OSError as error:
            why = str(error)
            self._loop.soon(lambda: self._lost(connection, why))
            return
        self._loop.watch(connection.fileno(), READ, self._on_ready)

    def _receive(self) -> None:
        connection = self._socket
        if connection is None:
            return
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, str(error))
            return
        if not data:
            self._lost(connection, "closed by systemd")
            return
        self._in += data
        try:
            self._handle()
        except (ValueError, KeyError, IndexError, struct.error, RecursionError) as error:
            self._lost(connection, f"a message is damaged: {error}")

    def _handle(self) -> None:
        held = self._in
        if not self._authenticated:
            end = held.find(b"\r\n")
            if end < 0:
                return
            if not held.startswith(b"OK"):
                raise ValueError("systemd refused us")
            del held[: end + 2]
            self._authenticated = True
        while len(held) >= 16:
            endian = "<" if held[0:1] == b"l" else ">"
            body, fields = struct.unpack_from(endian + "I", held, 4)[0], struct.unpack_from(endian + "I", held, 12)[0]
            size = 16 + fields + (-fields % 8) + body
            if size > _MAX_MESSAGE:
                raise ValueError("too large")
            if len(held) < size:
                return
            message = Message(bytes(held[:size]))
            del held[:size]
            if message.kind == _SIGNAL:
                self.on_signal(message)
                continue
            reply = self._calls.pop(message.serial, None)
            if reply is None:
                continue
            if message.kind == _ERROR:
                text = str(message.arguments[0]) if message.arguments else message.error
                reply([], DBusError(message.error, text))
            else:
                reply(message.arguments, None)

    def _lost(self, connection: system.socket, why: str) -> None:
        if connection is not self._socket:
            return
        log(5, f"connection to systemd lost: {why}")
        self._loop.forget(connection.fileno())
        connection.close()
        self._socket = None
        self._in, self._out = bytearray(), bytearray()
        calls, self._calls = self._calls, {}
        for reply in calls.values():
            reply([], DBusError("", f"connection to systemd lost: {why}"))
