"""Carries one operation on one stack out, from whatever phase it is in; a restart calls it again for the same operation.

Concurrency: one task a stack; within it one task a resource, in parallel along the dependency graph. Every step first looks
at the resource's record, so that repeating a step that was done already does nothing. The end of an operation is made known
only when it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.policy import denied
from pcloud.stacks.functions.evaluation import FunctionError, unknown_in
from pcloud.stacks.plan import Assessment, Node, assess, check, decide
from pcloud.stacks.records import ResourceRecord, Source, StackRecord, derived_id
from pcloud.stacks.template import Dialect
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, failed
from pcloud.stacks.types.registry import find_type

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager

_RETRIES = 3


class StepFailed(Exception):
    """The operation can not go forward; the sentence says why."""


class Run:
    """One operation of one stack."""

    def __init__(self, manager: StackManager, stack: StackRecord) -> None:
        self.manager = manager
        self.stack = stack
        self.turned: str | None = None
        """Why somebody asked to turn back."""
        self._inner: asyncio.Task[None] | None = None

    # --- the phases

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
            await self._bounded(self._converge(operation.target))
            self._resolve_outputs(operation.target)
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
            await self._converge(operation.previous, restoring=True)
            self._resolve_outputs(operation.previous)
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
        kept = self._enabled_names(self.stack.source)
        doomed = [
            record
            for record in self.manager.records(self.stack)
            if record.condemned or record.name not in wanted or record.name not in kept
        ]
        left = await self._delete(doomed)
        reason = operation.reason if end != "UPDATE_COMPLETE" else ""
        if left:
            reason = f"The following resource(s) could not be deleted: [{', '.join(sorted({r.name for r in left}))}]"
        await self.manager.finish(self.stack, end, reason)

    def _enabled_names(self, source: Source) -> set[str]:
        return set(self._judge(source).nodes)

    async def _delete_all(self, end: str, bad_end: str) -> None:
        operation = self.stack.operation
        assert operation is not None
        records = [record for record in self.manager.records(self.stack) if record.name not in operation.retain]
        left = await self._delete(records)
        if left:
            names = ", ".join(sorted({record.name for record in left}))
            await self.manager.finish(self.stack, bad_end, f"The following resource(s) failed to delete: [{names}].")
            return
        if end == "ROLLBACK_COMPLETE":
            self.stack.source = operation.target
        self.stack.outputs = {}
        await self.manager.finish(self.stack, end, operation.reason if end == "ROLLBACK_COMPLETE" else "")

    # --- making things as a source wants them

    def _judge(self, source: Source) -> Assessment:
        records = self.manager.current(self.stack)
        scope = self.manager.reader.live_scope(
            self.stack, source, records, facade=self.manager.facade(self.stack), changes={}
        )
        platform = self.manager.platform
        return assess(scope, registry=source.registry, capabilities=platform.capabilities, platform=platform)

    async def _converge(self, source: Source, *, restoring: bool = False) -> None:
        assessment = self._judge(source)
        nodes = assessment.nodes
        requires = {name: node.requires for name, node in nodes.items()}
        errors: list[tuple[str, str]] = []

        async def step(name: str) -> None:
            try:
                await self._step(nodes[name], source, assessment, restoring)
            except (ResourceFailed, PcloudError, FunctionError, StepFailed) as problem:
                errors.append((name, failed(problem)))

        operation = self.stack.operation
        assert operation is not None
        await _walk(requires, step, lambda: bool(errors) and not restoring)
        if errors:
            names = ", ".join(name for name, _ in errors)
            detail = "; ".join(sentence for _, sentence in errors)
            verb = "create" if operation.action == "CREATE" else "update"
            raise StepFailed(f"The following resource(s) failed to {verb}: [{names}]. {detail}")

    async def _step(self, node: Node, source: Source, assessment: Assessment, restoring: bool) -> None:
        manager, stack, operation = self.manager, self.stack, self.stack.operation
        assert operation is not None
        if restoring and node.name in operation.skip:
            return
        kind: ResourceType = node.type
        template = assessment.template
        records = manager.current(stack)
        scope = manager.reader.live_scope(stack, source, records, facade=manager.facade(stack))
        scope.enabled = assessment.scope.enabled
        path = (*node.path, template.properties_key)
        properties = scope.evaluate(node.definition.properties, path)
        metadata = scope.evaluate(node.definition.metadata, (*node.path, "metadata"))
        missing = unknown_in(properties)
        if missing is not None:
            raise StepFailed(f"{node.name} needs {missing.because}, which has no value")
        checked = check(kind, properties)
        if checked.problems:
            first = checked.problems[0]
            raise StepFailed(f"Property {'.'.join(str(part) for part in first.path)}: {first.message}")
        record = records.get(node.name)
        if restoring:
            record = self._restored(node, kind, record, checked.values, source)
        change = decide(kind, record, node.definition, checked.values, metadata, source.registry)
        if record is not None and record.status == "CREATE_IN_PROGRESS" and change.action != "replace":
            await self._create(node, record, kind, checked.values, metadata, source)  # a crash came between
            return
        if (
            change.action in ("update", "replace")
            and operation.action == "UPDATE"
            and not restoring
            and record is not None
        ):
            policy = operation.policy or stack.policy
            sentence = denied(policy, record, "Update:Modify" if change.action == "update" else "Update:Replace")
            if sentence:
                raise StepFailed(sentence)
        if change.action in ("create", "replace"):
            fresh = self._fresh(node, record)
            if record is not None and fresh is not record:
                record.condemned = True
                manager.save(record)
                manager.event(
                    stack,
                    record,
                    "UPDATE_IN_PROGRESS",
                    "Requested update requires the creation of a new physical resource; hence creating one.",
                )
            await self._create(node, fresh, kind, checked.values, metadata, source)
            return
        assert record is not None
        record.requires = tuple(sorted(node.requires))
        record.deletion_policy = node.definition.deletion_policy
        record.update_replace_policy = node.definition.update_replace_policy
        if change.action == "update":
            await self._update(node, record, kind, checked.values, metadata, frozenset(change.changed), source)
        elif change.action == "metadata":
            record.metadata = metadata
            manager.set_status(stack, record, "UPDATE_IN_PROGRESS", "")
            manager.set_status(stack, record, "UPDATE_COMPLETE", "")
            manager.poke(record.id)
        else:
            manager.save(record)

    def _fresh(self, node: Node, old: ResourceRecord | None) -> ResourceRecord:
        """Return the record of a new thing; its id follows from the operation, so that a crash does not make two."""
        operation = self.stack.operation
        assert operation is not None
        phase = "back" if operation.phase == "rollback" else "on"
        identity = derived_id(self.stack.id, node.name, operation.generation, phase)
        if old is not None and old.id == identity:  # it failed within this very operation
            identity = derived_id(identity, "again")
        known = self.manager.record(identity)
        if known is not None:
            return known
        now = self.manager.now()
        return ResourceRecord(
            id=identity,
            stack=self.stack.id,
            name=node.name,
            type=node.definition.type,
            status="CREATE_IN_PROGRESS",
            generation=operation.generation,
            created=now,
            updated=now,
        )

    def _restored(
        self,
        node: Node,
        kind: ResourceType,
        record: ResourceRecord | None,
        wanted: Mapping[str, Any],
        source: Source,
    ) -> ResourceRecord | None:
        """On the way back: return the old thing when a replacement had put it aside.

        The newer one is put aside first: a crash in between leaves none in place, and this finds the old one again.
        """
        operation = self.stack.operation
        assert operation is not None
        for other in self.manager.records(self.stack):
            if other.name != node.name or not other.condemned or other is record:
                continue
            if other.generation >= operation.generation:
                continue
            if decide(kind, other, node.definition, wanted, other.metadata, source.registry).action in (
                "none",
                "update",
            ):
                if record is not None:
                    record.condemned = True
                    self.manager.save(record)
                other.condemned = False
                self.manager.save(other)
                return other
        return record

    def _context(
        self,
        record: ResourceRecord,
        properties: Mapping[str, Any],
        metadata: Any,
        node: Node | None,
        source: Source | None,
    ) -> Context:
        policy = None
        if node is not None:
            policy = node.definition.creation_policy or node.definition.update_policy
        return Context(
            self.manager,
            self.stack,
            record,
            dict(properties),
            metadata=metadata,
            policy=policy,
            update_policy=node.definition.update_policy if node is not None else None,
            files=source.files if source else {},
            registry=source.registry if source else {},
        )

    async def _create(
        self,
        node: Node,
        record: ResourceRecord,
        kind: ResourceType,
        properties: dict[str, Any],
        metadata: Any,
        source: Source,
    ) -> None:
        manager, stack = self.manager, self.stack
        record.requires = tuple(sorted(node.requires))
        record.deletion_policy = node.definition.deletion_policy
        record.update_replace_policy = node.definition.update_replace_policy
        record.properties = properties
        record.metadata = metadata
        record.condemned = False
        manager.set_status(stack, record, "CREATE_IN_PROGRESS", "")
        context = self._context(record, properties, metadata, node, source)
        try:
            await kind.create(context)
            await manager.creation_policy(context, node.definition.creation_policy)
        except asyncio.CancelledError:
            manager.set_status(stack, record, "CREATE_FAILED", "Resource creation cancelled")
            raise
        except (ResourceFailed, PcloudError) as problem:
            manager.set_status(stack, record, "CREATE_FAILED", failed(problem))
            raise
        manager.set_status(stack, record, "CREATE_COMPLETE", "")

    async def _update(
        self,
        node: Node,
        record: ResourceRecord,
        kind: ResourceType,
        properties: dict[str, Any],
        metadata: Any,
        changed: frozenset[str],
        source: Source,
    ) -> None:
        manager, stack = self.manager, self.stack
        record.dirty = True
        manager.set_status(stack, record, "UPDATE_IN_PROGRESS", "")
        old = record.properties
        context = self._context(record, properties, metadata, node, source)
        try:
            await kind.update(context, old, changed)
        except asyncio.CancelledError:
            manager.set_status(stack, record, "UPDATE_FAILED", "Resource update cancelled")
            raise
        except (ResourceFailed, PcloudError) as problem:
            manager.set_status(stack, record, "UPDATE_FAILED", failed(problem))
            raise
        record.dirty = False
        record.properties = properties
        record.metadata = metadata
        manager.set_status(stack, record, "UPDATE_COMPLETE", "")
        manager.poke(record.id)

    def _resolve_outputs(self, source: Source) -> None:
        manager, stack = self.manager, self.stack
        scope = manager.reader.live_scope(stack, source, manager.current(stack), facade=manager.facade(stack))
        template = scope.template
        scope.enabled = frozenset(self._enabled_names(source))
        outputs: dict[str, Any] = {}
        for name, output in template.outputs.items():
            path = (template.section("outputs"), name)
            try:
                if output.condition is not None and scope.truth(output.condition, path) is False:
                    continue
                value = scope.evaluate(output.value, path)
                entry: dict[str, Any] = {"value": value, "description": output.description}
                if output.export is not None:
                    entry["export"] = str(scope.evaluate(output.export, path))
                outputs[name] = entry
            except FunctionError as problem:
                if template.dialect is Dialect.CFN:
                    raise StepFailed(f"Output {name}: {problem}") from None
                outputs[name] = {"value": None, "description": output.description, "error": str(problem)}
        manager.check_exports(stack, outputs)
        stack.outputs = outputs

    # --- deleting

    async def _delete(self, records: Iterable[ResourceRecord]) -> list[ResourceRecord]:
        """Delete records, each after those that need it; return those that could not be deleted."""
        doomed = {record.id: record for record in records}
        by_name: dict[str, set[str]] = {}
        for record in doomed.values():
            by_name.setdefault(record.name, set()).add(record.id)
        after: dict[str, set[str]] = {identity: set() for identity in doomed}
        for record in doomed.values():
            for name in record.requires:
                for other in by_name.get(name, ()):
                    if other != record.id:
                        after[other].add(record.id)
        left: list[ResourceRecord] = []

        async def step(identity: str) -> None:
            record = doomed[identity]
            if any(other in [item.id for item in left] for other in after[identity]):
                left.append(record)
                return
            if not await self._delete_one(record):
                left.append(record)

        await _walk({key: frozenset(value) for key, value in after.items()}, step, lambda: False)
        return left

    async def _delete_one(self, record: ResourceRecord) -> bool:
        manager, stack, operation = self.manager, self.stack, self.stack.operation
        assert operation is not None
        policy = (
            record.update_replace_policy
            if record.condemned and operation.action == "UPDATE"
            else record.deletion_policy
        )
        undoing = operation.phase in ("undo", "rollback-cleanup")
        if policy == "Retain" and not undoing and record.state != "FAILED":
            manager.set_status(stack, record, "DELETE_SKIPPED", "")
            manager.drop(record)
            return True
        source = operation.target or operation.previous or stack.source
        kind, refusal, _ = find_type(record.type, source.registry if source else {}, source.files if source else {})
        if kind is None and stack.source is not None:
            kind, refusal, _ = find_type(record.type, stack.source.registry, stack.source.files)
        manager.set_status(stack, record, "DELETE_IN_PROGRESS", "")
        if kind is None:
            manager.set_status(stack, record, "DELETE_FAILED", refusal)
            return False
        context = self._context(record, record.properties, record.metadata, None, source)
        for attempt in range(_RETRIES):
            try:
                await kind.delete(context)
            except (ResourceFailed, PcloudError) as problem:
                if attempt + 1 < _RETRIES:
                    await asyncio.sleep(0.2 * 4**attempt)
                    continue
                manager.set_status(stack, record, "DELETE_FAILED", failed(problem))
                return False
            break
        manager.set_status(stack, record, "DELETE_COMPLETE", "")
        manager.drop(record)
        return True


async def _walk(
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
