"""Rules of security groups as templates of both languages write them, and as guests' firewalls have them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from pcloud.model.deployable import FirewallRule
from pcloud.stacks.schema import OnChange, Schema, anything, integer, text

OWN = "."
"""Stands for the group that a rule belongs to, until that is known."""
_LISTS = "there are no lists of prefixes; write the networks out"
_PROTOCOLS = {
    "-1": "",
    "tcp": "tcp",
    "udp": "udp",
    "icmp": "icmp",
    "6": "tcp",
    "17": "udp",
    "1": "icmp",
    "any": "",
    "all": "",
    "": "",
}
_EITHER: Schema = {
    "IpProtocol": text(default="-1"),
    "FromPort": integer(),
    "ToPort": integer(),
    "CidrIp": text(),
    "CidrIpv6": text(),
    "Description": text(on_change=OnChange.NOTHING),
}
INGRESS: Schema = {
    **_EITHER,
    "SourceSecurityGroupId": text(),
    "SourceSecurityGroupName": text(),
    "SourceSecurityGroupOwnerId": text(inert="all groups here have one owner"),
    "SourcePrefixListId": anything(refused=_LISTS),
}
EGRESS: Schema = {
    **_EITHER,
    "DestinationSecurityGroupId": text(),
    "DestinationPrefixListId": anything(refused=_LISTS),
}
_GROUPS = ("SourceSecurityGroupId", "SourceSecurityGroupName", "DestinationSecurityGroupId")
_NETWORKS = ("CidrIp", "CidrIpv6")
NEUTRON: Schema = {
    "direction": text(default="ingress", allowed=("ingress", "egress")),
    "ethertype": text(default="IPv4", allowed=("IPv4", "IPv6")),
    "port_range_min": integer(minimum=0, maximum=65535),
    "port_range_max": integer(minimum=0, maximum=65535),
    "protocol": text(),
    "remote_ip_prefix": text(),
}


def ec2_rule(given: Mapping[str, Any], direction: str) -> FirewallRule:
    """Read a rule in EC2's words; ValueError says what is wrong with it."""
    others = [str(given[key]) for key in (*_GROUPS, *_NETWORKS) if given.get(key)]
    if len(others) != 1:
        raise ValueError(f"a rule names one of {', '.join(_NETWORKS)} or another group, and one only")
    named = any(given.get(key) for key in _GROUPS)
    return make_rule(
        direction,
        given.get("IpProtocol", "-1"),
        given.get("FromPort"),
        given.get("ToPort"),
        network="" if named else others[0],
        group=others[0] if named else "",
    )


def neutron_rule(given: Mapping[str, Any], group: Any) -> FirewallRule:
    """Read a rule in Neutron's words, `group` being whom it names; ValueError says what is wrong with it."""
    network = given.get("remote_ip_prefix")
    if group and network:
        raise ValueError("a rule names a network or another group, not both")
    if given.get("ethertype") == "IPv6":
        if group:
            raise ValueError("guests have IPv4 addresses only: a rule of IPv6 can not name a group of them")
        network = network or "::/0"
    return make_rule(
        "in" if given.get("direction", "ingress") == "ingress" else "out",
        given.get("protocol") or "",
        given.get("port_range_min"),
        given.get("port_range_max"),
        network=str(network or ""),
        group=str(group or ""),
    )


def make_rule(direction: str, protocol: Any, first: Any, last: Any, *, network: str, group: str) -> FirewallRule:
    """Return a rule; ValueError when it is none. The first port of icmp is the type of message, as in both languages."""
    word = _PROTOCOLS.get(str(protocol).lower())
    if word is None:
        raise ValueError(f"the protocol '{protocol}' is not tcp, udp, icmp or all")
    low, high = (int(value) if value is not None and int(value) > 0 else 0 for value in (first, last))
    kind = -1
    if word in ("tcp", "udp"):
        high = high or low
        if not 0 <= low <= high <= 65535:
            raise ValueError(f"{first} to {last} is no range of ports")
    else:
        if word == "icmp" and first is not None and int(first) >= 0:
            kind = int(first)
            if kind > 255:
                raise ValueError(f"{first} is no type of icmp message")
        low = high = 0
    if network:
        network = str(ipaddress.ip_network(network, strict=False))
    return FirewallRule(
        direction=direction, protocol=word, first=low, last=high, network=network, group=group, icmp=kind
    )
