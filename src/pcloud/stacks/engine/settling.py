"""Brings guests that came up to the rules and addresses that their definition has by now.

A guest that is just being started takes those that it had when its start began; a change in between finds nothing to change.

Concurrency: one task, woken by the engine's events; one guest after the other.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pcloud.events.event import Event
from pcloud.model.errors import PcloudError

if TYPE_CHECKING:
    from pcloud.stacks.engine.state import State

_log = logging.getLogger(__name__)


class Settling:
    """The guests of this host that are in security groups."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._came: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def seen(self, event: Event) -> None:
        """Take an event of the engine."""
        if event.type == "assembly.state" and event.state == "running":
            record = self._state.guest_of(event.deployable, event.assembly)
            if record is not None and record.data.get("groups"):
                self._came.put_nowait((event.deployable, event.assembly))

    async def run(self) -> None:
        """Settle one guest after the other."""
        while True:
            place = await self._came.get()
            try:
                await self._state.platform.settle(*place)
            except PcloudError as problem:  # it ended again: its next start is told as well
                _log.info("%s/%s: %s", *place, problem)
