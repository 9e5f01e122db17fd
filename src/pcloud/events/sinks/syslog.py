"""Syslog sink: a readable line for each event, to the local socket or to a host by UDP."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pcloud.events.event import Event, Severity
from pcloud.events.sinks.base import DeliveryError

_FACILITY_DAEMON = 3
_LEVELS = {Severity.INFO: 6, Severity.NOTICE: 5, Severity.WARNING: 4, Severity.CRITICAL: 2}


class Syslog:
    """Sends events to syslog: RFC 5424 over UDP, the traditional local form on a Unix socket."""

    def __init__(self, address: str = "/dev/log", *, host: str) -> None:
        self._address = address
        self._host = host
        self._socket: socket.socket | None = None

    async def deliver(self, event: Event) -> None:
        """Send one line; datagrams do not wait for a receiver."""
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.send(self._line(event))
        except OSError as error:
            await self.close()
            raise DeliveryError(f"syslog at {self._address}: {error.strerror or error}") from error

    def _connect(self) -> socket.socket:
        if self._address.startswith("/"):
            if not Path(self._address).exists():
                raise FileNotFoundError(2, "there is no such socket")
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            target: Any = self._address
        else:
            host, _, port = self._address.rpartition(":")
            family, kind, protocol, _, target = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )[0]
            made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        try:
            made.connect(target)
        except OSError:
            made.close()
            raise
        return made

    def _line(self, event: Event) -> bytes:
        priority = _FACILITY_DAEMON * 8 + _LEVELS[event.severity]
        subject = "/".join(part for part in (event.deployable, event.assembly, event.resource) if part)
        text = " ".join(part for part in (event.type, subject, event.state, event.reason) if part)
        # A line break would let an event's text start a record of its own.
        text = "".join(character if character.isprintable() else "?" for character in text)[:1800]
        if self._address.startswith("/"):
            return f"<{priority}>pcloud: {text}".encode()
        when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
        return f"<{priority}>1 {when} {self._host} pcloud - {event.sequence} - {text}".encode()

    async def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
