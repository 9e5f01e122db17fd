"""Carries out the operations of stacks that were accepted: begins them, lets each go on, and ends it.

Concurrency: one task for each stack that has an operation under way. What an operation has come to is stored before it is
told; nothing is decided any more once the daemon stops.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.run import Run
from pcloud.stacks.engine.standing import Standing
from pcloud.stacks.guests.wanted import may_make_guests, may_take_addresses
from pcloud.stacks.records import Source, StackRecord

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager

_log = logging.getLogger(__name__)


class Operations(Standing):
    """The part of the manager that carries operations out."""

    async def wait(self, stack: StackRecord) -> None:
        """Return when no operation of the stack is under way."""
        while (task := self._tasks.get(stack.id)) is not None:
            await asyncio.wait([task])
            if self._tasks.get(stack.id) is task:
                return

    async def prepare_guests(self, source: Source) -> None:
        """Be reachable for guests when a source may make some: the URLs that they are given name the address."""
        if may_make_guests(source):
            self.metadata_url = await self.platform.prepare() or self.metadata_url

    async def check_addresses(self, source: Source) -> None:
        """PcloudError when a source may take addresses, and its infrastructure has none to give."""
        if may_take_addresses(source):
            await self.platform.offers_addresses()

    async def _release_guests(self, gone: StackRecord) -> None:
        def has(stack: StackRecord) -> bool:
            if stack.id in self.unreadable:
                return True  # it may have some
            operation = stack.operation
            known = (stack.source, operation.target if operation else None, operation.previous if operation else None)
            return any(may_make_guests(source) for source in known if source is not None)

        if not has(gone) or any(has(stack) for stack in self.stacks.values() if stack.live and stack is not gone):
            return
        await self.platform.release()

    async def _accept(self, stack: StackRecord, status: str, reason: str) -> None:
        stack.status, stack.reason = status, reason
        self.store.put(stack)
        self.event(stack, None, status, reason)
        await self.store.flush()
        self._begin(stack)

    def _begin(self, stack: StackRecord) -> None:
        run = Run(cast("StackManager", self), stack)  # it is always a part of one
        self._runs[stack.id] = run
        self._tasks[stack.id] = asyncio.ensure_future(self._guard(run))

    async def _guard(self, run: Run) -> None:
        task = asyncio.current_task()
        try:
            await run.run()
        except PcloudError as problem:
            _log.error("stack %s: %s", run.stack.name, problem)
            if not self.closing:
                run.stack.status = run.stack.status.replace("IN_PROGRESS", "FAILED")
                run.stack.reason = str(problem)
        finally:
            if self._tasks.get(run.stack.id) is task:
                del self._tasks[run.stack.id]
                self._runs.pop(run.stack.id, None)

    def _still_open(self) -> None:
        """End the calling task when the daemon stops: nothing may be decided any more."""
        if self.closing:
            raise asyncio.CancelledError

    async def enter(self, stack: StackRecord, phase: str, status: str, reason: str) -> None:
        """Go on to another phase of the operation, durably."""
        assert stack.operation is not None
        self._still_open()
        stack.operation.phase = phase
        stack.status, stack.reason = status, reason
        self.store.put(stack)
        self.event(stack, None, status, reason)
        await self.store.flush()

    async def finish(self, stack: StackRecord, status: str, reason: str, *, keep: bool = False) -> None:
        """End the operation. The new status is visible once it is stored."""
        self._still_open()
        if status == "DELETE_COMPLETE":
            await self._release_guests(stack)
        kept = keep or status in ("CREATE_FAILED", "UPDATE_FAILED", "DELETE_FAILED")
        final = StackRecord(**{field: getattr(stack, field) for field in StackRecord.__struct_fields__})
        final.status, final.reason = status, reason
        final.operation = stack.operation if kept else None
        if status == "DELETE_COMPLETE":
            final.deleted = self.now()
        self.store.put(final)
        self.event(stack, None, status, reason)
        await self.store.flush()
        operation = stack.operation
        stack.status, stack.reason, stack.deleted, stack.operation = status, reason, final.deleted, final.operation
        if status == "DELETE_COMPLETE" and self._names.get(stack.name) == stack.id:
            del self._names[stack.name]
        if status == "DELETE_COMPLETE":
            self.unreadable.pop(stack.id, None)
            self.watcher.metrics.drop(stack.id)
        self._note_exports(stack)
        if status == "DELETE_COMPLETE":
            self.prune()
        if not kept and operation is not None and operation.change_set:
            self.executed(operation.change_set)
        if kept:
            task = self._tasks.pop(stack.id, None)
            self._runs.pop(stack.id, None)
            if task is not None and task is asyncio.current_task():
                raise _Ended


class _Ended(asyncio.CancelledError):
    """Ends the task of an operation that stopped half way and is kept for later."""
