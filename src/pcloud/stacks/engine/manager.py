"""All stacks of one host, and everything that can be asked of them. APIs call this; it never speaks HTTP.

Concurrency: lives on one event loop. A stack carries out one operation at a time, in a task of its own; requests that change
a stack return when their operation is durably accepted. Records in memory are the truth while the daemon runs; the store
has them for the next run, which carries on with every operation that was not at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import Any

from pcloud.model.errors import Conflict, PcloudError, Unavailable
from pcloud.stacks.alarms.sampling import Sampling
from pcloud.stacks.engine.balancing import Balancing
from pcloud.stacks.engine.judging import MAX_NESTING
from pcloud.stacks.engine.loading import Loading
from pcloud.stacks.engine.scopes import arn
from pcloud.stacks.engine.settling import Settling
from pcloud.stacks.records import (
    Operation,
    Source,
    StackRecord,
    new_id,
)

_log = logging.getLogger(__name__)
_AGAIN = 5.0
"""Seconds between tries to be reachable for guests whose infrastructure is away."""


class StackManager(Loading):
    """The stacks of this host."""

    _background: list[asyncio.Task[None]]

    # --- life

    async def start(self) -> None:
        """Read the store and carry on with what was under way. What can not be read keeps its own stack from work only."""
        self.load()
        self.secret = self.store.things("secret").get("engine", "")
        if not self.secret:
            self.secret = secrets.token_hex(32)
            self.store.set("secret", "engine", self.secret)
            await self.store.flush()
        self._background = []
        try:
            await self._reach_guests()
        except Unavailable as problem:  # their infrastructure is away: the daemon does its other work meanwhile
            _log.warning("guests of stacks do not reach us yet: %s", problem)
            self._background.append(asyncio.ensure_future(self._reach_guests_later()))
        self.prune()
        for stack in list(self.stacks.values()):
            if stack.id in self.unreadable and not stack.leaving:
                continue
            if stack.operation is not None and stack.busy:
                if stack.id in self.unreadable:
                    self.recall(stack)
                self._begin(stack)
        self.watcher.start()
        self.resume_scaling()
        if "guests" in self.platform.capabilities:
            balancing, settling = Balancing(self), Settling(self)
            self.watcher.listeners += [balancing.seen, settling.seen]
            works = (balancing.run(), settling.run(), Sampling(self).run())
            self._background += [asyncio.ensure_future(work) for work in works]

    async def close(self) -> None:
        """Stop; what is under way is carried on at the next start."""
        self.closing = True
        await self.watcher.close()
        await self.stop_scaling()
        for background in self._background:
            background.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        while tasks := [task for task in self._tasks.values() if not task.done()]:  # one may just have begun another
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.store.close()

    async def _reach_guests(self) -> None:
        for stack in list(self.stacks.values()):
            if stack.live and stack.source is not None:
                await self.prepare_guests(stack.source)

    async def _reach_guests_later(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                await self._reach_guests()
            except Unavailable:
                continue
            return

    # --- changing

    async def create(  # type: ignore[override]
        self,
        name: str,
        source: Source,
        *,
        identity: str = "",
        parent: StackRecord | None = None,
        parent_resource: str = "",
        timeout: int = 0,
        on_failure: str = "ROLLBACK",
        protected: bool = False,
        policy: dict[str, Any] | None = None,
        owner: str = "cfn",
        token: str = "",
    ) -> StackRecord:
        """Accept a new stack and begin; InvalidDocument, Conflict."""
        existing = self.stacks.get(self._names.get(name, ""))
        if parent is None and existing is not None and existing.status != "REVIEW_IN_PROGRESS":
            raise Conflict.of("ALREADY_EXISTS", f"Stack [{name}] already exists")
        if parent is not None and self._depth(parent) >= MAX_NESTING:
            raise PcloudError.of("TOO_DEEP", f"stacks are nested deeper than {MAX_NESTING}")
        now = self.now()
        stack = existing if parent is None and existing is not None else None
        if stack is None:
            stack = StackRecord(
                id=identity or new_id(),
                name=name,
                status="CREATE_IN_PROGRESS",
                parent=parent.id if parent else "",
                parent_resource=parent_resource,
                root=(parent.root or parent.id) if parent else "",
                owner=parent.owner if parent else owner,
            )
        template = self.reader.template(source)
        self.validate(stack, source)
        stack.created = now
        stack.timeout = timeout
        stack.protected = protected
        stack.policy = policy
        stack.disable_rollback = on_failure == "DO_NOTHING"
        stack.description = template.description
        stack.operation = Operation(
            action="CREATE",
            phase="forward",
            generation=1,
            target=source,
            started=now,
            deadline=now + timeout * 60 if timeout else 0.0,
            on_failure=on_failure,
            token=token,
        )
        stack.generation = 1
        if stack.id not in self.stacks:
            self._sequences[stack.id] = 0  # the store need not be asked for its newest event
        self.stacks[stack.id] = stack
        if parent is None:
            self._names[name] = stack.id
        self._records.setdefault(stack.id, {})
        self._current.setdefault(stack.id, {})
        await self._accept(stack, "CREATE_IN_PROGRESS", "User Initiated")
        return stack

    async def update(  # type: ignore[override]
        self,
        stack: StackRecord,
        source: Source,
        *,
        timeout: int = 0,
        on_failure: str = "ROLLBACK",
        token: str = "",
        policy: dict[str, Any] | None = None,
        change_set: str = "",
        owner: str = "",
        only: tuple[str, ...] | None = None,
    ) -> None:
        """Accept an update and begin; InvalidDocument, Conflict. `only` is that of `Operation`."""
        self.check_readable(stack)
        updatable = (
            "CREATE_COMPLETE",
            "UPDATE_COMPLETE",
            "UPDATE_ROLLBACK_COMPLETE",
            "UPDATE_FAILED",
            "IMPORT_COMPLETE",
            "RESUME_COMPLETE",
            "CHECK_COMPLETE",
            "CHECK_FAILED",
        )
        heat = stack.owner == "heat" or bool(stack.parent)
        if stack.status not in updatable and not (
            heat and not stack.busy and stack.status in ("CREATE_FAILED", "ROLLBACK_COMPLETE")
        ):
            raise Conflict.of(
                "NOT_NOW", f"Stack:{arn(stack, self.region)} is in {stack.status} state and can not be updated."
            )
        template = self.reader.template(source)
        self.validate(stack, source)
        self._check_immutable(stack, source)
        now = self.now()
        stack.generation += 1
        stack.description = template.description
        stack.updated = now
        stack.operation = Operation(
            action="UPDATE",
            phase="forward",
            generation=stack.generation,
            target=source,
            previous=stack.source,
            started=now,
            deadline=now + timeout * 60 if timeout else 0.0,
            on_failure=on_failure if stack.source is not None else "DO_NOTHING",
            token=token,
            policy=policy,
            change_set=change_set,
            only=only,
        )
        await self._accept(stack, "UPDATE_IN_PROGRESS", "User Initiated")

    def _check_immutable(self, stack: StackRecord, source: Source) -> None:
        if stack.source is None:
            return
        for name, schema in self.reader.template(source).parameters.items():
            old = stack.source.parameters.get(name)
            if schema.immutable and name in source.parameters and old != source.parameters[name]:
                raise PcloudError.of("IMMUTABLE", f"the parameter '{name}' is immutable and can not be changed")

    async def delete(
        self, stack: StackRecord, *, retain: tuple[str, ...] = (), forced: bool = False, token: str = ""
    ) -> None:
        """Accept the deletion and begin. A stack that is gone already stays gone. Of one that can not be read, what can be
        told is deleted."""
        if not stack.live or stack.leaving:
            return
        if stack.protected and not forced:
            raise Conflict.of(
                "PROTECTED", f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled"
            )
        users = self.importers(stack)
        if users and not forced:
            raise Conflict.of("IN_USE", f"Export {users[0][0]} cannot be deleted as it is in use by {users[0][1]}")
        if stack.busy:
            run = self._runs.get(stack.id)
            if run is not None:
                task = self._tasks[stack.id]
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if stack.id in self.unreadable:
            self.recall(stack)
        stack.generation += 1
        stack.operation = Operation(
            action="DELETE",
            phase="delete",
            generation=stack.generation,
            target=stack.operation.target if stack.operation is not None else None,
            previous=stack.source,
            started=self.now(),
            retain=retain,
            token=token,
        )
        await self._accept(stack, "DELETE_IN_PROGRESS", "User Initiated")

    async def cancel_update(self, stack: StackRecord, *, rollback: bool = True, token: str = "") -> None:
        """Turn a running update back (or stop it where it is). Its events have the token from then on."""
        operation, run = stack.operation, self._runs.get(stack.id)
        if stack.status not in ("UPDATE_IN_PROGRESS", "CREATE_IN_PROGRESS") or operation is None or run is None:
            raise Conflict.of(
                "NOT_NOW", f"CancelUpdateStack cannot be called from current stack status ({stack.status})"
            )
        if not rollback:
            operation.on_failure = "DO_NOTHING"
        operation.token = token or operation.token
        self.store.put(stack)
        await self.store.flush()
        run.turn_back("User Cancelled")

    async def continue_rollback(self, stack: StackRecord, *, skip: tuple[str, ...] = (), token: str = "") -> None:
        """Try a failed rollback again, leaving some resources alone."""
        operation = stack.operation
        if stack.status != "UPDATE_ROLLBACK_FAILED" or operation is None:
            raise Conflict.of("NOT_NOW", f"Stack is in {stack.status} state and its rollback can not be continued")
        operation.phase, operation.skip = "rollback", skip
        operation.token = token or operation.token
        await self._accept(stack, "UPDATE_ROLLBACK_IN_PROGRESS", "User Initiated")

    async def rollback(self, stack: StackRecord, *, token: str = "") -> None:
        """Turn back an operation that failed and was left as it was."""
        operation = stack.operation
        if stack.status not in ("CREATE_FAILED", "UPDATE_FAILED") or operation is None:
            raise Conflict.of("NOT_NOW", f"Stack is in {stack.status} state and can not be rolled back")
        operation.token = token or operation.token
        if operation.action == "CREATE":
            operation.phase = "undo"
            await self._accept(stack, "ROLLBACK_IN_PROGRESS", "User Initiated")
        else:
            operation.phase = "rollback"
            await self._accept(stack, "UPDATE_ROLLBACK_IN_PROGRESS", "User Initiated")
