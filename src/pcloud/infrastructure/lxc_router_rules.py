"""What a stack's router lets pass and what it translates: its nftables rules. Pure.

There are two kinds. The routers of Neutron let everything out, under their own address. Those of EC2's VPCs let only guests
out that have an address outside, and only from subnets whose route table has a way there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

import msgspec

OUTSIDE = "ext"
"""Its interface in the guests' own network."""


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """What lets the guests of several networks reach each other."""

    name: str
    subnets: tuple[str, ...] = ()
    outside: str = ""
    """Its own address in the guests' network, `ADDRESS/PREFIX`; empty where it leads to its networks only."""
    floating: tuple[tuple[str, str], ...] = ()
    """Addresses of the guests' network, each with the one in its networks that it stands for."""
    ways: tuple[tuple[str, str], ...] | None = None
    """Subnets, each with a range of addresses outside that it has a way to: for guests with a floating address, nobody else.
    None lets everybody out to everything."""
    within: str = ""
    """A range that never is outside, whether its subnets are there or not."""


def rules(router: Router, legs: Mapping[str, tuple[str, str]]) -> str:
    """Return the router's rules, which replace those before in one transaction. `legs` are its interface and range of
    addresses in each of its subnets."""
    pre, post, forward = _open(router, legs) if router.ways is None else _by_ways(router, legs, router.ways)
    chains = {
        "pre": ("nat hook prerouting priority -100; policy accept;", pre),
        "post": ("nat hook postrouting priority 100; policy accept;", post),
        "forward": ("filter hook forward priority 0; policy drop;", forward),
    }
    lines = ["table ip pcloud", "delete table ip pcloud", "table ip pcloud {"]
    for name, (what, each) in chains.items():
        lines += [f"  chain {name} {{", f"    type {what}", *(f"    {rule}" for rule in each), "  }"]
    return "\n".join([*lines, "}", ""])


def _open(router: Router, legs: Mapping[str, tuple[str, str]]) -> tuple[list[str], list[str], list[str]]:
    pre = [f"ip daddr {outer} dnat to {inner}" for outer, inner in router.floating]
    post = _outward(router)
    if router.outside:
        post.append(f'oifname "{OUTSIDE}" snat to {router.outside.partition("/")[0]}')
    # A guest that calls its neighbour by a floating address is answered through here as well.
    if legs:
        ranges = ", ".join(cidr for _, cidr in legs.values())
        post.append(f'oifname != "{OUTSIDE}" ct status dnat ip saddr {{ {ranges} }} masquerade')
    forward = ["ct state established,related accept", "ct status dnat accept", f'iifname != "{OUTSIDE}" accept']
    return pre, post, forward


def _by_ways(
    router: Router, legs: Mapping[str, tuple[str, str]], ways: Sequence[tuple[str, str]]
) -> tuple[list[str], list[str], list[str]]:
    led = [(*legs[subnet], _range(destination)) for subnet, destination in ways if subnet in legs]
    pre = [f'iifname "{OUTSIDE}" ip daddr {outer} dnat to {inner}' for outer, inner in router.floating]
    post = _outward(router)
    forward = ["ct state established,related accept"]
    if router.within:
        forward.append(f'oifname "{OUTSIDE}" ip daddr {router.within} drop')
    for device, cidr, there in led:
        span = ipaddress.IPv4Network(cidr)
        for outer, inner in router.floating:
            if ipaddress.IPv4Address(inner) not in span:
                continue
            forward.append(f'iifname "{device}" oifname "{OUTSIDE}" ip saddr {inner} {_to(there)}accept')
            forward.append(f'iifname "{OUTSIDE}" oifname "{device}" ct status dnat ip daddr {inner} {_of(there)}accept')
            # Who calls a neighbour by its address outside leaves and comes back, with its own address outside.
            for other, target in router.floating:
                if ipaddress.IPv4Address(other) in there:
                    pre.append(f'iifname "{device}" ip saddr {inner} ip daddr {other} dnat to {target}')
            post.append(f'oifname != "{OUTSIDE}" ct status dnat ip saddr {inner} snat to {outer}')
    forward.append(f'iifname != "{OUTSIDE}" oifname != "{OUTSIDE}" accept')
    return pre, post, forward


def _outward(router: Router) -> list[str]:
    return [f'oifname "{OUTSIDE}" ip saddr {inner} snat to {outer}' for outer, inner in router.floating]


def _range(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text, strict=False)


def _to(there: ipaddress.IPv4Network) -> str:
    return f"ip daddr {there} " if there.prefixlen else ""


def _of(there: ipaddress.IPv4Network) -> str:
    return f"ip saddr {there} " if there.prefixlen else ""
