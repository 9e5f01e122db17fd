"""Adds, changes and removes one assembly of a stack's deployable. Resource types that make guests call this.

One deployable a stack: its name follows from the stack's name and id, an assembly's from the resource's name and the id of
its incarnation, so that a crash and a second call find what the first made. Concurrency: a change reads the definition,
changes one assembly and stores it, under a lock for each deployable; the engine touches only what differs. Order between
servers is the stack engine's; what happens to a guest that fails is the engine's own.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pcloud.model.deployable import Assembly, Deployable, ResourceState
from pcloud.model.errors import NotFound
from pcloud.model.status import AssemblyStatus, DeployableStatus
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord, StackRecord, short_hash
from pcloud.stacks.types.base import Context, ResourceFailed

START_SECONDS = 3600.0
"""How long a server may take until it runs; building its image is part of that. The stack's own time-out ends it earlier."""
GONE_SECONDS = 600.0
_LOOK = 0.25
_locks: weakref.WeakKeyDictionary[Platform, dict[str, asyncio.Lock]] = weakref.WeakKeyDictionary()


def deployable_name(stack: StackRecord) -> str:
    """Return the name of a stack's deployable."""
    return f"{_label(stack.name, 40)}-{_mark(stack)}"


def _mark(stack: StackRecord) -> str:
    """Return the part of a deployable's name that is the stack's alone."""
    return short_hash(stack.id, length=8)


async def deployables_of(platform: Platform, stack: StackRecord) -> list[str]:
    """Return the deployables there are of a stack whose name may not be known any more."""
    return [name for name in await platform.deployables() if is_of(name, stack)]


def is_of(deployable: str, stack: StackRecord) -> bool:
    """Tell whether a deployable is a stack's, whatever is known of the stack beside its id."""
    return deployable.endswith(f"-{_mark(stack)}")


def assembly_name(record: ResourceRecord) -> str:
    """Return the name of a resource's assembly, which is its guest's host name."""
    return f"{_label(record.name, 40)}-{short_hash(record.id, length=6)}"


def _label(name: str, length: int) -> str:
    """Return the part of a name that fits a DNS label."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:length].strip("-") or "x"


def place(context: Context) -> tuple[str, str]:
    """Return deployable and assembly of the resource, noted in its record so that others find its guest."""
    data = context.record.data
    if "assembly" not in data:
        data["deployable"], data["assembly"] = deployable_name(context.stack), assembly_name(context.record)
        context.services.save(context.record)
    return data["deployable"], data["assembly"]


async def put(context: Context, assembly: Assembly) -> None:
    """Add the resource's assembly to the stack's deployable, or change it there. `assembly.name` must be that of `place`.
    Returns when stored; nothing else of the deployable is touched."""
    name, _ = place(context)
    platform = context.services.platform
    assembly = msgspec.structs.replace(assembly, start_timeout=max(assembly.start_timeout, platform.start_timeout))
    if platform.transport == "none":  # types whose services must be watched are refused then
        assembly = msgspec.structs.replace(assembly, transport="none", resources=())
    async with _lock(platform, name):
        old = await _definition(platform, name)
        assemblies = [one for one in old.assemblies if one.name != assembly.name] if old is not None else []
        kept = [assembly if one.name == assembly.name else one for one in (old.assemblies if old is not None else ())]
        wanted = tuple(kept if len(kept) > len(assemblies) else [*assemblies, assembly])
        if (
            old is not None
            and old.infrastructure != platform.infrastructure
            and assembly.name not in {one.name for one in old.assemblies}
        ):
            raise ResourceFailed(
                f"the guests of this stack are on {old.infrastructure}, new ones are made on {platform.infrastructure} "
                "by the settings now: a stack has one infrastructure"
            )
        base = old or Deployable(name=name, infrastructure=platform.infrastructure)
        await platform.apply(msgspec.structs.replace(base, assemblies=wanted))


def current_state(status: DeployableStatus) -> bool:
    """Whether a status is of what was asked for last, not of before. ResourceFailed when that can not be made."""
    if status.change == "failed":
        raise ResourceFailed(status.reason)
    return not status.change


async def running(
    context: Context, *, services: bool = True, since: float = 0.0, seconds: float = START_SECONDS
) -> AssemblyStatus:
    """Wait until the resource's assembly runs (with all its `services`, else until its guest answers); return its status.
    What was so before `since` does not count, as after a change that restarts the guest.

    ResourceFailed with the engine's reason when it can not be helped, or when the time is over.
    """
    name, assembly = place(context)
    began = context.record.data.setdefault("began", context.services.now())
    reason = ""
    while True:
        status = await context.services.platform.status(name)
        if status is not None:
            found = next((one for one in status.assemblies if one.name == assembly), None)
            fresh = current_state(status)
            reason = (found.reason if found is not None else "") or status.reason or reason
            ready = found is not None and (found.state is ResourceState.RUNNING or (found.answers and not services))
            if fresh and found is not None and ready and found.since >= since:
                context.record.data.pop("began", None)  # the next wait has its own time
                return found
            if fresh and found is not None and found.state is ResourceState.UNRECOVERABLE:
                raise ResourceFailed(f"the guest can not be started: {reason}")
            if fresh and status.state in (ResourceState.FAILED, ResourceState.BLOCKED):
                raise ResourceFailed(status.reason or f"the guests of {name} were given up")
        if context.services.now() >= began + seconds:
            raise ResourceFailed(f"the guest did not run within {seconds:g} s{': ' if reason else ''}{reason}")
        await asyncio.sleep(_LOOK)


async def current(context: Context) -> Assembly | None:
    """Return the resource's assembly as it is stored; None when there is none."""
    return await stored(context, place(context))


