"""One live connection to an engine process.

Concurrency: the reader task is the only one that reads; whoever wants to send queues a frame, one task writes. Requests
are answered through futures; when the connection goes, every open request fails with Unavailable.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from pcloud.dpe import messages
from pcloud.model.errors import PcloudError, Problem, Unavailable


class EngineRefused(PcloudError):
    """The engine did not do what was asked; the problem's code is the engine's."""

    status = 409


# Replies to requests of an earlier life of the daemon must not be taken for ours.
_requests = itertools.count(time.time_ns() // 1_000_000)


class EngineLink:
    """A connection after its Hello."""

    def __init__(self, hello: messages.Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hello = hello
        self.slot = hello.slot
        self.process = hello.process
        self.loaded: set[str] = set(hello.loaded)
        """Deployables that this engine process holds, as far as we know."""
        self.counters: dict[str, float] = {}
        self.heard = 0
        """How many messages came in: a sign of life."""
        self.reader = reader
        self._writer = writer
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._closed = False

    def is_open(self) -> bool:
        """Tell whether anything sent may still arrive."""
        return not self._closed

    def send(self, message: messages.Down) -> None:
        """Queue a message; silently dropped when the connection has gone (the next one starts from desired state)."""
        if not self._closed:
            self._writer.write(messages.encode(message))

    async def drain(self) -> None:
        """Wait until the engine has taken most of what was queued; Unavailable when the connection went."""
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise self._gone() from error

    async def request(self, message: messages.Unload | messages.Command, *, timeout: float | None = None) -> Any:
        """Send a message that bears `new_request()` and return its result.

        EngineRefused with the engine's own code; Unavailable when the connection goes or the time is up.
        """
        if self._closed:
            raise self._gone()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies[message.request] = future
        try:
            self.send(message)
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError as error:
            raise Unavailable(
                Problem(code="ENGINE_SILENT", message=f"the engine did not answer within {timeout:g} s")
            ) from error
        finally:
            del self._replies[message.request]

    def answer(self, reply: messages.Reply) -> None:
        """Give a reply to whoever waits for it."""
        future = self._replies.get(reply.request)
        if future is None or future.done():
            return
        if reply.error:
            code, colon, message = reply.error.partition(": ")
            if not colon or not code.replace("_", "").isalnum():
                code, message = "ENGINE_REFUSED", reply.error
            future.set_exception(EngineRefused(Problem(code=code, message=message)))
        else:
            future.set_result(reply.result)

    def acknowledge(self, sequence: int) -> None:
        """Tell the engine that its records up to `sequence` are committed."""
        self.send(messages.Acknowledge(sequence=sequence))

    def resend(self) -> None:
        """Close the connection, so that the engine connects anew and sends every unacknowledged record."""
        self.close()

    def close(self) -> None:
        """Close; open requests fail."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(self._gone())

    def _gone(self) -> Unavailable:
        return Unavailable(
            Problem(
                code="ENGINE_AWAY",
                message=f"the connection to engine process {self.slot} went away",
                hint="it comes back by itself within a second or so; ask again",
            )
        )


def new_request() -> int:
    """Return a request number that was never used."""
    return next(_requests)
