"""What the parts of the stack engine share: the records in memory, the ways to change them, and the events they leave.

Concurrency: belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pcloud.model.errors import Conflict, NotFound
from pcloud.stacks.alarms.watcher import Watcher
from pcloud.stacks.engine.finding import Finding
from pcloud.stacks.engine.judging import Judging
from pcloud.stacks.engine.scopes import Reader, arn
from pcloud.stacks.guests.assemblies import is_of
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import (
    AccessKey,
    ChangeSet,
    ResourceRecord,
    Source,
    StackEvent,
    StackRecord,
    derived_id,
)
from pcloud.stacks.store import StackStore
from pcloud.stacks.types.base import ResourceType
from pcloud.stacks.types.registry import type_made

if TYPE_CHECKING:
    from pcloud.stacks.engine.run import Run


class State(Finding):
    """Records in memory, and their store."""

    def __init__(
        self,
        store: StackStore,
        platform: Platform,
        *,
        region: str = "local",
        metadata_url: str = "http://127.0.0.1:8000",
        clock: Callable[[], float] = time.time,
        keep_deleted: float = 90 * 86400.0,
    ) -> None:
        self.keep_deleted = keep_deleted
        """Seconds that deleted stacks are kept; 0 keeps all."""
        self.store = store
        self.platform = platform
        self.region = region
        self.metadata_url = metadata_url
        self.closing = False
        self._clock = clock
        self.stacks: dict[str, StackRecord] = {}
        self.unreadable: dict[str, str] = {}
        """Stacks of which something could not be read, by id, each with the sentence that refuses it."""
        self._aside: dict[str, list[ResourceRecord]] = {}
        """Resources of those stacks, as far as their own records can be read."""
        self.change_sets: dict[str, ChangeSet] = {}
        self.keys: dict[str, AccessKey] = {}
        self.secret = ""
        self._names: dict[str, str] = {}
        self._records: dict[str, dict[str, ResourceRecord]] = {}
        self._current: dict[str, dict[str, ResourceRecord]] = {}
        self._signals: dict[str, list[dict[str, Any]]] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self._sequences: dict[str, int] = {}
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._scalings: dict[str, asyncio.Task[None]] = {}
        self._exports: dict[str, tuple[str, str]] = {}
        self.alarms: dict[str, ResourceRecord] = {}
        """Records that hold an alarm's rule."""
        self.balancers: dict[str, ResourceRecord] = {}
        """Records of load balancers."""
        self.watcher = Watcher(self)
        self.reader = Reader(self, self.exports)  # type: ignore[arg-type]  # the whole manager is what types ask

    def now(self) -> float:
        """Return wall-clock time."""
        return self._clock()

    def prune(self) -> None:
        """Forget the stacks that were deleted long ago, with their events."""
        if self.keep_deleted <= 0:
            return
        oldest = self.now() - self.keep_deleted
        for stack in [item for item in self.stacks.values() if not item.live and item.deleted < oldest]:
            del self.stacks[stack.id]
            for table in (self._records, self._current, self._sequences):
                table.pop(stack.id, None)
            self.store.forget(stack.id)

    def get(self, name_or_id: str, *, aside: bool = False) -> StackRecord:
        """Return a stack by name (live ones), id or ARN; NotFound, Conflict when something of it can not be read. With
        `aside` such a stack is returned as well: it can be looked at and deleted."""
        identity = name_or_id.rsplit("/", 1)[-1] if name_or_id.startswith("arn:") else name_or_id
        stack = self.stacks.get(self._names.get(identity, identity))
        if stack is None:  # nested stacks are not in the table of names
            stack = next((item for item in self.stacks.values() if item.name == identity and item.live), None)
        if stack is None:
            raise NotFound.of("NO_SUCH_STACK", f"Stack with id {name_or_id} does not exist")
        if not aside:
            self.check_readable(stack)
        return stack

    def reason_of(self, stack: StackRecord) -> str:
        """Return why a stack is in its state: that something of it can not be read, before everything else."""
        deleted = stack.operation is not None and stack.operation.action == "DELETE"
        return stack.reason if deleted else self.unreadable.get(stack.id, "") or stack.reason

    def check_readable(self, stack: StackRecord) -> None:
        """Conflict when something of a stack could not be read at the start."""
        if stack.id in self.unreadable:
            raise Conflict.of("UNREADABLE", self.unreadable[stack.id])

    def records(self, stack: StackRecord) -> list[ResourceRecord]:
        """Return all records of a stack, replaced ones that are not deleted yet included."""
        return list(self._records.get(stack.id, {}).values())

    def current(self, stack: StackRecord) -> dict[str, ResourceRecord]:
        """Return the resources of a stack by name."""
        return self._current.setdefault(stack.id, {})

    def measured(self, record: ResourceRecord, rule: Any) -> list[float | None]:
        """Return the values that an alarm's rule looks at, newest first."""
        return self.watcher.points(record, rule, self.now())

    def type_of(self, record: ResourceRecord) -> ResourceType | None:
        """Return the type of a record, as its stack's registry names it."""
        stack = self.stacks[record.stack]
        source = stack.source or (stack.operation.target if stack.operation else None)
        registry, files = (source.registry, source.files) if source else ({}, {})
        return type_made(record.type, record.made_as, registry, files)[0]

    def owner_of_deployable(self, deployable: str) -> str:
        """Return the name of the stack that a deployable belongs to, of nested ones the outermost; empty when none does."""
        for stack in self.stacks.values():
            if stack.live and is_of(deployable, stack):
                return self.stacks[self.root_of(stack.id)].name
        for record in self._kept():
            kind = self.type_of(record)
            if kind is not None and kind.deployable(record) == deployable:
                return self.stacks[self.root_of(record.stack)].name
        return ""

    def events(self, stack: StackRecord) -> list[StackEvent]:
        """Return the stored events of a stack, oldest first."""
        return self.store.events(stack.id)

    def exports(self) -> Mapping[str, str]:
        """Return all exported values by name."""
        return {name: value for name, (_, value) in self._exports.items()}

    def exporters(self) -> Mapping[str, tuple[str, str]]:
        """Return export name → (stack id, value)."""
        return self._exports

    # --- changing records

    def event(self, stack: StackRecord, record: ResourceRecord | None, status: str, reason: str) -> None:
        """Write one line of the stack's event list."""
        if self.closing:
            return
        sequence = self._sequences.get(stack.id)
        if sequence is None:
            sequence = self.store.last_event(stack.id)
        self._sequences[stack.id] = sequence = sequence + 1
        self.store.put(
            StackEvent(
                id=derived_id(stack.id, "event", sequence),
                stack=stack.id,
                sequence=sequence,
                time=self.now(),
                name=record.name if record else stack.name,
                type=record.type if record else "AWS::CloudFormation::Stack",
                physical=record.physical if record else arn(stack, self.region),
                status=status,
                reason=reason,
                token=stack.operation.token if stack.operation else "",
            )
        )

    def save(self, record: ResourceRecord) -> None:
        """Store what was changed in a record."""
        if self.closing:
            return
        self._records.setdefault(record.stack, {})[record.id] = record
        self._note_watched(record)
        current = self._current.setdefault(record.stack, {})
        if not record.condemned:
            current[record.name] = record
        elif current.get(record.name) is record:
            del current[record.name]
        self.store.put(record)

    async def keep(self, record: ResourceRecord) -> None:
        """Store what was changed in a record, durable on return."""
        self.save(record)
        await self.store.flush()

    def _note_watched(self, record: ResourceRecord) -> None:
        if "alarm" in record.data:
            self.alarms[record.id] = record
        else:
            self.alarms.pop(record.id, None)
        if "balancer" in record.data:
            self.balancers[record.id] = record

    def set_status(self, stack: StackRecord, record: ResourceRecord, status: str, reason: str) -> None:
        """Change a resource's status, with an event."""
        record.status, record.reason, record.updated = status, reason, self.now()
        self.save(record)
        self.event(stack, record, status, reason)

    def drop(self, record: ResourceRecord) -> None:
        """Forget a deleted resource."""
        if self.closing:
            return
        self._records.get(record.stack, {}).pop(record.id, None)
        current = self._current.get(record.stack, {})
        if current.get(record.name) is record:
            del current[record.name]
        self.store.remove(record)
        self.alarms.pop(record.id, None)
        self.balancers.pop(record.id, None)
        if self._signals.pop(record.id, None) is not None:
            self.store.set("signals", record.id, None)
        self._pokes.pop(record.id, None)

    def validate(self, stack: StackRecord, source: Source, *, complete: bool = True) -> None:
        """InvalidDocument with everything that is wrong with a source, and with what is nested in it."""
        scope = self.reader.scope(stack, source, every_branch=True, complete=complete, facade=self.facade(stack))
        Judging(self.reader, self.platform, self.find).judge(
            scope,
            stack,
            source,
            self._depth(stack),
            occupied=lambda name, address: self._occupied(stack, name, address),
        )

    def _occupied(self, stack: StackRecord, name: str, address: str) -> str:
        """Say why a resource of a stack can not have an address; what it has already, it can have."""
        own = [record for record in self.records(stack) if record.name == name]
        guests = [place for record in own if (place := self.place_of(record)) is not None]
        return self.platform.address_refusal(address, guests, [record.id for record in own])

    def facade(self, stack: StackRecord) -> Callable[[str], Any] | None:
        """Return what `resource_facade` gives in a nested stack."""
        parent = self.stacks.get(stack.parent)
        if parent is None:
            return None

        def facade(section: str) -> Any:
            record = self.current(parent).get(stack.parent_resource)
            if record is None:
                return {}
            known = {"metadata": record.metadata, "deletionpolicy": record.deletion_policy}
            return known.get(section, {})

        return facade

    def _depth(self, stack: StackRecord) -> int:
        depth = 1
        while stack.parent and stack.parent in self.stacks:
            stack = self.stacks[stack.parent]
            depth += 1
        return depth

    async def signal(self, record: ResourceRecord, signal: dict[str, Any]) -> None:
        """See Services."""
        raise NotImplementedError

    def target_of(self, action: str) -> ResourceRecord | None:
        """See Services."""
        raise NotImplementedError

    def poke(self, record: str) -> None:
        """Wake whoever waits for something of a resource."""
        event = self._pokes.get(record)
        if event is not None:
            event.set()

    # --- what only the whole manager can do

    async def create(self, name: str, source: Source, **options: Any) -> StackRecord:
        """See StackManager."""
        raise NotImplementedError

    async def update(self, stack: StackRecord, source: Source, **options: Any) -> None:
        """See StackManager."""
        raise NotImplementedError

    async def delete(
        self, stack: StackRecord, *, retain: tuple[str, ...] = (), forced: bool = False, token: str = ""
    ) -> None:
        """See StackManager."""
        raise NotImplementedError

    async def wait(self, stack: StackRecord) -> None:
        """See StackManager."""
        raise NotImplementedError

    async def _accept(self, stack: StackRecord, status: str, reason: str) -> None:
        """See StackManager."""
        raise NotImplementedError
