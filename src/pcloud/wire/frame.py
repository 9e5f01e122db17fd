"""Frames of the Pacemaker Remote protocol: a 40-byte header, then XML and a NUL, perhaps bzip2-compressed.

Owns: the header's layout and every check of its sizes. Pure: bytes in, payloads out. A decoder belongs to one connection;
an idle one holds no buffer. Sizes are checked as soon as the header is there, and memory grows only with what arrived.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("=IIQQIIII")
_SWAPPED = struct.Struct(">IIQQIIII" if HEADER.pack(1, 0, 0, 0, 0, 0, 0, 0)[0] == 1 else "<IIQQIIII")
MAGIC = 0xBADADBBD
VERSION = 1
MAX_FRAME = 20 * 1024 * 1024
"""Largest frame in bytes, compressed and not; upstream's own limit."""


class FrameError(Exception):
    """The peer does not speak the protocol; `code` is stable: BAD_MAGIC, BAD_HEADER, TOO_LARGE, BAD_PAYLOAD."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def encode(payload: bytes, number: int = 0) -> tuple[bytes, bytes]:
    """Return header and body of one frame. They are to be sent as two TLS records: Pacemaker 2.1.5 hangs otherwise."""
    size = len(payload) + 1
    total = HEADER.size + size
    if total > MAX_FRAME:
        raise FrameError("TOO_LARGE", f"a frame of {total} bytes is over the limit of {MAX_FRAME}")
    header = HEADER.pack(MAGIC, VERSION, number & 0xFFFFFFFFFFFFFFFF, 0, total, HEADER.size, 0, size)
    return header, payload + b"\0"


def _sizes(header: bytes, limit: int) -> tuple[int, int, int]:
    """Return (total size, compressed payload, uncompressed payload) of a checked header."""
    fields = HEADER.unpack(header)
    if fields[0] != MAGIC:
        fields = _SWAPPED.unpack(header)  # a peer of the other endianness
        if fields[0] != MAGIC:
            raise FrameError("BAD_MAGIC", f"a frame begins with {header[:4].hex()}, which is not Pacemaker Remote")
    _magic, version, _number, _flags, total, offset, packed, plain = fields
    if version < 1 or offset != HEADER.size:
        raise FrameError("BAD_HEADER", f"header version {version} with {offset} bytes is not known")
    if plain < 1 or offset + (packed or plain) != total:
        raise FrameError("BAD_HEADER", f"sizes contradict each other: {total} is not {offset} + {packed or plain}")
    if total > limit or offset + plain > limit:
        raise FrameError("TOO_LARGE", f"a frame of {max(total, offset + plain)} bytes is over the limit of {limit}")
    return total, packed, plain


def unpack(body: bytes, plain: int) -> bytes:
    """Return the decompressed body; FrameError. Never makes more than was announced (and checked)."""
    import bz2  # here, because hardly any peer compresses and the module costs the agent memory

    unpacker = bz2.BZ2Decompressor()
    try:
        payload = unpacker.decompress(body, plain + 1)
    except (OSError, ValueError, EOFError) as error:
        raise FrameError("BAD_PAYLOAD", f"the compressed payload is damaged: {error}") from error
    if len(payload) != plain or not unpacker.eof or unpacker.unused_data:
        raise FrameError("BAD_PAYLOAD", f"the compressed payload does not hold the {plain} bytes that were announced")
    return payload


class Decoder:
    """Collects one connection's received bytes and cuts them into payloads (XML without the final NUL)."""

    __slots__ = ("_buffer", "_needed", "_packed", "_plain", "limit")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._buffer: bytearray | None = None
        self._needed = HEADER.size
        self._packed = self._plain = 0

    @property
    def incomplete(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._buffer is not None

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes and return the payloads that they complete; FrameError ends the connection."""
        payloads: list[bytes] = []
        # The usual case first: header and body each come alone and complete, and nothing needs to be kept but the header.
        held = self._buffer
        if held is None:
            held = self._buffer = bytearray(data)
        else:
            held += data
        while len(held) >= self._needed:
            if not self._plain:
                self._needed, self._packed, self._plain = _sizes(bytes(held[: HEADER.size]), self.limit)
                continue
            body = bytes(held[HEADER.size : self._needed])
            del held[: self._needed]
            if self._packed:
                body = unpack(body, self._plain)
            if body[-1] != 0 or body.find(b"\0") != len(body) - 1:
                raise FrameError("BAD_PAYLOAD", "a payload is not one text that ends in a NUL")
            payloads.append(body[:-1])
            self._needed, self._packed, self._plain = HEADER.size, 0, 0
        if not held:
            self._buffer = None
        return payloads
