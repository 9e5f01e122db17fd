"""Exports between stacks, and change sets."""

from __future__ import annotations

from typing import Any

import msgspec

from pcloud.model.errors import Conflict, InvalidDocument, NotFound, PcloudError
from pcloud.stacks.assessment import assess
from pcloud.stacks.engine.drift import Drift
from pcloud.stacks.engine.values import Values
from pcloud.stacks.plan import Change
from pcloud.stacks.records import ChangeSet, Source, StackRecord, new_id


class Changes(Drift):
    """The part of the manager that keeps plans, and what stacks give each other."""

    # --- exports

    def _note_exports(self, stack: StackRecord) -> None:
        for name in [name for name, (owner, _) in self._exports.items() if owner == stack.id]:
            del self._exports[name]
        if stack.live:
            for output in stack.outputs.values():
                if output.get("export"):
                    self._exports[output["export"]] = (stack.id, str(output["value"]))

    def check_exports(self, stack: StackRecord, outputs: dict[str, Any]) -> None:
        """PcloudError when an export is taken by another stack or changed while somebody imports it."""
        offered = {entry["export"]: str(entry["value"]) for entry in outputs.values() if entry.get("export")}
        for name in offered:
            owner = self._exports.get(name)
            if owner is not None and owner[0] != stack.id:
                raise PcloudError.of("EXPORT_TAKEN", f"Export with name {name} is already exported by another stack")
        for name, user in self.importers(stack):
            if self._exports[name][1] != offered.get(name):
                raise PcloudError.of("IN_USE", f"Export {name} cannot be updated as it is in use by {user}")

    def imports_of(self, export: str) -> list[str]:
        """Return the names of the stacks that import a value."""
        return [stack.name for stack in self.stacks.values() if stack.live and export in self._imported(stack)]

    def importers(self, stack: StackRecord) -> list[tuple[str, str]]:
        """Return (export, stack that imports it) for everything a stack exports."""
        own = {name for name, (owner, _) in self._exports.items() if owner == stack.id}
        return [(name, user) for name in sorted(own) for user in self.imports_of(name)] if own else []

    def _imported(self, stack: StackRecord) -> set[str]:
        if stack.source is None or "ImportValue" not in stack.source.template:
            return set()
        scope = self.reader.live_scope(stack, stack.source, self.current(stack), changes={})
        try:
            assess(
                scope, registry=stack.source.registry, capabilities=self.platform.capabilities, platform=self.platform
            )
        except InvalidDocument:
            return scope.imported
        return scope.imported

    # --- change sets

    async def create_change_set(
        self,
        stack_name: str,
        name: str,
        source: Source,
        *,
        kind: str,
        description: str = "",
        on_failure: str = "",
        token: str = "",
        nested: bool = False,
    ) -> ChangeSet:
        """Plan a change and keep it; a new stack of status REVIEW_IN_PROGRESS is made for kind CREATE. With `nested`, each
        nested stack that changes gets a change set too. The same request again (`token`) gives the same change set."""
        if kind == "CREATE":
            try:
                stack = self.get(stack_name)
            except NotFound:
                stack = StackRecord(id=new_id(), name=stack_name, status="REVIEW_IN_PROGRESS", created=self.now())
            if stack.status != "REVIEW_IN_PROGRESS":
                raise Conflict.of(
                    "ALREADY_EXISTS",
                    f"Stack [{stack_name}] already exists and cannot be created again with the changeSet [{name}].",
                )
        else:
            stack = self.get(stack_name)
            if stack.status == "REVIEW_IN_PROGRESS":
                raise Conflict.of(
                    "NOT_NOW", f"Stack [{stack_name}] is in REVIEW_IN_PROGRESS state and can not be updated."
                )
        known = next((one for one in self.change_sets.values() if one.stack == stack.id and one.name == name), None)
        if known is not None and token and known.token == token:
            return known
        if known is not None:
            raise Conflict.of("ALREADY_EXISTS", f"ChangeSet {name} already exists")
        judged = self.plan(stack if stack.id in self.stacks else None, source, stack_name, nested=nested)
        changed = [change for change in judged.changes if change.action not in ("none", "retain")]
        tags = stack.source is None or stack.source.tags != source.tags
        empty = not changed and kind == "UPDATE" and not tags and not self.outputs_differ(stack, source)
        change_set = ChangeSet(
            id=new_id(),
            name=name,
            stack=stack.id,
            kind=kind,
            status="FAILED" if empty else "CREATE_COMPLETE",
            reason="The submitted information didn't contain changes. Submit different information to create a change set."
            if empty
            else "",
            execution="UNAVAILABLE" if empty else "AVAILABLE",
            source=source,
            base=stack.generation,
            created=self.now(),
            description=description,
            on_failure=on_failure,
            token=token,
            nested=nested,
        )
        valued = Values(self.reader, stack.source, source)
        change_set.changes = [{**entry_of(change), **valued.of(change)} for change in changed]
        if stack.id not in self.stacks:
            self.stacks[stack.id] = stack
            self._names[stack_name] = stack.id
            self._records[stack.id] = {}
            self._current[stack.id] = {}
            self.store.put(stack)
            self.event(stack, None, "REVIEW_IN_PROGRESS", "User Initiated")
        beneath = self._beneath(change_set, stack, changed, change_set.changes)
        for each in (*beneath, change_set):
            self.change_sets[each.id] = each
            self.store.put(each)
        await self.store.flush()
        return change_set

    def _beneath(
        self, parent: ChangeSet, stack: StackRecord, changes: list[Change], entries: list[dict[str, Any]]
    ) -> list[ChangeSet]:
        """Return the change sets of the nested stacks that change, those within them too; the entries of the resources that
        these are get their ids. A nested stack that is not there yet has no id, only a name."""
        found: list[ChangeSet] = []
        for change, entry in zip(changes, entries, strict=True):
            rows = [row for row in change.beneath if row.action not in ("none", "retain")]
            if not rows:
                continue
            child = self.stacks.get(change.physical.rsplit("/", 1)[-1]) if change.action != "replace" else None
            subject = child or StackRecord(id="", name=f"{stack.name}-{change.name}", status="REVIEW_IN_PROGRESS")
            made = msgspec.structs.replace(
                parent,
                id=new_id(),
                name=f"{parent.name}-{change.name}"[:128],
                source=Source(template="", tags=parent.source.tags, capabilities=parent.source.capabilities),
                stack=subject.id,
                execution="UNAVAILABLE",
                description=subject.name,
                parent=parent.id,
                root=parent.root or parent.id,
                changes=[entry_of(row) for row in rows],
                token="",
            )
            entry["change_set"] = made.id
            found += [made, *self._beneath(made, subject, rows, made.changes)]
        return found

    def outputs_differ(self, stack: StackRecord, source: Source) -> bool:
        """Return whether a source has other outputs than the stack."""
        if stack.source is None:
            return True
        old, new = self.reader.template(stack.source), self.reader.template(source)
        return {n: (o.value, o.export) for n, o in old.outputs.items()} != {
            n: (o.value, o.export) for n, o in new.outputs.items()
        }

    def find_change_set(self, name: str, stack_name: str = "") -> ChangeSet:
        """Return a change set by ARN or by name and stack; NotFound."""
        identity = name.rsplit("/", 1)[-1] if name.startswith("arn:") else ""
        for item in self.change_sets.values():
            if item.id == identity or (
                not identity and item.name == name and stack_name and item.stack == self.get(stack_name).id
            ):
                return item
        raise NotFound.of("NO_SUCH_CHANGE_SET", f"ChangeSet [{name}] does not exist")

    async def execute_change_set(self, change_set: ChangeSet, *, token: str = "", rollback: bool = True) -> None:
        """Do what was planned; Conflict when the stack changed meanwhile."""
        self._of_root(change_set)
        stack = self.stacks[change_set.stack]
        if change_set.execution != "AVAILABLE":
            raise Conflict.of(
                "NOT_NOW",
                f"ChangeSet [{change_set.name}] cannot be executed in its current status of [{change_set.status}]",
            )
        if change_set.base != stack.generation:
            change_set.execution = "OBSOLETE"
            self.store.put(change_set)
            raise Conflict.of("OBSOLETE", f"ChangeSet [{change_set.name}] was made for an older state of the stack")
        on_failure = change_set.on_failure or ("ROLLBACK" if rollback else "DO_NOTHING")
        change_set.execution = "EXECUTE_IN_PROGRESS"
        self.store.put(change_set)
        if change_set.kind == "CREATE":
            await self.create(stack.name, change_set.source, on_failure=on_failure, token=token)
            if stack.operation is not None:
                stack.operation.change_set = change_set.id
        else:
            await self.update(stack, change_set.source, token=token, change_set=change_set.id, on_failure=on_failure)

    def executed(self, identity: str) -> None:
        """Note that a change set came to its end."""
        for change_set in [one for one in self.change_sets.values() if identity in (one.id, one.root)]:
            change_set.execution = "EXECUTE_COMPLETE"
            self.store.put(change_set)

    async def delete_change_set(self, change_set: ChangeSet) -> None:
        """Forget a change set, with those of nested stacks; Conflict for one of these alone."""
        self._of_root(change_set)
        for each in [one for one in self.change_sets.values() if change_set.id in (one.id, one.root)]:
            del self.change_sets[each.id]
            self.store.remove(each)
        await self.store.flush()

    def _of_root(self, change_set: ChangeSet) -> None:
        if change_set.root:
            root = self.change_sets[change_set.root].name
            raise Conflict.of(
                "NOT_NOW", f"ChangeSet [{change_set.name}] belongs to a nested stack: operate on [{root}]"
            )


def entry_of(change: Change) -> dict[str, Any]:
    """Return a planned change as change sets keep it: plain data, without its reason."""
    return {
        "action": change.action,
        "name": change.name,
        "type": change.type,
        "physical": change.physical,
        "changed": list(change.changed),
        "replacing": list(change.replacing),
        "conditional": change.conditional,
    }
