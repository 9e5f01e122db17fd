"""A manager of stacks opened, and stacks taken to the end that an operation must come to."""

from __future__ import annotations

from pathlib import Path

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.store import SqliteStore


async def opened(folder: Path, platform: Platform) -> StackManager:
    """A manager over the store in a folder, carrying on what was left there."""
    manager = StackManager(SqliteStore(folder / "stacks.db"), platform)
    await manager.start()
    return manager


async def made(manager: StackManager, name: str, source: Source) -> StackRecord:
    """A stack that was created."""
    stack = await manager.create(name, source)
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return stack


async def changed(manager: StackManager, stack: StackRecord, source: Source) -> None:
    """Update a stack, which must succeed."""
    await manager.update(stack, source)
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason


async def settle(manager: StackManager) -> None:
    """Wait for whatever is being done to any stack."""
    for stack in list(manager.stacks.values()):
        await manager.wait(stack)
