"""The messages between the daemon (cped) and its engine processes (dped), over a Unix socket.

Frames: 4 bytes big-endian length, then one msgpack-encoded message (a tagged union). cped listens on
`$PCLOUD_HOME/run/cped.sock`; each dped connects, says `Hello`, and connects again whenever cped went away; deployables go
on meanwhile. Records are delivered at least once: cped acknowledges the highest `sequence` it has committed, dped spools
what is not acknowledged into a file, and cped drops what it has seen (`process`, `sequence`) already.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

from pcloud.environment.infrastructure import Identity, Image
from pcloud.events.event import Event
from pcloud.model.deployable import Deployable
from pcloud.model.status import DeployableStatus
from pcloud.transport.settings import TransportSettings

MAX_FRAME = 64 * 1024 * 1024


class GuestMaterial(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine needs beyond the model to make and reach one assembly's guest."""

    image: Image
    identity: Identity
    private_key: str = ""
    """ssh private key that opens `identity.authorized_key`."""
    host_key: str = ""
    """The guest's public ssh host key, one line, to be pinned."""


# --- cped to dped


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Take over a deployable, or its changed form (then only what changed is touched)."""

    deployable: Deployable
    target: str
    """`started` or `stopped`."""
    guests: dict[str, GuestMaterial]
    """By assembly name."""
    paused: bool = False
    revision: int = 0
    """Which of the user's wishes this is; the engine's statuses repeat it, so that an older one is known as such."""
    state: bytes | None = None
    """The newest engine state that was journalled; used only when the deployable is not loaded yet."""


class Unload(msgspec.Struct, frozen=True, kw_only=True, tag="unload"):
    """Let go of a deployable. Its guests go on unless `delete`, which stops it and removes every guest first."""

    name: str
    delete: bool = False
    request: int = 0
    """Answered by a Reply of this number when done."""


class Command(msgspec.Struct, frozen=True, kw_only=True, tag="command"):
    """Something asked of one loaded deployable: `recover`, `restart`, `execute`, `console`, `snapshot`, `standstill`,
    `inject`; or of the engine process itself (an empty name): `ping`, to which any answer will do."""

    name: str
    action: str
    request: int
    arguments: dict[str, Any] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    """Engine-wide settings, sent after Hello: infrastructures' configuration by name, and limits."""

    infrastructures: dict[str, dict[str, Any]] = {}
    transports: TransportSettings = TransportSettings()
    starts_in_flight: int = 8
    """The storm brake: guests started at once on one infrastructure by this engine process, its share of what is set."""
    until: float | None = None
    """CLOCK_BOOTTIME seconds at which the engine process must have ended unless it was told otherwise: its daemon's lease of
    the store is over then. None is never."""


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True, tag="acknowledge"):
    """Records up to `sequence` are committed."""

    sequence: int


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """End the engine process; guests go on."""


# --- dped to cped


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """First message of an engine process."""

    process: str
    """Identity of this run of this engine process; a restart has another."""
    slot: str
    """Which of the daemon's engine slots this is, such as `0`, or `shop` for `isolation: process`."""
    pid: int
    loaded: tuple[str, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True, tag="record"):
    """One journal record: `event`, `decision` or `state`, or an event with the state that it led to."""

    sequence: int
    deployable: str = ""
    event: Event | None = None
    decision: dict[str, Any] | None = None
    state: bytes | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """The state of one deployable changed (not journalled; the newest one counts)."""

    status: DeployableStatus


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag="reply"):
    """Answer to an Unload or a Command."""

    request: int
    error: str = ""
    """Empty when it worked, else `CODE: sentence`."""
    result: Any = None


class Statistics(msgspec.Struct, frozen=True, kw_only=True, tag="statistics"):
    """Numbers of this engine process, sent every few seconds while they change."""

    counters: dict[str, float]


Down = Load | Unload | Command | Settings | Acknowledge | Shutdown
Up = Hello | Record | Status | Reply | Statistics

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    "down": msgspec.msgpack.Decoder(Down),
    "up": msgspec.msgpack.Decoder(Up),
}
_length = struct.Struct(">I")


def encode(message: Down | Up) -> bytes:
    """Return the frame of one message."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a message of {len(payload)} bytes is over the limit of {MAX_FRAME}")
    return _length.pack(len(payload)) + payload


async def receive_down(reader: asyncio.StreamReader) -> Down:
    """Read one message on dped's side; IncompleteReadError at the end, ValueError on garbage."""
    message: Down = _decoders["down"].decode(await _receive(reader))
    return message


async def receive_up(reader: asyncio.StreamReader) -> Up:
    """Read one message on cped's side; IncompleteReadError at the end, ValueError on garbage."""
    message: Up = _decoders["up"].decode(await _receive(reader))
    return message


async def _receive(reader: asyncio.StreamReader) -> bytes:
    (size,) = _length.unpack(await reader.readexactly(_length.size))
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
    return await reader.readexactly(size)
