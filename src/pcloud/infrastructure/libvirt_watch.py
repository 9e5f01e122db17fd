"""What happens to our domains, as a stream: libvirt's events, and looks at all guests for what no event told.

Owns nothing that outlives a watch. Concurrency: one watch a connection; it runs in asyncio's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from pcloud.environment.infrastructure import GuestEvent, GuestState, InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure.libvirt_connection import LibvirtConnection

_RECONNECT = 1.0
_REACH = 5.0
"""Seconds to wait for a connection before it counts as one more silence."""
_SILENT = 10.0
"""Seconds without libvirtd until that is told: a restart of it takes less."""
_RESYNC = 30.0
"""Seconds between looks at all guests while watching: events are what counts, this is for those that were lost."""


async def watch(connection: LibvirtConnection, prefix: str, known: dict[str, GuestState]) -> AsyncGenerator[GuestEvent]:
    """Yield changes of domains whose names begin with `prefix`. While libvirtd is away nothing is told of them:
    InfrastructureUnavailable, once it was for `_SILENT` seconds. `known` is what was told until then; with it, the next
    watch tells what differs when libvirtd is back."""
    queue: asyncio.Queue[GuestEvent | InfrastructureUnavailable] = asyncio.Queue()

    def heard(name: str, event: int, detail: int) -> None:
        found = domains.event_of(name[len(prefix) :], event, detail) if name.startswith(prefix) else None
        if found is not None:
            queue.put_nowait(found)

    connection.listen(heard)
    follow = asyncio.create_task(_follow(connection, prefix, known, queue), name="libvirt watch")
    try:
        while True:
            found = await queue.get()
            if isinstance(found, InfrastructureUnavailable):
                raise found
            known[found.guest_id] = found.state
            if found.state is GuestState.ABSENT:
                known.pop(found.guest_id)
            yield found
    finally:
        connection.listen(None)
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)


async def _follow(
    connection: LibvirtConnection,
    prefix: str,
    known: dict[str, GuestState],
    queue: asyncio.Queue[GuestEvent | InfrastructureUnavailable],
) -> None:
    """Look at all guests at first, after each reconnection and now and then; tell what differs from what was told, and at
    last that libvirtd is away."""
    generation, looked = -1, 0.0
    loop = asyncio.get_running_loop()
    answered = loop.time()
    while True:
        stale = not connection.connected or generation != connection.generation or loop.time() - looked > _RESYNC
        try:
            if stale:
                before = dict(known)
                await connection.reach(_REACH)
                seen = await connection.call(lambda c: domains.look_at_all(c, prefix))
                generation, looked = connection.generation, loop.time()
                # compared with `known` too: an event may have told it while we were looking
                for event in domains.differences(before, known, seen):
                    queue.put_nowait(event)
            answered = loop.time()
        except InfrastructureUnavailable as error:
            if loop.time() - answered >= _SILENT:
                queue.put_nowait(error)
                return
        except InfrastructureError:
            answered = looked = loop.time()
        await asyncio.sleep(_RECONNECT)
