"""Command sink: a program is run for each event, with the CloudEvents JSON on its standard input. No shell."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

from pcloud.events.cloudevents import encode
from pcloud.events.event import Event
from pcloud.events.sinks.base import DeliveryError


class Command:
    """Runs an argument vector for each event."""

    def __init__(self, argv: Sequence[str], *, host: str, timeout: float = 30.0) -> None:
        self._argv = tuple(argv)
        self._host = host
        self._timeout = timeout

    async def deliver(self, event: Event) -> None:
        """Run it; exit status 0 counts as delivered. After the time-out its whole process group is killed."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryError(f"{self._argv[0]} can not be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout):
                await process.communicate(encode(event, self._host) + b"\n")
        except TimeoutError as error:
            raise DeliveryError(f"{self._argv[0]} did not end within {self._timeout:g} s") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise DeliveryError(f"{self._argv[0]} ended with status {process.returncode}")

    async def close(self) -> None:
        """Nothing is held between events."""
