"""OS::Heat::HARestarter: restarts a guest through the engine when it is signalled.

The engine stops the guest and confirms that it is gone, starts it and then its services, and what depends on them by the
order constraints, again; it counts the failure on its escalation ladder. Nothing is deleted from the stack: the guest keeps
its identity, and its dependents are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.schema import OnChange, Schema, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType


class Restarter(ResourceType):
    """A URL that restarts its victim."""

    names = ("OS::Heat::HARestarter",)
    attributes = frozenset({"AlarmUrl"})
    needs = frozenset({"guests"})
    keeps_signals = False
    description = "Restarts a guest, with its services in order, when an alarm says so."
    schema: ClassVar[Schema] = {"InstanceId": text(required=True, on_change=OnChange.UPDATE)}

    async def create(self, context: Context) -> None:
        """Make the URL."""
        record = context.record
        record.physical = context.physical_name()
        record.attributes = {"AlarmUrl": context.services.signed_url(record, "signal")}
        if context.services.find(context.properties["InstanceId"]) is None:
            raise ResourceFailed(f"there is no instance {context.properties['InstanceId']}")

    async def signal(self, context: Context, signal: Mapping[str, Any]) -> None:
        """Restart the victim; an alarm that ends is no reason to."""
        details = signal.get("details") or {}
        if str(details.get("current", details.get("state", "alarm"))).lower() not in ("alarm", "1"):
            return
        identity = str(context.properties["InstanceId"])
        victim = context.services.find(identity)
        place = context.services.place_of(victim) if victim is not None else None
        if victim is None or place is None:
            raise ResourceFailed(f"there is no guest {identity}")
        reason = str(signal.get("reason") or "it was signalled")
        context.services.note(context.record, f"restarting {victim.name} ({identity}): {reason}")
        await context.services.platform.recover(*place, reason=f"{context.record.name}: {reason}")
        context.record.data["restarts"] = int(context.record.data.get("restarts", 0)) + 1
        context.record.data["restarted"] = context.services.now()
        context.services.save(context.record)


TYPES: tuple[type[ResourceType], ...] = (Restarter,)
