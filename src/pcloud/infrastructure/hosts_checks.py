"""What `doctor` says about hosts: their settings and keys, and whether each fence agent is there, knows the parameters it is
given, can do what is needed, and reaches its device. Switches nothing. Blocking, for a status time-out a host at most."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.fencing import FenceDevice, Metadata, parse_metadata
from pcloud.infrastructure.hosts_settings import FenceSettings, HostSettings, access, hosts_settings, unfenced
from pcloud.model.check import Check
from pcloud.model.errors import PcloudError

_SEE = "see docs/infrastructures.md"
_PARALLEL = 16


def checks(settings: Mapping[str, Any]) -> list[Check]:
    """Return what is to be said of hosts, by the infrastructure's settings."""
    try:
        known = hosts_settings(settings)
    except ValueError as error:
        return [Check(check="hosts: settings", state="missing", detail=str(error), hint=_SEE)]
    found = []
    if shutil.which("ssh") is None:
        found.append(Check(check="hosts: ssh", state="missing", hint="apt-get install openssh-client"))
    if not known.host:
        hint = "write [infrastructures.hosts.host.NAME] in the configuration"
        found.append(Check(check="hosts: hosts", state="warning", detail="none is configured", hint=hint))
    return found + asyncio.run(_all(known.host))


async def _all(hosts: Mapping[str, HostSettings]) -> list[Check]:
    slots = asyncio.Semaphore(_PARALLEL)

    async def one(name: str, host: HostSettings) -> list[Check]:
        async with slots:
            return [*_keys(name, host), await _fence(name, host)]

    return [check for found in await asyncio.gather(*(one(*each) for each in sorted(hosts.items()))) for check in found]


def _keys(name: str, host: HostSettings) -> Iterator[Check]:
    try:
        access(name, host)
    except PcloudError as error:
        problem = error.problems[0]
        yield Check(check=f"host {name}: keys", state="missing", detail=problem.message, hint=problem.hint)
    else:
        ways = [way for way, key in (("ssh", host.key_file), ("remote", host.agent_key_file)) if key]
        if ways:
            yield Check(check=f"host {name}: keys", state="ok", detail=f"transports: {', '.join(ways)}")
        else:
            yield Check(check=f"host {name}: keys", state="warning", detail="no transport has a key", hint=_SEE)


async def _fence(name: str, host: HostSettings) -> Check:
    what = f"host {name}: fence device"
    if host.fence is None:
        problem = unfenced(name)
        return Check(check=what, state="warning", detail=problem.message, hint="" if host.unfenced else problem.hint)
    with tempfile.TemporaryDirectory(prefix="pcloud-fence-") as folder:
        device = FenceDevice(name, host.fence, Path(folder) / "lock")
        try:
            answer = await device.run("metadata", host.fence.status_timeout)
            if wrong := _unfit(host.fence, parse_metadata(answer.output)):
                return Check(check=what, state="missing", detail=f"{host.fence.agent}: {wrong}", hint=_SEE)
            answer = await device.run("monitor", host.fence.status_timeout)
            if answer.code:
                detail = f"{host.fence.agent} does not reach its device (exit code {answer.code}): {answer.said}"
                return Check(check=what, state="missing", detail=detail, hint="nothing can be isolated until it does")
            is_on = await device.on()
        except (InfrastructureError, ValueError) as error:
            return Check(check=what, state="missing", detail=str(error), hint="apt-get install fence-agents")
    return Check(check=what, state="ok", detail=f"{host.fence.agent}: the host is {'on' if is_on else 'off'}")


def _unfit(fence: FenceSettings, said: Metadata) -> str:
    """Say why an agent can not do what it shall; empty when it can."""
    # An older spelling of a parameter, which agents take too, has '-' for '_' or is not listed: only what is listed counts.
    unknown = {*fence.parameters, *fence.secrets} - {*said.parameters}
    if unknown:
        return f"it knows no parameter {', '.join(sorted(unknown))}; it knows {', '.join(sorted(said.parameters))}"
    needed = {"status", fence.isolation, "on"}
    if absent := needed - {*said.actions}:
        return f"it can not do {', '.join(sorted(absent))}"
    return ""
