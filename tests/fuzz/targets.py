"""What is fuzzed: every place where bytes of a peer come in. A target takes bytes and may raise only what it lists."""

from __future__ import annotations

import asyncio
import errno
import struct
from pathlib import Path

from pcloud.agent import dbus, dispatch, programs, runner, units
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
        units.DROP_INS, units.ENVIRONMENTS = str(folder / "drop-ins"), str(folder / "environments")
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
