"""Doing a step for every node of a graph, each after what it requires.

Concurrency: one task a step, as many at once as the graph allows; all of them belong to the caller of `walk`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any


async def walk(
    requires: Mapping[str, frozenset[str]], step: Callable[[str], Coroutine[Any, Any, None]], stop: Callable[[], bool]
) -> None:
    """Run a step for every name, each after what it requires, in parallel. When `stop` says so nothing more is begun and
    what runs is cancelled."""
    missing = {name: sum(1 for other in others if other in requires) for name, others in requires.items()}
    wanted_by: dict[str, list[str]] = {}
    for name, others in requires.items():
        for other in others:
            wanted_by.setdefault(other, []).append(name)
    tasks: dict[asyncio.Task[None], str] = {}
    finished: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    def begin(name: str) -> None:
        task = asyncio.ensure_future(step(name))
        tasks[task] = name
        task.add_done_callback(finished.put_nowait)

    try:
        for name, count in missing.items():
            if count == 0:
                begin(name)
        while tasks:
            task = await finished.get()
            name = tasks.pop(task)
            task.result()
            if stop():
                return
            for other in wanted_by.get(name, ()):
                missing[other] -= 1
                if missing[other] == 0:
                    begin(other)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
