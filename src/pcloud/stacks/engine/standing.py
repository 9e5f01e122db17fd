"""Suspends, resumes and checks stacks: nothing is made, changed or deleted.

A stack is suspended when the guests of all its deployables are stopped, with their disks, and those of its nested stacks,
each resource after those that need it; resumed in the other order. Each step looks at what is there and may be done again.

Concurrency: part of a stack's one operation; one task a resource. The end of an operation is stored before it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pcloud.model.deployable import ResourceState
from pcloud.model.errors import Conflict, PcloudError
from pcloud.stacks.engine.changes import Changes
from pcloud.stacks.engine.walk import walk
from pcloud.stacks.guests import assemblies
from pcloud.stacks.records import Operation, ResourceRecord, StackRecord
from pcloud.stacks.types.base import Context, ResourceFailed, failed

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager

STOP_SECONDS = 900.0
"""How long the guests of one deployable may take until they are stopped."""
_UNFINISHED = ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED", "DELETE_COMPLETE")


class Standing(Changes):
    """The part of the manager that accepts these operations."""

    async def suspend(self, stack: StackRecord) -> None:
        """Stop a stack's guests; they keep their disks. Conflict. A stack that is suspended stays so."""
        if stack.status != "SUSPEND_COMPLETE":
            await self._stand(stack, "SUSPEND")

    async def resume(self, stack: StackRecord) -> None:
        """Start the guests of a suspended stack again; Conflict."""
        if stack.status == "RESUME_COMPLETE":
            return
        if not stack.suspended and stack.status != "RESUME_FAILED":
            raise Conflict.of("NOT_NOW", f"Stack [{stack.name}] is in {stack.status} state: it is not suspended")
        await self._stand(stack, "RESUME")

    async def check(self, stack: StackRecord) -> None:
        """Look whether everything of a stack is there and runs; Conflict."""
        if stack.suspended:
            raise Conflict.of("NOT_NOW", f"Stack [{stack.name}] is suspended: there is nothing to check")
        await self._stand(stack, "CHECK")

    async def mark(self, stack: StackRecord, record: ResourceRecord, *, unhealthy: bool, reason: str) -> None:
        """Have a resource replaced by the stack's next update, or no longer; durable on return. Conflict."""
        if stack.busy or stack.suspended or not stack.live:
            raise Conflict.of(
                "NOT_NOW", f"Stack [{stack.name}] is in {stack.status} state: nothing in it can be marked"
            )
        if unhealthy == bool(record.data.get("unhealthy")):
            return
        if unhealthy:
            record.data["unhealthy"] = True
        else:
            del record.data["unhealthy"]
        self.save(record)
        # The record's own status stays: what failed is removed without regard to its policies, and this did not.
        said = reason[:1000] or "state changed by resource_mark_unhealthy api"
        self.event(stack, record, "CHECK_FAILED" if unhealthy else "CHECK_COMPLETE", said)
        await self.store.flush()

    async def _stand(self, stack: StackRecord, action: str) -> None:
        if stack.busy or stack.status in _UNFINISHED or stack.source is None:
            raise Conflict.of(
                "NOT_NOW", f"Stack [{stack.name}] is in {stack.status} state: {action.lower()} is not possible"
            )
        stack.generation += 1
        stack.operation = Operation(
            action=action,
            phase=action.lower(),
            generation=stack.generation,
            target=stack.source,
            previous=stack.source,
            started=self.now(),
        )
        await self._accept(stack, f"{action}_IN_PROGRESS", "User Initiated")


