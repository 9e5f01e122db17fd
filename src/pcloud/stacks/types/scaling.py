"""Groups whose size policies change: the common part, OS::Heat::AutoScalingGroup and OS::Heat::ScalingPolicy.

A policy's signal changes the wanted size, which is stored; the members follow in the background, one change of a group at a
time, and after a crash they follow at the next start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, integer, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.groups import DEFINITION, MAX_MEMBERS, GroupType, plain
from pcloud.stacks.types.rolling import Members, Roll, heat_roll

_UPDATE = OnChange.UPDATE


class ScalingGroup(GroupType):
    """Base of groups with limits and a desired size."""

    minimum_key: ClassVar[str]
    maximum_key: ClassVar[str]
    desired_key: ClassVar[str]
    cooldown_key: ClassVar[str]

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """The sizes must fit each other."""
        keys = self.minimum_key, self.maximum_key, self.desired_key
        low, high, wanted = (properties.get(key) for key in keys)
        found = []
        if isinstance(low, int) and isinstance(high, int) and low > high:
            message = f"{keys[0]} is more than {keys[1]}"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=(keys[0],)))
        if isinstance(wanted, int) and isinstance(low, int) and isinstance(high, int) and not low <= wanted <= high:
            message = f"{keys[2]} is not between {keys[0]} and {keys[1]}"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=(keys[2],)))
        return found

    def size(self, context: Context) -> int:
        """Return how many there shall be now: what scaling set, else the desired capacity, within the limits."""
        given = context.properties
        wanted = context.record.data.get("size")
        if wanted is None:
            wanted = given.get(self.desired_key)
        if wanted is None:
            wanted = given[self.minimum_key]
        return int(max(given[self.minimum_key], min(given[self.maximum_key], wanted)))

    def maximum(self, context: Context) -> int:
        """Return the upper limit."""
        return int(context.properties[self.maximum_key])

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """A new desired capacity overrides what scaling set."""
        if self.desired_key in changed:
            context.record.data.pop("size", None)
        await super().update(context, old, changed)

    def wanted(self, context: Context, change: Adjustment) -> int:
        """Return the size that an adjustment leads to, within the limits."""
        now, kind, amount, minimum_step = self.size(context), change.kind, change.amount, change.step
        now = now if change.base is None else change.base
        if kind in ("exact_capacity", "ExactCapacity"):
            size = int(amount)
        elif kind == "Proportional":
            size = math.ceil(now * amount - 1e-9)
        elif kind in ("percent_change_in_capacity", "PercentChangeInCapacity"):
            step = now * amount / 100
            whole = int(step) or (1 if step > 0 else -1 if step < 0 else 0)
            if abs(whole) < minimum_step:
                whole = minimum_step if step > 0 else -minimum_step
            size = now + whole
        else:
            size = now + int(amount)
        return int(max(context.properties[self.minimum_key], min(context.properties[self.maximum_key], size)))

    def drops_signals(self, context: Context) -> bool:
        """Return whether policies are not heard while the group is updated."""
        roll = self.roll(context)
        return roll is not None and roll.drops

    async def resize(self, context: Context) -> None:
        """Make or delete members for the size that is wanted now; those that stay are left as they are."""
        now = self.current(context.record, context.services)
        wanted = {name: now.get(name, body) for name, body in self.members(context).items()}
        await context.services.child_apply(context, self.source_of(context, wanted))
        await self.changed(context)

    def cooldown(self, context: Context) -> float:
        """Return the seconds in which the size is not changed again, where the policy has no cool-down of its own."""
        return float(context.properties.get(self.cooldown_key) or 0)


class AutoScalingGroup(ScalingGroup):
    """A number of like resources that scaling policies change."""

    names = ("OS::Heat::AutoScalingGroup",)
    minimum_key, maximum_key = "min_size", "max_size"
    desired_key, cooldown_key = "desired_capacity", "cooldown"
    sizing = ("min_size", "max_size", "desired_capacity")
    schema: ClassVar[Schema] = {
        "resource": mapping(required=True, on_change=_UPDATE, fields=DEFINITION),
        "max_size": integer(required=True, minimum=0, maximum=MAX_MEMBERS, on_change=_UPDATE),
        "min_size": integer(required=True, minimum=0, on_change=_UPDATE),
        "desired_capacity": integer(minimum=0, on_change=_UPDATE),
        "cooldown": integer(minimum=0, on_change=_UPDATE),
        "rolling_updates": mapping(
            on_change=_UPDATE,
            fields={
                "min_in_service": integer(default=0, minimum=0),
                "max_batch_size": integer(default=1, minimum=1),
                "pause_time": anything(default=0),
            },
        ),
    }

    def definition(self, properties: Mapping[str, Any]) -> Any:
        """`resource`."""
        return properties.get("resource")

    def members(self, context: Context) -> Members:
        """`member0` and on."""
        definition = plain(context.properties["resource"])
        return {f"member{index}": definition for index in range(self.size(context))}

    def roll(self, context: Context) -> Roll | None:
        """`rolling_updates`."""
        return heat_roll(context.properties.get("rolling_updates"))


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy does to its group."""

    group: str
    kind: str
    amount: float
    step: int = 0
    """The smallest change that a percentage makes."""
    cooldown: float = 0.0
    """Seconds in which this policy does nothing more."""
    group_cooldown: float | None = None
    """Seconds in which the group is not changed again; None for the group's own."""
    waits: bool = True
    """Whether it waits for the group's cool-down, and begins one."""
    warmup: float | None = None
    """Seconds in which new members are not counted as those that the adjustment is relative to; None: they count at once."""
    calm: float = 0.0
    """Seconds after a change in which a further one takes no member away: what was measured before it is still looked at."""
    base: int | None = None
    """The size that it is relative to; None for the present one."""
    asked: bool = False
    """Whether a person asked for it, and no policy."""


