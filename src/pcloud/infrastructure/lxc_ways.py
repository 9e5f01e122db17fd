"""Which way packets of an LXC guest go that is in networks of stacks: put into its network namespace before its init runs.

Its interface in the guests' own network then serves this host alone, for the agent, sshd and the endpoint; answers leave by
the network at whose address they were asked; everything else goes to the first of its networks' routers.
Concurrency: blocks on files only; one guest's folder is touched by one call at a time.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pcloud.infrastructure.host import write_atomically
from pcloud.model.deployable import Interface

_HOOK = "ways.sh"
_RULES = "ways.nft"
_RECORD = "interfaces.json"
_FIRST_TABLE = 100


def prepare(
    folder: Path,
    interfaces: Sequence[Interface],
    address: ipaddress.IPv4Interface,
    gateway: ipaddress.IPv4Address,
) -> list[str]:
    """Write what a guest's start needs; return the lines for its configuration."""
    hook, rules = folder / _HOOK, folder / _RULES
    if not interfaces:
        for path in (hook, rules, folder / _RECORD):
            path.unlink(missing_ok=True)
        return []
    write_atomically(folder / _RECORD, msgspec.json.encode(tuple(interfaces)))
    rules.write_text(_rules(gateway))
    lines = ["#!/bin/sh", "set -e", 'net="--net=/proc/$LXC_PID/ns/net"', 'here="${0%/*}"']
    lines += [f"nsenter $net {shlex.join(words)}" for words in _routes(interfaces, address, gateway)]
    lines.append(f'exec nsenter $net nft -f "$here/{_RULES}"')
    hook.write_text("".join(f"{line}\n" for line in lines))
    hook.chmod(0o700)
    return [f"lxc.hook.start-host = {hook}"]


def address_of(folder: Path, networks: Sequence[str]) -> ipaddress.IPv4Address | None:
    """Return a guest's address for guests in these networks: in one that they share, else in its first; None where it is in
    no network of a stack."""
    try:
        found = msgspec.json.decode((folder / _RECORD).read_bytes(), type=tuple[Interface, ...])
    except FileNotFoundError:
        return None
    shared = [one for one in found if one.network in networks] or found
    return ipaddress.IPv4Interface(shared[0].address).ip


def _rules(gateway: ipaddress.IPv4Address) -> str:
    def chain(name: str, device: str, side: str) -> list[str]:
        return [
            f"  chain {name} {{",
            f"    type filter hook {name} priority -10; policy accept;",
            f'    {device} "eth0" ip {side} != {gateway} drop',
            f'    {device} "eth0" meta nfproto ipv6 drop',
            "  }",
        ]

    ways = [*chain("input", "iifname", "saddr"), *chain("output", "oifname", "daddr")]
    return "\n".join(
        ["table inet pcloud_ways", "delete table inet pcloud_ways", "table inet pcloud_ways {", *ways, "}\n"]
    )


def _routes(
    interfaces: Sequence[Interface], address: ipaddress.IPv4Interface, gateway: ipaddress.IPv4Address
) -> list[list[str]]:
    # Of the guests' own network only this host is there; the rest of it is behind a router, if anywhere.
    found = [
        ["ip", "route", "replace", str(gateway), "dev", "eth0", "src", str(address.ip)],
        ["ip", "route", "del", str(address.network), "dev", "eth0"],
    ]
    default = False
    for number, interface in enumerate(interfaces, 1):
        if not interface.gateway:
            continue
        device, table = f"eth{number}", str(_FIRST_TABLE + number)
        own = ipaddress.IPv4Interface(interface.address)
        to_router = ["default", "via", interface.gateway, "dev", device]
        found += [
            ["ip", "route", "replace", str(own.network), "dev", device, "src", str(own.ip), "table", table],
            ["ip", "route", "replace", *to_router, "table", table],
            ["ip", "rule", "add", "from", str(own.ip), "lookup", table],
        ]
        if not default:
            found.append(["ip", "route", "replace", *to_router])
            default = True
    return found
