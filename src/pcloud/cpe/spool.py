"""Takes in the spools that dead engine processes left: records that nobody had acknowledged.

A spool is what the engine would have sent: frames of Record, one after the other. A crash may have cut the last one off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pcloud.dpe import messages

_length = struct.Struct(">I")
_decoder = msgspec.msgpack.Decoder(messages.Up)


def records(path: Path) -> Iterator[messages.Record]:
    """Yield the records of a spool up to its end or to the first frame that is not whole; OSError when unreadable."""
    with path.open("rb") as file:
        while len(head := file.read(_length.size)) == _length.size:
            (size,) = _length.unpack(head)
            if size > messages.MAX_FRAME:
                return
            payload = file.read(size)
            if len(payload) < size:
                return
            try:
                message = _decoder.decode(payload)
            except msgspec.MsgspecError:
                return
            if isinstance(message, messages.Record):
                yield message