SUSPENDABLE = ("AlarmNotification", "Launch", "Terminate")
"""What of a group can be suspended: hearing policies, making members, deleting members."""


class Policy(ResourceType):
    """Base of policies: changes the size of a group when it is signalled, at most once in its cool-down."""

    keeps_signals = False
    repeats = True

    def adjustment(self, context: Context, details: Mapping[str, Any] | None = None) -> Adjustment | None:
        """Return what the properties ask for, given what a signal tells; None for nothing."""
        raise NotImplementedError

    def heard(self, context: Context, details: Mapping[str, Any]) -> bool:
        """Whether a signal with these details asks for anything."""
        return str(details.get("current", details.get("state", "alarm"))).lower() in ("alarm", "1")

    async def signal(self, context: Context, signal: Mapping[str, Any]) -> None:
        """Scale, unless it cools down."""
        details = signal.get("details") or {}
        change = self.adjustment(context, details) if self.heard(context, details) else None
        if change is None:
            return
        services, record = context.services, context.record
        now = services.now()
        group = services.find(change.group)
        if group is None:
            raise ResourceFailed(f"there is no group {change.group}")
        if change.waits and now < max(record.data.get("until", 0.0), group.data.get("until", 0.0)):
            services.note(record, "no change: it cools down")
            return
        if await services.scale(group, change) and change.cooldown:
            record.data["until"] = now + change.cooldown
            services.save(record)


class ScalingPolicy(Policy):
    """A policy in Heat's words."""

    names = ("OS::Heat::ScalingPolicy",)
    attributes = frozenset({"alarm_url", "signal_url"})
    schema: ClassVar[Schema] = {
        "auto_scaling_group_id": text(required=True),
        "scaling_adjustment": anything(required=True, on_change=_UPDATE),
        "adjustment_type": text(
            required=True,
            on_change=_UPDATE,
            allowed=("change_in_capacity", "exact_capacity", "percent_change_in_capacity"),
        ),
        "cooldown": integer(default=0, minimum=0, on_change=_UPDATE),
        "min_adjustment_step": integer(default=0, minimum=0, on_change=_UPDATE),
    }

    async def create(self, context: Context) -> None:
        """Make the URL."""
        context.record.physical = context.token
        url = context.services.signed_url(context.record, "signal")
        context.record.attributes = {"alarm_url": url, "signal_url": url}

    def adjustment(self, context: Context, details: Mapping[str, Any] | None = None) -> Adjustment:
        """Read the properties."""
        given = context.properties
        return Adjustment(
            group=str(given["auto_scaling_group_id"]),
            kind=given["adjustment_type"],
            amount=float(given["scaling_adjustment"]),
            step=int(given["min_adjustment_step"]),
            cooldown=float(given["cooldown"]),
        )


TYPES: tuple[type[ResourceType], ...] = (AutoScalingGroup, ScalingPolicy)
