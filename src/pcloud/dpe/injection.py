"""Faults on demand, for drills: one real fault, done to a real guest behind the control loop's back.

The loop is told nothing: it has to notice. Refusals are ValueErrors; nothing was done then. Concurrency: one call at a time
for a deployable (the daemon sees to that).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from pcloud.environment.infrastructure import ExecResult, Infrastructure, InfrastructureError
from pcloud.model.deployable import Resource
from pcloud.policy.state import State

Run = Callable[[Sequence[str]], Awaitable[ExecResult]]
"""Runs a command in the guest."""


async def kill_service(state: State, assembly: str, resource: str, run: Run) -> str:
    """Kill every process of a service; return what was done. InfrastructureError when the guest did not do it."""
    found = _resource(state, assembly, resource)
    argv = kill_command(found)
    done = await run(argv)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise InfrastructureError(f"{' '.join(argv)}: {said}")
    return f"in the guest {assembly}: {' '.join(argv)}"


async def kill_guest(state: State, assembly: str, infrastructure: Infrastructure) -> str:
    """Kill a guest, as a host would that lost it; return what was done."""
    await infrastructure.destroy(f"{state.deployable.name}.{assembly}")
    return f"the guest {assembly} was killed"


def kill_command(resource: Resource) -> list[str]:
    """Return what kills a service's processes; ValueError where nobody knows which they are."""
    if resource.resource_class == "systemd":
        unit = resource.type if "." in resource.type else f"{resource.type}.service"
        return ["systemctl", "kill", "--signal=SIGKILL", unit]
    if resource.processes:
        # The kernel keeps 15 characters of a name; of what a name may hold, two mean something to pkill.
        names = (re.sub(r"([.+])", r"\\\1", name[:15]) for name in resource.processes)
        return ["pkill", "-KILL", "-x", "|".join(names)]
    raise ValueError(
        f"which processes {resource.name} ({resource.resource_class}) has is not known: "
        "name them as `processes` in the manifest"
    )


def _resource(state: State, assembly: str, resource: str) -> Resource:
    for each in state.deployable.assemblies:
        for one in each.resources:
            if (each.name, one.name) == (assembly, resource):
                return one
    raise ValueError(f"there is no resource {assembly}/{resource}")
