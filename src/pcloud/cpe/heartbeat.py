"""Whether an engine process that is connected still works: one that is stopped, or whose loop hangs, keeps its connection.

Concurrency: a task a connection. Time is counted in unanswered questions and not read from a clock, so that a daemon that
was itself stopped for a while, or a machine that was suspended, finds nobody guilty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pcloud.cpe.link import EngineLink, EngineRefused, new_request
from pcloud.dpe import messages
from pcloud.model.errors import Unavailable

INTERVAL = 5.0
"""Seconds from one question to the next, and for which an answer is waited; less where the limit is short."""


async def until_silent(link: EngineLink, limit: Callable[[], float]) -> bool:
    """Ask a connected engine process again and again. True once it has said nothing at all for `limit()` seconds though it
    was asked; False when the connection ended."""
    silent = 0.0
    while silent < limit():
        interval = min(INTERVAL, limit() / 3)
        heard = link.heard
        try:
            await link.request(messages.Command(name="", action="ping", request=new_request()), timeout=interval)
        except EngineRefused:
            pass  # of a build that does not know the question: it answers all the same
        except Unavailable as error:
            if not link.is_open():
                return False
            silent = silent + interval if link.heard == heard and error.code == "ENGINE_SILENT" else 0.0
            continue
        silent = 0.0
        await asyncio.sleep(interval)
    return True
