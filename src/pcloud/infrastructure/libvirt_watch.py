"""What happens to our domains, as a stream: libvirt's events, and looks at all guests for what no event told.

Owns nothing that outlives a watch. Concurrency: one watch a connection; it runs in asyncio's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pcloud.environment.infrastructure import GuestEvent, GuestState, InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure.libvirt_connection import LibvirtConnection

_RECONNECT = 1.0
_RESYNC = 30.0
"""Seconds between looks at all guests while watching: events are what counts, this is for those that were lost."""


async def watch(connection: LibvirtConnection, prefix: str) -> AsyncIterator[GuestEvent]:
    """Yield changes of domains whose names begin with `prefix`. While libvirtd is away nothing is told; when it is back,
    what differs is."""
    queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
    known: dict[str, GuestState] = {}

    def heard(name: str, event: int, detail: int) -> None:
        found = domains.event_of(name[len(prefix) :], event, detail) if name.startswith(prefix) else None
        if found is not None:
            queue.put_nowait(found)

    connection.listen(heard)
    follow = asyncio.create_task(_follow(connection, prefix, known, queue), name="libvirt watch")
    try:
        while True:
            found = await queue.get()
            known[found.guest_id] = found.state
            if found.state is GuestState.ABSENT:
                known.pop(found.guest_id)
            yield found
    finally:
        connection.listen(None)
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)


async def _follow(
    connection: LibvirtConnection, prefix: str, known: dict[str, GuestState], queue: asyncio.Queue[GuestEvent]
) -> None:
    """Look at all guests at first, after each reconnection and now and then; tell what differs from what was told."""
    generation, looked = -1, 0.0
    loop = asyncio.get_running_loop()
    while True:
        stale = not connection.connected or generation != connection.generation or loop.time() - looked > _RESYNC
        try:
            if stale:
                before = dict(known)
                seen = await connection.call(lambda c: domains.look_at_all(c, prefix))
                generation, looked = connection.generation, loop.time()
                # compared with `known` too: an event may have told it while we were looking
                for event in domains.differences(before, known, seen):
                    queue.put_nowait(event)
        except InfrastructureUnavailable:
            pass  # nothing is known: nothing is told
        except InfrastructureError:
            looked = loop.time()
        await asyncio.sleep(_RECONNECT)
