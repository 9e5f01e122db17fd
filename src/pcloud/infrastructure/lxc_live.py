"""Changes a running LXC guest's further addresses, firewall and groups from this host, without a command in the guest.

Concurrency: one guest is settled by one call at a time; a guest that ends meanwhile is no error, its next start has it all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from pcloud.environment.infrastructure import ExecResult, InfrastructureError
from pcloud.infrastructure import lxc_firewall
from pcloud.infrastructure.lxc_attach import run
from pcloud.infrastructure.lxc_groups import Groups
from pcloud.infrastructure.lxc_network import Leases, Network
from pcloud.model.deployable import Assembly, FirewallRule

_SECONDS = 60.0


async def settle(folder: Path, wanted: Assembly, network: Network) -> None:
    """Bring the guest of a folder to the addresses, rules and groups of its definition. InfrastructureError when it does not
    take them."""
    state = folder.parents[1]
    groups = Groups(state)
    init = await init_of(folder)
    if init is not None:
        inside = ["nsenter", f"--net=/proc/{init}/ns/net"]
        await _addresses(inside, wanted.addresses, network)
        rules = wanted.firewall if wanted.firewall is not None else (FirewallRule(),)  # one that lets everything in
        await lxc_firewall.apply(folder, rules, network.gateway, groups, init)
    own = (await asyncio.to_thread(Leases(state).all)).get(folder.name)
    if own is not None:
        addresses = [str(network.address(own).ip), *wanted.addresses, *(one.address for one in wanted.interfaces)]
        await asyncio.to_thread(groups.join, folder.name, wanted.groups, addresses)


async def init_of(folder: Path) -> int | None:
    """Return the process id of a guest's init, None where it does not run. InfrastructureError when nobody says."""
    found = await _run("lxc-info", "-P", str(folder.parent), "-n", folder.name, "-p", "-H")
    init = found.stdout.decode().strip()
    return int(init) if init.isdigit() else None


async def _addresses(inside: Sequence[str], wanted: Sequence[str], network: Network) -> None:
    shown = await _run(*inside, "ip", "-j", "-4", "addr", "show", "dev", "eth0")
    if shown.returncode:
        return  # it ends
    entries = json.loads(shown.stdout or b"[]")
    now = [
        f"{each['local']}/{each['prefixlen']}"
        for entry in entries
        for each in entry.get("addr_info", ())
        if ipaddress.ip_address(each["local"]) in network.network
    ]
    own = now[:1]  # the first is the one that LXC gave it
    for address in wanted:
        if address not in now:
            await _ip(inside, "addr", "add", address, "dev", "eth0")
    for address in now:
        if address not in wanted and address not in own:
            await _ip(inside, "addr", "del", address, "dev", "eth0")


async def _ip(inside: Sequence[str], *words: str) -> None:
    done = await _run(*inside, "ip", *words)
    if done.returncode:
        raise InfrastructureError(f"ip {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")


async def _run(*words: str) -> ExecResult:
    try:
        return await run(words, timeout=_SECONDS)
    except TimeoutError:
        raise InfrastructureError(f"{words[0]} did not end within {_SECONDS:g} s") from None
