"""The process that calls Pacemaker's library: `python -m pcloud.scheduler.worker DESCRIPTOR PARENT [sanitized]`.

Owns nothing but the library. It reads requests from the socket DESCRIPTOR one after the other and answers each in order:
request = 4 bytes big-endian length + CIB; answer = 4 bytes length + 1 byte kind + body. The first thing it sends is a
`READY` answer with the library's version. It may abort at any moment, ends when the socket closes, and is killed by
the kernel when PARENT dies. Imports stay few: its start is waited for, and its memory counts.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

GRAPH = b"G"
"""The body is a transition graph."""
REFUSED = b"E"
"""The body is a sentence that says why there is none."""
READY = b"R"
"""The body is the version of the library."""

MAX_INPUT = 64 * 1024 * 1024
"""Bytes; a CIB over this is refused before it is sent."""

SANITIZED, BRIEF = 1, 2
"""Options of the C function; `pacemaker.c` tells what they mean."""

LENGTH = struct.Struct(">I")


def serve(connection: socket.socket, *, sanitized: bool) -> None:
    """Answer requests until the other side closes."""
    from pcloud.scheduler._pacemaker import ffi, lib

    if lib.pcloud_init() != 0:
        raise OSError("Pacemaker's library could not be set up")
    version = ffi.string(lib.pcloud_version())
    connection.sendall(LENGTH.pack(1 + len(version)) + READY + version)
    options = BRIEF | (SANITIZED if sanitized else 0)
    answer = ffi.new("char **")
    size = ffi.new("size_t *")
    header = bytearray(LENGTH.size)
    while _fill(connection, memoryview(header)):
        text = bytearray(LENGTH.unpack(header)[0])
        if not _fill(connection, memoryview(text)):
            return
        kind = GRAPH if lib.pcloud_schedule(ffi.from_buffer(text), len(text), options, answer, size) == 0 else REFUSED
        body = ffi.buffer(answer[0], size[0])
        connection.sendall(b"".join((LENGTH.pack(1 + len(body)), kind, body)))
        lib.pcloud_free(answer[0])


def _fill(connection: socket.socket, view: memoryview) -> bool:
    """Fill the view from the socket; false when the other side closed first."""
    while view:
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def main(arguments: list[str]) -> int:
    """Serve on the descriptor given as the first argument, for the parent given as the second."""
    from pcloud.scheduler._pacemaker import lib

    connection = socket.socket(fileno=int(arguments[0]))
    if not lib.pcloud_follow(int(arguments[1])):
        return 0
    os.umask(0o077)
    try:
        serve(connection, sanitized="sanitized" in arguments[2:])
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent went away: nobody is left to answer
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
