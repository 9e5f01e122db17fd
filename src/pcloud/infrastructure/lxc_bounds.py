"""Limits of running LXC guests as the engine changes them: the control groups first, then the guest's configuration.

A guest that does not run gets them when it starts. Concurrency: one guest's calls never overlap; files are read and written
in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

from pcloud.environment.infrastructure import Bounded, InfrastructureError
from pcloud.infrastructure import lxc_limits, lxc_process
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.infrastructure.lxc_watch import Running


class LxcLimits:
    """The limits of one state folder's guests. Implements `pcloud.environment.infrastructure.Limits`."""

    def __init__(
        self,
        settings: LxcSettings,
        guests: Path,
        settled: Callable[[str], Awaitable[None]],
        whole: Callable[[str, Coroutine[None, None, None]], Awaitable[None]],
        find: Callable[[str], Running | None],
    ) -> None:
        """`settled(guest id)` waits for work on a guest that goes on, `whole(guest id, work)` brings such work to its end
        even when the caller is cancelled, `find(guest id)` returns a guest that runs."""
        self._settings = settings
        self._guests = guests
        self._settled = settled
        self._whole = whole
        self._find = find

    async def bound(self, guest_id: str, *, memory: int, cpus: float) -> Bounded:
        """Bring a guest that runs to these limits, or to the settings' where they are 0."""
        await self._settled(guest_id)
        running = self._find(guest_id)
        if running is None:
            return Bounded()
        memory, cpus = memory or self._settings.memory, cpus or self._settings.cpus
        changed: list[str] = []

        async def work() -> None:
            changed.extend(await asyncio.to_thread(self._bound, guest_id, running, memory, cpus))

        try:
            await self._whole(guest_id, work())
        except (OSError, InfrastructureError) as error:
            if not lxc_process.is_alive(running.init):
                return Bounded()  # it ended meanwhile, and its control groups with it
            raise InfrastructureError(f"limits of guest {guest_id}: {error}") from error
        return Bounded(changed=tuple(changed))

    def _bound(self, guest_id: str, running: Running, memory: int, cpus: float) -> list[str]:
        config = self._guests / guest_id / "config"
        fresh = lxc_limits.rewritten(config, memory, cpus)  # first: on a full disk nothing is changed
        try:
            changed = lxc_limits.settle(lxc_process.cgroups(running.init), memory, cpus)
        except (OSError, InfrastructureError):
            if fresh is not None:
                fresh.unlink(missing_ok=True)
            raise
        if fresh is not None:
            fresh.replace(config)
        return changed
