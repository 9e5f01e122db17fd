"""What became of a guest against what its resource says: whether it is there, its state, image, memory and cores.

The engine's status is what runs, observed as it happens. What a guest was made from is the engine's definition: it makes a
guest anew whose definition changes, and says with `change` when what runs is not of that definition.
"""

from __future__ import annotations

from typing import Any

from pcloud.model.deployable import Assembly, ResourceState
from pcloud.stacks.guests import assemblies
from pcloud.stacks.types.base import Context, NotChecked

_THERE = (ResourceState.RUNNING, ResourceState.STARTING, ResourceState.SUSPECT, ResourceState.PAUSED)


async def guest(context: Context) -> tuple[Assembly | None, dict[str, Any]]:
    """Return the resource's guest as the engine has it, None when there is none any more, and how it does otherwise than
    it should. NotChecked when the engine does not know."""
    name, assembly = assemblies.place(context)
    platform = context.services.platform
    stored, status = await assemblies.current(context), await platform.status(name)
    found = next((one for one in status.assemblies if one.name == assembly), None) if status is not None else None
    if stored is None:
        return None, {}
    if status is None or found is None or found.state is ResourceState.UNKNOWN:
        raise NotChecked(f"the state of the guest {assembly} is not known now")
    if context.stack.suspended or found.answers or found.state in _THERE:
        return stored, {"change": status.change} if status.change else {}
    if status.target == "started" and not await platform.holds_guest(name, assembly):
        return None, {}
    return stored, {"state": found.state.value}


def other(stored: Assembly, image: str | None, memory: int | None, cpus: float | None) -> dict[str, Any]:
    """Return image, memory (MiB) and cores where they are other than wanted; None says nothing of one."""
    wanted = {"image": image, "memory": memory, "cpus": cpus}
    return {
        key: getattr(stored, key)
        for key, value in wanted.items()
        if value is not None and getattr(stored, key) != value
    }
