"""The C halves of `socket` and `signal`. The public modules wrap their constants in enums, which costs each guest 1.2 MB.

Owns: the choice of those halves; nothing else of the agent imports them. They hold the same names with plain numbers.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
from _socket import getaddrinfo, socket

AF_INET6, AF_UNIX, AF_UNSPEC = _socket.AF_INET6, _socket.AF_UNIX, _socket.AF_UNSPEC
SOCK_STREAM, SOCK_DGRAM = _socket.SOCK_STREAM, _socket.SOCK_DGRAM
AI_PASSIVE = _socket.AI_PASSIVE
SOL_SOCKET, SO_REUSEADDR, SO_KEEPALIVE = _socket.SOL_SOCKET, _socket.SO_REUSEADDR, _socket.SO_KEEPALIVE
IPPROTO_TCP, TCP_NODELAY, TCP_USER_TIMEOUT = _socket.IPPROTO_TCP, _socket.TCP_NODELAY, _socket.TCP_USER_TIMEOUT
IPPROTO_IPV6, IPV6_V6ONLY = _socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY

SO_PEERCRED, SO_PASSCRED, SO_SNDBUFFORCE = _socket.SO_PEERCRED, _socket.SO_PASSCRED, 32
SCM_CREDENTIALS, MSG_TRUNC = _socket.SCM_CREDENTIALS, _socket.MSG_TRUNC
CREDENTIALS_SPACE = _socket.CMSG_SPACE(12)

SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGCHLD = 1, 2, 9, 13, 15, int(_signal.SIGCHLD)
SIG_IGN = int(_signal.SIG_IGN)

__all__ = ["getaddrinfo", "socket"]


def accept(listener: socket) -> tuple[socket, str]:
    """Accept a connection and return it with its peer's address as text."""
    fd, where = listener._accept()  # type: ignore[attr-defined]
    return socket(fileno=fd), f"{where[0]}:{where[1]}"


def accept_local(listener: socket) -> socket:
    """Accept a connection of a process of this guest."""
    return socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]


def set_wakeup_fd(fd: int) -> None:
    """Have signal numbers written into that descriptor."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def handle(number: int, handler: object) -> None:
    """Set a signal's handler."""
    _signal.signal(number, handler)


def signal_name(number: int) -> str:
    """Return a signal's name in words, such as `Killed`."""
    return str(_signal.strsignal(number) or number)
