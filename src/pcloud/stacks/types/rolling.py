"""How the members of a group are changed some at a time. Pure: the next stage follows from what is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pcloud.stacks.types.base import ResourceFailed, seconds_of

Members = dict[str, dict[str, Any]]
"""Member name → resource definition."""


class Roll(msgspec.Struct, frozen=True, kw_only=True):
    """How a group is updated."""

    batch: int = 1
    """Members changed at once, at most."""
    minimum: int = 0
    """Members left in service meanwhile."""
    pause: float = 0.0
    """Seconds between batches; with `signals` the longest to wait for them."""
    signals: bool = False
    """Whether each changed member must signal."""
    percent: int = 100
    """Of those signals, how many must be successes."""
    drops: bool = False
    """Whether what alarms ask for meanwhile is dropped instead of done afterwards."""


def heat_roll(given: Mapping[str, Any] | None) -> Roll | None:
    """Read Heat's `max_batch_size`, `min_in_service`, `pause_time`; None when there is no such policy."""
    if not given:
        return None
    return Roll(
        batch=max(1, int(given.get("max_batch_size", 1))),
        minimum=max(0, int(given.get("min_in_service", 0))),
        pause=float(given.get("pause_time", 0)),
    )


def aws_roll(policy: Any) -> Roll | None:
    """Read CloudFormation's UpdatePolicy; None when it has none for the members."""
    if not isinstance(policy, dict):
        return None
    replacing = policy.get("AutoScalingReplacingUpdate")
    if isinstance(replacing, dict) and str(replacing.get("WillReplace", "")).lower() == "true":
        return Roll(batch=10_000)  # the engine makes every replacement before it deletes what is replaced
    given = policy.get("AutoScalingRollingUpdate") or policy.get("RollingUpdate")
    if not isinstance(given, dict):
        return None
    signals = str(given.get("WaitOnResourceSignals", "")).lower() == "true"
    return Roll(
        batch=max(1, int(given.get("MaxBatchSize", 1))),
        minimum=max(0, int(given.get("MinInstancesInService", 0))),
        pause=seconds_of(str(given.get("PauseTime", "PT5M" if signals else "PT0S"))),
        signals=signals,
        percent=int(given.get("MinSuccessfulInstancesPercent", 100)),
        drops="AlarmNotification" in (given.get("SuspendProcesses") or []),
    )


def outdated(current: Members, wanted: Members, stale: frozenset[str] = frozenset()) -> list[str]:
    """Return the members that are there and must change, in order; `stale` are those that must although their definitions
    are what they were."""
    return [name for name in wanted if name in current and (current[name] != wanted[name] or name in stale)]


def stage(
    current: Members, wanted: Members, roll: Roll, maximum: int, stale: frozenset[str] = frozenset()
) -> tuple[Members, list[str]]:
    """Return the next stage of an update and which members change in it; (wanted, []) when all are up to date.

    Where a batch would leave too few in service, temporary members in the new form are made first; they go at the end.
    ResourceFailed when the group may not grow for that.
    """
    old = outdated(current, wanted, stale)
    if not old:
        return wanted, []
    spare = [name for name in current if name not in wanted]
    capacity = len(wanted)
    minimum = min(roll.minimum, capacity)
    size = min(roll.batch, capacity + len(spare) - minimum)
    members = {name: current.get(name, wanted[name]) for name in wanted}
    if size < 1:
        room = min(roll.batch, maximum - capacity)
        if room < 1:
            raise ResourceFailed(
                f"{minimum} members must stay in service and at most {maximum} may exist: none can be updated"
            )
        members.update({name: current[name] for name in spare})
        members.update({f"spare{index}": next(iter(wanted.values())) for index in range(room)})
        return members, [name for name in members if name.startswith("spare")]
    members.update({name: current[name] for name in spare})
    batch = old[:size]
    members.update({name: wanted[name] for name in batch})
    return members, batch
