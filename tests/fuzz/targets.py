"""What is fuzzed: every place where bytes of a peer come in. A target takes bytes and may raise only what it lists."""

from __future__ import annotations

import asyncio
import errno
import struct
from pathlib import Path

from pcloud.agent import dbus, dispatch, ipc, programs, relay, runner, unit_files
from pcloud.agent.loop import Loop
from pcloud.environment.transport import Operation
from pcloud.transport.session import RemoteConnection
from pcloud.wire import frame
from pcloud.wire import messages as m
from pcloud.wire.gnutls import Credentials


def frames(data: bytes) -> None:
    """Bytes into a decoder, in two cuts."""
    decoder = frame.Decoder(limit=100_000)
    cut = len(data) // 3
    try:
        for part in (data[:cut], data[cut:]):
            for payload in decoder.feed(part):
                assert len(payload) < 100_000
    except frame.FrameError as error:
        assert error.code


def xml(data: bytes) -> None:
    """A payload into the parser; what was read can be written and read again."""
    try:
        element = m.parse(data)
    except m.MessageError:
        return
    again = m.parse(element.to_bytes())
    assert again.attributes.keys() == element.attributes.keys()


def bus(data: bytes) -> None:
    """Bytes that pretend to be from systemd."""
    try:
        dbus.Message(data)
    except (ValueError, KeyError, IndexError, struct.error, RecursionError):
        pass  # what `Bus` expects


class _Client:
    """Stands for a connection of the agent."""

    def __init__(self) -> None:
        self.id, self.name, self.address = "id", "", "fuzz"
        self.provider = False
        self.connected = True

    def send(self, message: m.Element, number: int, kind: str) -> None:
        """What the agent sends can be read."""
        m.parse(message.set("lrmd_remote_msg_id", number).set("lrmd_remote_msg_type", kind).to_bytes())


class Agent:
    """Payloads into the agent's dispatch, with nothing behind it that could be run or written."""

    def __init__(self, folder: Path) -> None:
        programs.OCF_ROOT = programs.OWN_AGENTS = programs.LSB_ROOT = str(folder / "none")
        unit_files.DROP_INS, unit_files.ENVIRONMENTS = str(folder / "drop-ins"), str(folder / "environments")
        dbus.PRIVATE = dbus.SYSTEM = str(folder / "no-socket")
        dispatch.Child = runner.Child = _refuse  # type: ignore[misc,assignment]
        self.loop = Loop()
        self.daemon = dispatch.Daemon(self.loop, Credentials.psk_server(lambda: b"k"))
        self.client = _Client()
        self.daemon.server.clients["id"] = self.client  # type: ignore[assignment]

    def __call__(self, data: bytes) -> None:
        """One payload, and what it sets going."""
        try:
            message = m.parse(data)
        except m.MessageError:
            return
        self.daemon._on_message(self.client, message)  # type: ignore[arg-type]
        for _ in range(3):
            self.loop.soon(lambda: None)
            self.loop.once()
        if len(self.daemon.executor.resources) > 50:
            for name in list(self.daemon.executor.resources):
                self.daemon.executor.unregister(name)


def _refuse(*_arguments: object, **_named: object) -> None:
    raise OSError(errno.ENOENT, "nothing is run here")


class Ipc:
    """Bytes of a local client of the cluster's IPC, on to the cluster."""

    def __init__(self) -> None:
        self.cluster = _Client()
        self.relay = relay.Relay.__new__(relay.Relay)
        self.relay._loop, self.relay._pick = Loop(), lambda: self.cluster  # type: ignore[assignment,return-value]
        self.relay._queue, self.relay._sessions, self.relay._awaited = [], {}, ""
        self.relay._timer = None

    def __call__(self, data: bytes) -> None:
        """One datagram: as it is, and with the header that fits."""
        fitting = struct.pack("=i4xi4xi4xIIIB3x", 1, len(data) + 41, 0, len(data) + 1, 0, 0x200, 1) + data + b"\0"
        for each in (data, fitting):
            connection = _Local(self.relay)
            self.relay._on_new(connection)  # type: ignore[arg-type]
            ipc.Connection.received(connection, each)  # type: ignore[arg-type]
            connection.close()
        assert not self.relay._sessions
        assert not self.relay._queue


class _Local:
    """Stands for a local client's connection."""

    def __init__(self, owner: relay.Relay) -> None:
        self.name, self.pid, self.uid, self.gid, self.session = "attrd", 1, 0, 0, ""
        self.owner, self._server = owner, self

    def on_message(self, _connection: object, number: int, flags: int, text: bytes) -> None:
        self.owner._on_message(self, number, flags, text)  # type: ignore[arg-type]

    def _broken(self, _why: str) -> None:
        self.close()

    def close(self) -> None:
        if self.session in self.owner._sessions:
            self.owner._on_closed(self)  # type: ignore[arg-type]


class _Channel:
    """Stands for the transport's channel."""

    def __init__(self) -> None:
        self.open, self.incomplete, self.quick = True, False, False
        self.on_payload = self.on_end = None
        self.ended = False

    def start(self) -> None:
        """Nothing to receive."""

    def send(self, payload: bytes) -> None:
        """What the transport sends can be read."""
        m.parse(payload)

    def end(self, error: Exception) -> None:
        """The transport gave up on this peer: as it may."""
        self.ended = True

    def close(self) -> None:
        """Nothing to close."""


class Session:
    """Payloads into the transport's session, with an operation and a recurring one under way."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __call__(self, data: bytes) -> None:
        """One payload."""
        self.loop.run_until_complete(self._one(data))

    async def _one(self, data: bytes) -> None:
        channel = _Channel()
        connection = RemoteConnection(
            channel,  # type: ignore[arg-type]
            1,
            on_result=lambda result: None,
            on_lost=lambda error: None,
            on_closed=lambda connection: None,
        )
        tasks = [
            asyncio.ensure_future(
                connection.execute(
                    Operation(resource="d1", resource_class="ocf", type="x", action="monitor", interval=interval)
                )
            )
            for interval in (0.0, 1.0)
        ]
        await asyncio.sleep(0)
        channel.on_payload(data)  # type: ignore[misc]
        await asyncio.sleep(0)
        await connection.close()
        await asyncio.gather(*tasks, return_exceptions=True)
