"""What buckets and containers share: a name in the object store is claimed durably before anything is made under it, so that
what is there after a crash is known to be ours, and what was there before is never taken, changed or deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pcloud.stacks.types.base import Context, ResourceFailed


def generated_name(context: Context, longest: int) -> str:
    """Return STACK-RESOURCE-HASH in the letters that S3 allows; the hash, this resource's alone, stays whole."""
    wanted = "".join(character if character.isalnum() else "-" for character in context.physical_name().lower())
    head, short = wanted.rsplit("-", 1)
    return f"{head[: longest - 1 - len(short)].strip('-')}-{short}"


async def claim(context: Context, given: str | None, longest: int, exists: Callable[[str], Awaitable[bool]]) -> str:
    """Return the name of a resource's thing, which from now on is this resource's. ResourceFailed when somebody else's thing
    has it."""
    record, services = context.record, context.services
    if record.physical:
        return record.physical
    name = given or generated_name(context, longest)
    claimed = f"object-store/{name}"
    async with services.lock(claimed):
        # Claimed by a resource whose thing is not made yet, or there.
        if given and (services.find(claimed) is not None or await exists(name)):
            raise ResourceFailed(f"{name} already exists")
        record.physical = name
        record.data["reference"] = claimed
        await services.keep(record)
    return name