async def stored(context: Context, where: tuple[str, str]) -> Assembly | None:
    """Return any assembly as it is stored; None when there is none."""
    found = await _definition(context.services.platform, where[0])
    return next((one for one in found.assemblies if one.name == where[1]), None) if found is not None else None


async def change(context: Context, **changes: Any) -> None:
    """Change fields of the resource's own assembly; ResourceFailed when it is not there."""
    await change_at(context, place(context), lambda _: changes)


async def change_at(context: Context, where: tuple[str, str], edit: Callable[[Assembly], Mapping[str, Any]]) -> None:
    """Change fields of any assembly: `edit` gets it as it is stored and returns what differs. ResourceFailed when it is not
    there."""
    name, assembly = where
    if assembly not in await change_many(context, name, {assembly: edit}):
        raise ResourceFailed(f"there is no guest {assembly}")


async def change_many(
    context: Context, name: str, edits: Mapping[str, Callable[[Assembly], Mapping[str, Any]]]
) -> frozenset[str]:
    """Change fields of several assemblies of a deployable at once, by their names; return which of them are there."""
    platform = context.services.platform
    async with _lock(platform, name):
        old = await _definition(platform, name)
        if old is None:
            return frozenset()
        changed = tuple(
            msgspec.structs.replace(one, **edits[one.name](one)) if one.name in edits else one for one in old.assemblies
        )
        if changed != old.assemblies:
            await platform.apply(msgspec.structs.replace(old, assemblies=changed))
        return frozenset(edits.keys() & {one.name for one in old.assemblies})


async def remove(context: Context) -> None:
    """Remove the resource's assembly with its guest, and the deployable with its last assembly; returns when it is gone."""
    name, assembly = place(context)
    await remove_where(context.services.platform, context.services.now, name, lambda one: one == assembly)


async def remove_where(
    platform: Platform, now: Callable[[], float], name: str, goes: Callable[[str], bool]
) -> tuple[Assembly, ...]:
    """Remove the assemblies of a deployable whose names are to go, with their guests, and the deployable with its last one.
    Returns them when they are gone; ResourceFailed when they stay."""
    async with _lock(platform, name):
        old = await _definition(platform, name)
        if old is None:
            return ()
        left = tuple(one for one in old.assemblies if not goes(one.name))
        gone = tuple(one for one in old.assemblies if goes(one.name))
        if not left:
            await platform.delete(name)
            return gone
        if gone:
            await platform.apply(msgspec.structs.replace(old, assemblies=left))
    deadline = now() + GONE_SECONDS
    for assembly in (one.name for one in gone):
        while await platform.holds_guest(name, assembly):
            if now() >= deadline:
                raise ResourceFailed(f"the guest {assembly} is not gone yet")
            await asyncio.sleep(_LOOK)
    return gone


async def _definition(platform: Platform, name: str) -> Deployable | None:
    try:
        return await platform.definition(name)
    except NotFound:
        return None


def _lock(platform: Platform, name: str) -> asyncio.Lock:
    return _locks.setdefault(platform, {}).setdefault(name, asyncio.Lock())
