"""What may reach an LXC guest: nftables in the guest's own network namespace, put there before its init runs.

Rules that name groups of guests match sets, which `lxc_groups` fills.

`firewall.nft` and the hook that loads it are in the guest's folder. This host always reaches the guest's agent and sshd, or
it could not be kept running. Root in the guest could change the rules, as on any machine with a firewall of its own.
Concurrency: functions block or await one short command; one guest's folder is touched by one call at a time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from pcloud.infrastructure.host import carry_out
from pcloud.infrastructure.lxc_groups import LOADED, RULES, Groups, set_name
from pcloud.model.deployable import FirewallRule

MANAGED = (22, 3121)
"""TCP ports of the guest that this host must reach: sshd and the agent."""
_HOOK = "firewall.sh"
_PATIENCE = 60
"""Seconds that a starting guest waits for a change of groups that is under way."""


def script(rules: Sequence[FirewallRule], gateway: ipaddress.IPv4Address, groups: Groups) -> str:
    """Return the nftables rules, which replace those before in one transaction."""
    named = _groups(rules)
    inward = [
        "ct state established,related accept",
        'iif "lo" accept',
        "meta l4proto ipv6-icmp accept",
        f"ip saddr {gateway} tcp dport {{ {', '.join(str(port) for port in MANAGED)} }} accept",
        *(_match(rule, "saddr") for rule in rules if rule.direction == "in"),
        "counter drop",
    ]
    outward = [_match(rule, "daddr") for rule in rules if rule.direction == "out"]
    if outward:
        always = ["ct state established,related accept", 'oif "lo" accept', f"ip daddr {gateway} accept"]
        outward = [*always, *outward, "counter drop"]
    chains = [
        *("  chain inward {", "    type filter hook input priority 0; policy accept;"),
        *(f"    {line}" for line in inward),
        *("  }", "  chain outward {", "    type filter hook output priority 0; policy accept;"),
        *(f"    {line}" for line in outward),
        "  }",
    ]
    sets = [f"  set {set_name(group)} {{ type ipv4_addr; }}" for group in named]
    filled = [f'include "{groups.elements(group)}"' for group in named]
    return "\n".join(
        ["table inet pcloud", "delete table inet pcloud", "table inet pcloud {", *sets, *chains, "}", *filled, ""]
    )


def _groups(rules: Sequence[FirewallRule]) -> list[str]:
    return sorted({rule.group for rule in rules if rule.group})


def _match(rule: FirewallRule, side: str) -> str:
    words = []
    if rule.group:
        words.append(f"ip {side} @{set_name(rule.group)}")
    elif rule.network:
        network = ipaddress.ip_network(rule.network, strict=False)
        if network.prefixlen or network.version == 6:
            words.append(f"{'ip' if network.version == 4 else 'ip6'} {side} {network}")
        else:
            words.append("meta nfproto ipv4")
    if rule.protocol in ("tcp", "udp"):
        ports = f"{rule.first}-{rule.last}" if rule.last > rule.first else str(rule.first)
        words.append(f"{rule.protocol} dport {ports}" if rule.first or rule.last else f"meta l4proto {rule.protocol}")
    elif rule.protocol == "icmp" and rule.icmp >= 0:
        words.append(f"icmp type {rule.icmp}")
    elif rule.protocol == "icmp":
        words.append("meta l4proto { icmp, ipv6-icmp }")
    return " ".join([*words, "accept"])


def prepare(
    folder: Path, rules: Sequence[FirewallRule] | None, gateway: ipaddress.IPv4Address, groups: Groups
) -> list[str]:
    """Write the rules of a guest that is about to start; return the lines for its configuration."""
    named = _groups(rules or ())
    (folder / LOADED).unlink(missing_ok=True)
    groups.follow(folder.name, named)
    if rules is None:
        for name in (RULES, _HOOK):
            (folder / name).unlink(missing_ok=True)
        return []
    hook = folder / _HOOK
    (folder / RULES).write_text(script(rules, gateway, groups))
    lines = ["#!/bin/sh", "set -e"]
    if named:
        lines += [
            f"exec 9<{shlex.quote(str(groups.lock))}",
            f"flock -s -w {_PATIENCE} 9",
            'start=$(sed "s/.*) //" "/proc/$LXC_PID/stat" | cut -d" " -f20)',
            f'echo "$LXC_PID $start" > "${{0%/*}}/{LOADED}"',
        ]
    lines.append(f'exec nsenter --net="/proc/$LXC_PID/ns/net" nft -f "${{0%/*}}/{RULES}"')
    hook.write_text("".join(f"{line}\n" for line in lines))
    hook.chmod(0o700)
    return [f"lxc.hook.start-host = {hook}"]


async def apply(
    folder: Path, rules: Sequence[FirewallRule], gateway: ipaddress.IPv4Address, groups: Groups, init: int
) -> None:
    """Change the rules of a running guest; those of its next start come from its definition."""
    await asyncio.to_thread(prepare, folder, rules, gateway, groups)
    environment = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LXC_PID": str(init)}
    await carry_out(str(folder / _HOOK), name="nft", environment=environment)
