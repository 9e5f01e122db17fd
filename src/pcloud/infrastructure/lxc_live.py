"""Changes a running LXC guest's further addresses and its firewall from this host, without a command in the guest.

Concurrency: one guest is settled by one call at a time; a guest that ends meanwhile is no error, its next start has it all.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import lxc_firewall
from pcloud.infrastructure.lxc_attach import run
from pcloud.infrastructure.lxc_network import Network
from pcloud.model.deployable import FirewallRule

_SECONDS = 10.0


async def settle(
    folder: Path, addresses: Sequence[str], firewall: Sequence[FirewallRule] | None, network: Network
) -> None:
    """Bring the guest of a folder to these addresses and rules. InfrastructureError when it does not take them."""
    init = await init_of(folder)
    if init is None:
        return
    inside = ["nsenter", f"--net=/proc/{init}/ns/net"]
    await _addresses(inside, addresses, network)
    rules = firewall if firewall is not None else (FirewallRule(),)  # one that lets everything in
    await lxc_firewall.apply(folder, rules, network.gateway, init)


async def init_of(folder: Path) -> int | None:
    """Return the process id of a guest's init, None where it does not run."""
    found = await run(["lxc-info", "-P", str(folder.parent), "-n", folder.name, "-p", "-H"], timeout=_SECONDS)
    init = found.stdout.decode().strip()
    return int(init) if init.isdigit() else None


async def _addresses(inside: Sequence[str], wanted: Sequence[str], network: Network) -> None:
    shown = await run([*inside, "ip", "-j", "-4", "addr", "show", "dev", "eth0"], timeout=_SECONDS)
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
    done = await run([*inside, "ip", *words], timeout=_SECONDS)
    if done.returncode:
        raise InfrastructureError(f"ip {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
