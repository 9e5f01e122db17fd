"""TCP ports for the daemons of tests.

They lie below the range from which a kernel takes the near port of a connection, by default 32768 and more. A port from that
range may be taken between its choice and its use, by any connection of any process, and one who asks it again and again
whether somebody listens yet can be given that very port as his own near one: he is then connected with himself.
Above 26000 no peer of the tests has a port of its own.

One list a process; a port stays reserved for others until some dozens more were chosen.
"""

from __future__ import annotations

import collections
import contextlib
import secrets
import socket

_PORTS = range(26_000, 32_000)
_KEPT = 100
_held: collections.deque[socket.socket] = collections.deque()


def free_port() -> int:
    """Return a port on which nothing listens, and which no other run of the tests on this machine is given meanwhile."""
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        with contextlib.ExitStack() as made, contextlib.suppress(OSError):
            # An abstract name: it is gone with the process that holds it, however that ends.
            reservation = made.enter_context(socket.socket(socket.AF_UNIX))
            reservation.bind(f"\0pcloud-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            made.pop_all()
            _held.append(reservation)
            if len(_held) > _KEPT:
                _held.popleft().close()
            return port
    raise RuntimeError("no port is free")