class Walking:
    """The part of one stack's operation that carries them out."""

    def __init__(self, manager: StackManager, stack: StackRecord) -> None:
        self.manager = manager
        self.stack = stack

    async def suspend(self) -> None:
        """Stop, the last first."""
        await self._all("SUSPEND", self._suspend, backwards=True)

    async def resume(self) -> None:
        """Start, the first first; groups follow what was asked of them meanwhile."""
        await self._all("RESUME", self._resume)
        self.manager.resume_scaling()

    async def check(self) -> None:
        """Look at everything."""
        await self._all("CHECK", self._check)

    async def _all(
        self, action: str, work: Callable[[ResourceRecord], Coroutine[Any, Any, None]], *, backwards: bool = False
    ) -> None:
        manager, records = self.manager, self.manager.current(self.stack)
        errors: list[tuple[str, str]] = []

        async def step(name: str) -> None:
            record = records[name]
            manager.set_status(self.stack, record, f"{action}_IN_PROGRESS", "")
            try:
                await work(record)
            except (ResourceFailed, PcloudError) as problem:
                errors.append((name, failed(problem)))
                manager.set_status(self.stack, record, f"{action}_FAILED", failed(problem))
            else:
                manager.set_status(self.stack, record, f"{action}_COMPLETE", "")

        after = {name: frozenset(record.requires) & records.keys() for name, record in records.items()}
        if backwards:
            after = {
                name: frozenset(other for other, needs in after.items() if name in needs and other != name)
                for name in after
            }
        await walk(after, step, lambda: False)
        if errors:
            names, detail = ", ".join(name for name, _ in errors), "; ".join(sentence for _, sentence in errors)
            reason = f"The following resource(s) failed to {action.lower()}: [{names}]. {detail}"
            await manager.finish(self.stack, f"{action}_FAILED", reason)
        else:
            await manager.finish(self.stack, f"{action}_COMPLETE", "")

    async def _suspend(self, record: ResourceRecord) -> None:
        if child := self._child(record):
            async with self.manager.lock(record.id):  # a group whose members are just being changed
                await self._nested(child, self.manager.suspend, "SUSPEND_COMPLETE")
        for name in self._deployables(record):
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self.manager.platform.stop(name)
            except TimeoutError:
                raise ResourceFailed(f"the guests of {name} did not stop within {STOP_SECONDS:g} s") from None

    async def _resume(self, record: ResourceRecord) -> None:
        if (child := self._child(record)) and (child.suspended or child.status == "RESUME_FAILED" or child.busy):
            await self._nested(child, self.manager.resume, "RESUME_COMPLETE")
        for name in self._deployables(record):
            await self.manager.platform.start(name)
        if self.manager.place_of(record) is not None:
            await assemblies.running(self._context(record), services=False)

    async def _check(self, record: ResourceRecord) -> None:
        if child := self._child(record):
            await self._nested(child, self.manager.check, "CHECK_COMPLETE")
        if await self.manager.look(self.stack, record) == "DELETED":
            raise ResourceFailed("it is not there any more")
        place = self.manager.place_of(record)
        if place is None:
            return
        told = await self.manager.platform.status(place[0])
        found = next((one for one in told.assemblies if one.name == place[1]), None) if told is not None else None
        if found is None or not (found.answers or found.state is ResourceState.RUNNING):
            raise ResourceFailed(f"the guest is {found.state.value if found else 'not there'}{_because(found)}")

    async def _nested(
        self, child: StackRecord, ask: Callable[[StackRecord], Coroutine[Any, Any, None]], end: str
    ) -> None:
        await self.manager.wait(child)  # with what a crash interrupted
        if child.status != end or end == "CHECK_COMPLETE":
            await ask(child)
            await self.manager.wait(child)
        if child.status != end:
            raise ResourceFailed(child.reason or f"the nested stack is in {child.status} state")

    def _child(self, record: ResourceRecord) -> StackRecord | None:
        kind = self.manager.type_of(record)
        child = self.manager.child(record.physical) if kind is not None and kind.nested else None
        return child if child is not None and child.live else None

    def _deployables(self, record: ResourceRecord) -> list[str]:
        kind, place = self.manager.type_of(record), self.manager.place_of(record)
        own = kind.deployable(record) if kind is not None else ""
        return list(dict.fromkeys(name for name in (own, place[0] if place is not None else "") if name))

    def _context(self, record: ResourceRecord) -> Context:
        return Context(self.manager, self.stack, record, dict(record.properties))


def _because(found: Any) -> str:
    return f": {found.reason}" if found is not None and found.reason else ""
