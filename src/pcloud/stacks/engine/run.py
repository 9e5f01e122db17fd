"""Carries one operation on one stack out, from whatever phase it is in; a restart calls it again for the same operation.

Concurrency: one task a stack; within it one task a resource, in parallel along the dependency graph (`making`, `removal`).
The end of an operation is made known only when it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.leftovers import Leftovers
from pcloud.stacks.engine.making import Making, StepFailed
from pcloud.stacks.engine.removal import Removal
from pcloud.stacks.engine.standing import Walking
from pcloud.stacks.records import StackRecord
from pcloud.stacks.salvage import beyond_its_type
from pcloud.stacks.types.base import failed

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager


class Run:
    """One operation of one stack."""

    def __init__(self, manager: StackManager, stack: StackRecord) -> None:
        self.manager = manager
        self.stack = stack
        self.turned: str | None = None
        """Why somebody asked to turn back."""
        self._inner: asyncio.Task[None] | None = None
        self._making = Making(manager, stack)
        self._removal = Removal(manager, stack)
        self._leftovers = Leftovers(manager, stack)
        self._walking = Walking(manager, stack)

    async def run(self) -> None:
        """Carry the operation through its phases to the end."""
        while self.stack.operation is not None:
            match self.stack.operation.phase:
                case "forward":
                    await self._forward()
                case "cleanup":
                    await self._cleanup("UPDATE_COMPLETE")
                case "rollback":
                    await self._rollback()
                case "rollback-cleanup":
                    await self._cleanup("UPDATE_ROLLBACK_COMPLETE")
                case "undo":
                    await self._delete_all("ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
                case "delete":
                    await self._delete_all("DELETE_COMPLETE", "DELETE_FAILED")
                case "suspend":
                    await self._walking.suspend()
                case "resume":
                    await self._walking.resume()
                case "check":
                    await self._walking.check()
                case phase:
                    raise AssertionError(f"unknown phase {phase}")

    def turn_back(self, reason: str) -> None:
        """Stop going forward."""
        self.turned = reason
        if self._inner is not None:
            self._inner.cancel()

    def _turned_reason(self) -> str | None:
        return self.turned  # may have changed while its caller waited

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the forward work until it ends, is turned back or the operation's time is over."""
        operation = self.stack.operation
        assert operation is not None
        if self.turned is not None:
            work.close()
            raise StepFailed(self.turned)
        self._inner = asyncio.ensure_future(work)
        left = operation.deadline - self.manager.now() if operation.deadline else None
        try:
            async with asyncio.timeout(max(left, 0.0) if left is not None else None):
                await asyncio.shield(self._inner)
        except TimeoutError:
            raise StepFailed(f"Stack {operation.action.lower()} timed out") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            reason = self._turned_reason()
            if reason is None or task.cancelling():
                raise  # this very task is to end, not only its forward work
            raise StepFailed(reason) from None
        finally:
            if not self._inner.done():
                self._inner.cancel()
                with contextlib.suppress(asyncio.CancelledError, StepFailed):
                    await self._inner
            self._inner = None

    async def _forward(self) -> None:
        operation = self.stack.operation
        assert operation is not None
        assert operation.target is not None
        try:
            await self.manager.prepare_guests(operation.target)
            await self.manager.check_addresses(operation.target)
            await self._bounded(self._making.converge(operation.target))
            self._making.resolve_outputs(operation.target)
        except (StepFailed, PcloudError) as problem:
            await self._turn(failed(problem))
            return
        self.stack.source = operation.target
        if operation.action == "CREATE":
            await self.manager.finish(self.stack, "CREATE_COMPLETE", "")
        else:
            await self.manager.enter(self.stack, "cleanup", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "")

    async def _turn(self, reason: str) -> None:
        """Decide what a failure leads to."""
        operation = self.stack.operation
        assert operation is not None
        operation.reason = reason
        if operation.action == "CREATE":
            if operation.on_failure == "DO_NOTHING":
                self.stack.source = operation.target
                await self.manager.finish(self.stack, "CREATE_FAILED", reason)
            elif operation.on_failure == "DELETE":
                await self.manager.enter(self.stack, "delete", "DELETE_IN_PROGRESS", reason)
            else:
                await self.manager.enter(self.stack, "undo", "ROLLBACK_IN_PROGRESS", reason)
        elif operation.on_failure == "DO_NOTHING":
            await self.manager.finish(self.stack, "UPDATE_FAILED", reason)
        else:
            await self.manager.enter(self.stack, "rollback", "UPDATE_ROLLBACK_IN_PROGRESS", reason)

    async def _rollback(self) -> None:
        operation = self.stack.operation
        assert operation is not None
        assert operation.previous is not None
        self.turned = None
        try:
            await self._making.converge(operation.previous, restoring=True)
            self._making.resolve_outputs(operation.previous)
        except (StepFailed, PcloudError) as problem:
            await self.manager.finish(self.stack, "UPDATE_ROLLBACK_FAILED", failed(problem), keep=True)
            return
        self.stack.source = operation.previous
        await self.manager.enter(
            self.stack, "rollback-cleanup", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", operation.reason
        )

    async def _cleanup(self, end: str) -> None:
        operation = self.stack.operation
        assert operation is not None
        assert self.stack.source is not None
        wanted = {name for name, record in self.manager.current(self.stack).items() if not record.condemned}
        kept = self._making.enabled_names(self.stack.source)
        doomed = [
            record
            for record in self.manager.records(self.stack)
            if record.condemned or record.name not in wanted or record.name not in kept
        ]
        left = await self._removal.delete(doomed)
        reason = operation.reason if end != "UPDATE_COMPLETE" else ""
        if left:
            reason = f"The following resource(s) could not be deleted: [{', '.join(sorted({r.name for r in left}))}]"
        await self.manager.finish(self.stack, end, reason)

    async def _delete_all(self, end: str, bad_end: str) -> None:
        operation = self.stack.operation
        assert operation is not None
        records = [record for record in self.manager.records(self.stack) if record.name not in operation.retain]
        lost = [record for record in records if beyond_its_type(record)]
        names = ", ".join(sorted({record.name for record in lost}))
        left = await self._leftovers.guests(lost)
        if not left:
            left = await self._removal.delete(record for record in records if record not in lost)
            left += await self._leftovers.things(lost)
        if left:
            stay = ", ".join(sorted({record.name for record in left}))
            await self.manager.finish(self.stack, bad_end, f"The following resource(s) failed to delete: [{stay}].")
            return
        if end == "ROLLBACK_COMPLETE":
            self.stack.source = operation.target
        self.stack.outputs = {}
        told = f"Not everything is known of [{names}]: their events say what" if lost else ""
        await self.manager.finish(self.stack, end, operation.reason if end == "ROLLBACK_COMPLETE" else told)
