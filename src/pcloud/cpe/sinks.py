"""Runs the configured sinks over the log; started anew when the settings change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.settings import SinkSettings
from pcloud.events.event import Event
from pcloud.events.filters import EventFilter
from pcloud.events.sinks.base import Sink
from pcloud.events.sinks.runner import SinkRunner
from pcloud.model.errors import PcloudError

_log = logging.getLogger(__name__)


class SinkManager:
    """All sinks of the daemon."""

    def __init__(self, engine: CloudPolicyEngine) -> None:
        self._engine = engine
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every configured sink after the last event it delivered; a new one begins with what happens from now on."""
        for settings in self._engine.settings.sinks:
            cursor = await self._engine.store.log.cursor(_cursor(settings.name))
            if not cursor:
                cursor = await self._engine.store.log.head()
            runner = SinkRunner(
                settings.name,
                make(settings, self._engine.host),
                settings.filter(),
                read=self._read,
                save=self._saver(settings.name),
                broadcaster=self._engine.broadcaster,
                give_up=settings.give_up,
            )
            self._tasks.append(asyncio.create_task(self._run(runner, cursor), name=f"sink-{settings.name}"))

    async def close(self) -> None:
        """Stop all; what was not delivered is delivered after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, runner: SinkRunner, cursor: int) -> None:
        while True:
            try:
                await runner.run(cursor)
                return
            except PcloudError as error:
                _log.error("sink %s waits for the store: %s", runner.name, error)
                await asyncio.sleep(5)
                try:
                    cursor = await self._engine.store.log.cursor(_cursor(runner.name)) or cursor
                except PcloudError:
                    continue

    async def _read(self, where: EventFilter, after: int, limit: int) -> tuple[list[Event], int]:
        return await self._engine.events(where, after=after, limit=limit)

    def _saver(self, name: str) -> Callable[[int], Awaitable[None]]:
        async def save(sequence: int) -> None:
            await self._engine.store.log.put_cursor(_cursor(name), sequence)

        return save


def _cursor(name: str) -> str:
    return f"sink:{name}"


def make(settings: SinkSettings, host: str) -> Sink:
    """Make the sink that the settings describe."""
    if settings.kind == "webhook":
        from pcloud.events.sinks.webhook import Webhook

        return Webhook(settings.url, host=host, secret=settings.secret, timeout=settings.timeout)
    if settings.kind == "command":
        from pcloud.events.sinks.command import Command

        return Command(settings.command, host=host, timeout=settings.timeout)
    from pcloud.events.sinks.syslog import Syslog

    return Syslog(settings.address, host=host)
