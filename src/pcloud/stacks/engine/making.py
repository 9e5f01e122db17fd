"""Makes the resources of a stack what a source wants: creates, updates and replaces them along the dependency graph.

Concurrency: part of a stack's one operation; one task a resource. Every step first looks at the resource's record, so that
repeating a step that was done already does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pcloud.model.errors import PcloudError
from pcloud.stacks.assessment import Assessment, Node, assess, check
from pcloud.stacks.engine.policy import denied
from pcloud.stacks.engine.walk import walk
from pcloud.stacks.functions.evaluation import NO_VALUE, FunctionError, Scope, unknown_in
from pcloud.stacks.lifecycle import removals
from pcloud.stacks.plan import decide
from pcloud.stacks.records import EXTERNAL, ResourceRecord, Source, StackRecord, derived_id
from pcloud.stacks.template import Dialect
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, failed
from pcloud.stacks.types.external import unchangeable
from pcloud.stacks.types.registry import made_as_of

if TYPE_CHECKING:
    from pcloud.stacks.engine.manager import StackManager


class StepFailed(Exception):
    """The operation can not go forward; the sentence says why."""


class Making:
    """The part of one stack's operation that makes things."""

    def __init__(self, manager: StackManager, stack: StackRecord) -> None:
        self.manager = manager
        self.stack = stack
        self._enabled: tuple[Source, frozenset[str]] | None = None
        """What `converge` found enabled in its source; conditions do not change while an operation runs."""

    def judge(self, source: Source) -> Assessment:
        """Return what a source means for the stack as it stands; PcloudError or FunctionError when it can not be."""
        records = self.manager.current(self.stack)
        scope = self.manager.reader.live_scope(
            self.stack, source, records, facade=self.manager.facade(self.stack), changes={}
        )
        platform = self.manager.platform
        return assess(scope, registry=source.registry, capabilities=platform.capabilities, platform=platform)

    def enabled_names(self, source: Source) -> frozenset[str]:
        """Return the names of the resources that a source wants, its conditions considered."""
        if self._enabled is None or self._enabled[0] is not source:
            self._enabled = source, frozenset(self.judge(source).nodes)
        return self._enabled[1]

    async def converge(self, source: Source, *, restoring: bool = False) -> None:
        """Make every resource what the source wants; StepFailed names those that could not be."""
        assessment = self.judge(source)
        nodes = assessment.nodes
        self._enabled = source, frozenset(nodes)
        if not restoring:
            self._refuse_deletions(frozenset(nodes))
        requires = {name: node.requires for name, node in nodes.items()}
        errors: list[tuple[str, str]] = []

        async def step(name: str) -> None:
            try:
                await self._step(nodes[name], source, assessment, restoring)
            except (ResourceFailed, PcloudError, FunctionError, StepFailed) as problem:
                errors.append((name, failed(problem)))

        operation = self.stack.operation
        assert operation is not None
        await walk(requires, step, lambda: bool(errors) and not restoring)
        if errors:
            names = ", ".join(name for name, _ in errors)
            detail = "; ".join(sentence for _, sentence in errors)
            verb = "create" if operation.action == "CREATE" else "update"
            raise StepFailed(f"The following resource(s) failed to {verb}: [{names}]. {detail}")

    def _refuse_deletions(self, wanted: frozenset[str]) -> None:
        """StepFailed when the stack's policy keeps what an update no longer wants, before anything is changed."""
        operation = self.stack.operation
        assert operation is not None
        if operation.action != "UPDATE":
            return
        gone = [record for name, record in self.manager.current(self.stack).items() if name not in wanted]
        refused = {record.name: self._denied(record, "Update:Delete") for record in gone}
        sentences = [sentence for sentence in refused.values() if sentence]
        if sentences:
            names = ", ".join(name for name, sentence in refused.items() if sentence)
            detail = "; ".join(sentences)
            raise StepFailed(f"The following resource(s) failed to update: [{names}]. {detail}")

    def _denied(self, record: ResourceRecord, action: str) -> str:
        """Return why the stack's policy denies an action of an update; empty when it does not."""
        operation = self.stack.operation
        assert operation is not None
        return denied(operation.policy or self.stack.policy, record, action)

    async def _step(self, node: Node, source: Source, assessment: Assessment, restoring: bool) -> None:
        manager, stack, operation = self.manager, self.stack, self.stack.operation
        assert operation is not None
        if restoring and node.name in operation.skip:
            return
        kind: ResourceType = node.type
        template = assessment.template
        records = manager.current(stack)
        if operation.only is not None and node.name not in operation.only and _stands(records.get(node.name)):
            return
        scope = manager.reader.live_scope(stack, source, records, facade=manager.facade(stack))
        scope.enabled = assessment.scope.enabled
        path = (*node.path, template.properties_key)
        properties = scope.evaluate(node.definition.properties, path)
        metadata = scope.evaluate(node.definition.metadata, (*node.path, "metadata"))
        properties = {} if properties is NO_VALUE else properties
        node = _with_policies(scope, node)
        missing = unknown_in(properties)
        if missing is not None:
            raise StepFailed(f"{node.name} needs {missing.because}, which has no value")
        checked = check(kind, properties)
        if checked.problems:
            first = checked.problems[0]
            raise StepFailed(f"Property {'.'.join(str(part) for part in first.path)}: {first.message}")
        record = records.get(node.name)
        if record is not None and (record.made_as == EXTERNAL) != (node.definition.external_id is not None):
            raise StepFailed(unchangeable(node.name, record.type))
        if restoring:
            record = self._restored(node, kind, record, checked.values, source)
        beneath = record is not None and kind.beneath(self._context(record, checked.values, metadata, node, source))
        change = decide(kind, record, node.definition, checked.values, metadata, source.registry, beneath=beneath)
        if record is not None and record.status == "CREATE_IN_PROGRESS" and change.action != "replace":
            await self._create(node, record, kind, checked.values, metadata, source)  # a crash came between
            return
        if record is not None and operation.action == "UPDATE" and not restoring and change.action != "none":
            sentence = self._denied(record, "Update:Replace" if change.action == "replace" else "Update:Modify")
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
            defaults=source.defaults if source else {},
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
        record.made_as = made_as_of(node.definition, source.registry)
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
        record.made_as = made_as_of(node.definition, source.registry)
        record.properties = properties
        record.metadata = metadata
        manager.set_status(stack, record, "UPDATE_COMPLETE", "")
        manager.poke(record.id)

    def resolve_outputs(self, source: Source) -> None:
        """Give the stack the outputs that a source describes; StepFailed when one has no value."""
        manager, stack = self.manager, self.stack
        scope = manager.reader.live_scope(stack, source, manager.current(stack), facade=manager.facade(stack))
        template = scope.template
        scope.enabled = self.enabled_names(source)
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


def _stands(record: ResourceRecord | None) -> bool:
    """Whether a resource is there and whole, so that an update may pass it by."""
    whole = record is not None and record.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
    return record is not None and whole and not record.dirty and not record.data.get("unhealthy")


def _with_policies(scope: Scope, node: Node) -> Node:
    """Return a node whose policies hold values instead of functions."""
    definition = node.definition
    deletion, replacing = removals(scope, definition, node.path)
    changes: dict[str, Any] = {"deletion_policy": deletion, "update_replace_policy": replacing}
    for key, name in (("creation_policy", "CreationPolicy"), ("update_policy", "UpdatePolicy")):
        if getattr(definition, key) is not None:
            value = scope.evaluate(getattr(definition, key), (*node.path, name))
            changes[key] = None if value is NO_VALUE else value
    return msgspec.structs.replace(node, definition=msgspec.structs.replace(definition, **changes))
