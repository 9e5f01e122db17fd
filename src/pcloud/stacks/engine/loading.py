"""Reads what the store keeps into memory at a start; a stack of which something can not be read stands aside, alone.

Concurrency: done once, before anything else of the manager runs. Of a tree of nested stacks all stand aside when one does:
their operations are parts of each other. Such a stack keeps its name, its guests run on, and nothing of it is changed. It
can be looked at, and deleted: what is known of its resources is recalled then.
"""

from __future__ import annotations

import logging

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.operations import Operations
from pcloud.stacks.records import StackRecord
from pcloud.stacks.salvage import names_by_id, salvaged_resource, salvaged_stack
from pcloud.stacks.store import Unreadable

_log = logging.getLogger(__name__)


class Loading(Operations):
    """The part of the manager that begins with what is stored."""

    def load(self) -> None:
        """Fill the tables from the store. What can not be read is told in the log, and in its stack's events."""
        records = self.store.stacks()
        resources = self.store.resources()
        self.change_sets = {item.id: item for item in self.store.change_sets()}
        self.keys = {item.id: item for item in self.store.access_keys()}
        self._signals = self.store.things("signals")
        nested = {record.id: record.stack for record in resources}
        nested |= {item.id: item.stack for item in self.store.unreadable if item.kind == "resource"}
        unreadable = [item for item in self.store.unreadable if item.kind == "stack"]
        lost = [salvaged_stack(item, nested.get(item.id, "")) for item in unreadable]
        for stack in (*records, *lost):
            self.stacks[stack.id] = stack
            if stack.live and not stack.parent:
                self._names[stack.name] = stack.id
            self._records[stack.id] = {}
            self._current[stack.id] = {}
            self._note_exports(stack)
        self._set_aside()
        for record in resources:
            if record.stack in self.unreadable:
                self._aside.setdefault(record.stack, []).append(record)
            elif record.stack in self.stacks:
                self._records[record.stack][record.id] = record
                self._note_watched(record)
                if not record.condemned:
                    self._current[record.stack][record.name] = record

    def _set_aside(self) -> None:
        """Note the stacks that nothing may be done to, and tell it."""
        reasons: dict[str, str] = {}
        for item in self.store.unreadable:
            _log.error("the record of %s %s can not be read: %s", item.kind, item.id, item.why)
            owner = self.stacks.get(item.id if item.kind == "stack" else item.stack)
            if owner is None or not owner.live:
                continue
            what = f"the record of its resource {_name(item)}" if item.kind == "resource" else "its record"
            where = f" of the stack {owner.name}" if owner.parent else ""
            why = f"{what}{where} can not be read ({item.why})"
            sentence = f"{why}; nothing of it is changed until that is mended. It can be deleted"
            reasons.setdefault(self.root_of(owner.id), sentence)
        for stack in self.stacks.values():
            reason = reasons.get(self.root_of(stack.id))
            if reason is not None and stack.live:
                self.unreadable[stack.id] = f"Stack [{stack.name}] can not be used: {reason}"
                if not stack.leaving:
                    self.event(stack, None, stack.status, self.unreadable[stack.id])

    def recall(self, stack: StackRecord) -> None:
        """Take what is known of the resources of a stack that stands aside into the tables, so that they can be deleted."""
        definitions = {}
        if stack.source is not None:
            try:
                definitions = self.reader.template(stack.source).resources
            except PcloudError as problem:
                _log.warning("the template of the stack %s can not be read: %s", stack.name, problem)
        lost = [item for item in self.store.unreadable if item.kind == "resource" and item.stack == stack.id]
        self.store.unreadable[:] = [item for item in self.store.unreadable if item not in lost]
        names = names_by_id(stack, definitions) if lost else {}
        for record in (
            *self._aside.pop(stack.id, ()),
            *(salvaged_resource(item, stack, definitions, names) for item in lost),
        ):
            if record.id not in self._records[stack.id]:
                self._records[stack.id][record.id] = record
                if not record.condemned:
                    self._current[stack.id].setdefault(record.name, record)


def _name(item: Unreadable) -> str:
    name = item.told.get("name")
    return name if isinstance(name, str) else item.id
