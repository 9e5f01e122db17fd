"""The daemon's end at any of its writes: a store that stops writing, and stacks of networks taken through each such end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.store import SqliteStore
from tests.stacks.lifecycle import made, opened, settle
from tests.stacks.memory_networks import MemoryNetworks, Networked


class CrashingStore(SqliteStore):
    """Writes the first `left` records, then none any more: what a kill -9 between two commits leaves."""

    left = 1_000_000
    crashed = False

    def _spend(self) -> bool:
        if self.left <= 0:
            self.crashed = True
            return False
        self.left -= 1
        return True

    def put(self, record: Any) -> None:
        if self._spend():
            super().put(record)

    def remove(self, record: Any) -> None:
        if self._spend():
            super().remove(record)

    def forget(self, stack: str) -> None:
        if self._spend():
            super().forget(stack)

    def set(self, kind: str, key: str, value: Any) -> None:
        if self._spend():
            super().set(kind, key, value)

    async def flush(self) -> None:
        await super().flush()
        if self.crashed:
            await asyncio.Event().wait()  # nobody ever learns of it


async def crash_everywhere(
    folder: Path, source: Source, *, deleting: bool, step: int, whole: Callable[[MemoryNetworks, dict[str, str]], None]
) -> None:
    """Make or delete a stack and crash at every so many writes; the next start comes to the same end: all of it is there,
    which `whole` asserts, or nothing is."""
    for point in range(0, 10_000, step):
        platform = Networked()
        store = CrashingStore(folder / f"{point}.db")
        manager = StackManager(store, platform)
        await manager.start()
        if deleting:
            await made(manager, "s", source)
        store.left = point

        async def operate(manager: StackManager = manager) -> None:
            if deleting:
                await manager.delete(manager.get("s"))
            else:
                await manager.create("s", source)
            await settle(manager)

        work = asyncio.ensure_future(operate())
        async with asyncio.timeout(120):
            while not work.done() and not store.crashed:
                await asyncio.sleep(0.001)
        crashed = store.crashed
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await manager.close()
        again = StackManager(SqliteStore(folder / f"{point}.db"), platform)
        await again.start()
        await settle(again)
        live = [stack for stack in again.stacks.values() if stack.live]
        if live and not (deleting and live[0].status == "CREATE_COMPLETE"):
            assert [stack.status for stack in live] == ["CREATE_COMPLETE"], (point, live[0].reason)
        if live:
            whole(platform.networks, platform.outer)
        else:
            assert platform.networks.empty, point
        await again.close()
        if not crashed:
            break
    else:
        pytest.fail("it never came to its end")
    assert point > 10


async def updated_over_a_crash(
    manager: StackManager, folder: Path, platform: Platform, stack: StackRecord, source: Source, after: int
) -> tuple[StackManager, StackRecord]:
    """Update a stack by a daemon that ends at the write of a number, and another over the same store; return that and the
    stack, which is what the source wants."""
    await manager.store.flush()
    left, put = after, manager.store.put

    def counted(record: Any) -> None:
        nonlocal left
        left -= 1
        if left > 0:
            put(record)
        elif left == 0:
            manager.closing = True
            manager._tasks[stack.id].cancel()

    manager.store.put = counted  # type: ignore[method-assign]
    await manager.update(stack, source)
    await manager.wait(stack)
    await manager.close()
    again = await opened(folder, platform)
    found = again.get(stack.id)
    await again.wait(found)
    if found.status == "CREATE_COMPLETE":  # it died before the update was accepted
        await again.update(found, source)
        await again.wait(found)
    assert found.status == "UPDATE_COMPLETE", found.reason
    return again, found
