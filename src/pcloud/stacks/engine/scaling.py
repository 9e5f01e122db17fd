"""Lets the members of scaling groups follow the size that policies set.

Concurrency: one task a group, and a lock a group that a stack's own update takes too. The wanted size is stored before
anything is done, marked as `scaling` until the members are there: the next start carries it on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from pcloud.model.errors import Conflict, PcloudError, Unavailable
from pcloud.stacks.engine.state import State
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.types.balancing import Balancer
from pcloud.stacks.types.base import Context, ResourceFailed, failed
from pcloud.stacks.types.scaling import Adjustment, ScalingGroup


class Scaling(State):
    """The part of the manager that scales groups."""

    def lock(self, record: str) -> asyncio.Lock:
        """Return what lets one at a time change the members of a group."""
        return self._locks.setdefault(record, asyncio.Lock())

    async def scale(self, group: ResourceRecord, change: Adjustment) -> bool:
        """Change the wanted size of a group; return whether it changed. Durable on return."""
        stack = self.stacks[group.stack]
        if stack.suspended:
            raise Conflict.of("NOT_NOW", f"Stack [{stack.name}] is suspended: its groups keep their size")
        kind = self.type_of(group)
        if not isinstance(kind, ScalingGroup):
            raise ResourceFailed(f"{group.name} is no scaling group")
        context = self._context_of(group)
        if not change.asked and "AlarmNotification" in (group.data.get("suspended") or []):
            self.event(stack, group, group.status, "no change: what alarms ask for is suspended")
            return False
        if stack.busy and kind.drops_signals(context):
            self.event(stack, group, group.status, "no change: its update suspends what alarms ask for")
            return False
        before, warm = kind.size(context), group.data.get("warm") or {}
        warming = change.warmup is not None and self.now() < warm.get("until", 0.0)
        base = int(warm["base"]) if warming else before
        wanted = kind.wanted(context, msgspec.structs.replace(change, base=base))
        if warming:
            wanted = max(
                before, wanted
            )  # what was just added is not in the values yet, and none is taken away for them
        if wanted == before or (wanted < before and change.calm and self.now() < group.data.get("calm", 0.0)):
            return False
        if change.calm:
            group.data["calm"] = self.now() + change.calm
        if change.warmup and wanted > before:
            group.data["warm"] = {"until": self.now() + change.warmup, "base": base}
        cooldown = kind.cooldown(context) if change.group_cooldown is None else change.group_cooldown
        group.data.update(size=wanted, scaling=True)
        if change.waits:
            group.data["until"] = self.now() + cooldown
        self.save(group)
        self.event(stack, group, "SIGNAL_COMPLETE", f"size {before} → {wanted}")
        await self.store.flush()
        self._follow(group)
        return True

    def _context_of(self, group: ResourceRecord) -> Context:
        stack = self.stacks[group.stack]
        source = stack.source or (stack.operation.target if stack.operation else None)
        policy = None
        if source is not None:
            definition = self.reader.template(source).resources.get(group.name)
            policy = definition.update_policy if definition is not None else None
        return Context(
            self,  # type: ignore[arg-type]  # the whole manager is what types ask
            stack,
            group,
            dict(group.properties),
            update_policy=policy,
            files=source.files if source else {},
            registry=source.registry if source else {},
            defaults=source.defaults if source else {},
        )

    async def balance(self, balancer: str, owner: str, what: list[str] | dict[str, Any]) -> None:
        """Tell a load balancer what an owner brings to it, instead of what it brought before."""
        record = self.find(balancer)
        kind = self.type_of(record) if record is not None else None
        if record is None or not isinstance(kind, Balancer):
            if what:
                raise ResourceFailed(f"there is no load balancer {balancer}")
            return
        for key, fits in (("members", list), ("parts", dict)):
            brought = dict(record.data.get(key) or {})
            before = brought.pop(owner, None)
            if what and isinstance(what, fits):
                brought[owner] = what
            if brought.get(owner) != before:
                record.data[key] = brought
                self.save(record)
        try:
            await self.refresh_balancer(record)
        except Unavailable as problem:  # the balancer is away: it learns of it when it is back
            self.event(self.stacks[record.stack], record, record.status, f"not told yet: {failed(problem)}")

    async def refresh_balancer(self, record: ResourceRecord, *, force: bool = False) -> None:
        """Make a load balancer serve who it shall serve now; PcloudError."""
        kind = self.type_of(record)
        if isinstance(kind, Balancer):
            async with self.lock(record.id):
                await kind.refresh(self._context_of(record), force=force)

    def size_of(self, group: ResourceRecord) -> int:
        """Return the wanted size of a group."""
        kind = self.type_of(group)
        assert isinstance(kind, ScalingGroup)
        return kind.size(self._context_of(group))

    def resume_scaling(self) -> None:
        """Let the groups follow whose members were not there yet."""
        for records in list(self._current.values()):
            for record in records.values():
                if record.data.get("scaling"):
                    self._follow(record)

    async def stop_scaling(self) -> None:
        """Stop; the next start carries on."""
        tasks = list(self._scalings.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Return when no group's members are being changed."""
        while self._scalings:
            await asyncio.gather(*self._scalings.values(), return_exceptions=True)

    def _follow(self, group: ResourceRecord) -> None:
        if group.id in self._scalings:
            return  # its task looks again when it is done
        task = asyncio.ensure_future(self._resize(group))
        self._scalings[group.id] = task
        task.add_done_callback(lambda _: self._scalings.pop(group.id, None))

    async def _resize(self, group: ResourceRecord) -> None:
        stack = self.stacks[group.stack]
        while group.data.get("scaling") and not self.closing:
            await self.wait(stack)
            if not stack.live or group.condemned or self.record(group.id) is None or group.action == "DELETE":
                return
            if stack.suspended:
                return  # its resumption carries it on
            async with self.lock(group.id):
                if stack.busy or stack.suspended:
                    continue
                kind = self.type_of(group)
                assert isinstance(kind, ScalingGroup)
                size = kind.size(self._context_of(group))
                process = "Launch" if size > len(kind.current(group, self)) else "Terminate"  # type: ignore[arg-type]
                if process in (group.data.get("suspended") or []):
                    self.event(stack, group, group.status, f"size {size} waits: {process} is suspended")
                    return
                try:
                    await kind.resize(self._context_of(group))
                except (ResourceFailed, PcloudError) as problem:
                    self.event(stack, group, "SIGNAL_FAILED", f"size {size}: {failed(problem)}")
                    if kind.size(self._context_of(group)) != size:
                        continue  # another one was asked for meanwhile
                    group.data.pop("scaling", None)
                    self.save(group)
                    return
                if kind.size(self._context_of(group)) == size:
                    group.data.pop("scaling", None)
                    self.save(group)
                    self.event(stack, group, "SIGNAL_COMPLETE", f"size {size} reached")
