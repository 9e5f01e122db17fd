"""What may reach a server: a Neutron security group of its own, named as the server is, and gone with it.

Neutron's rules are stateful and let only pass what a rule allows. Concurrency: blocking functions for the session's threads;
each may be repeated after an answer that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.model.deployable import FirewallRule

_ALL = (FirewallRule(), FirewallRule(direction="out"))
_DIRECTIONS = {"in": "ingress", "out": "egress"}
_ICMP = {"IPv4": "icmp", "IPv6": "ipv6-icmp"}
Rule = tuple[str, str, str | None, int | None, int | None, str | None]
"""Direction, protocol family, protocol, first and last port, network of the other side, as Neutron has them."""


def wanted(rules: Sequence[FirewallRule] | None) -> set[Rule]:
    """Return the rules as Neutron has them; None lets everything pass. Where none is for `out`, everything goes out."""
    given = _ALL if rules is None else tuple(rules)
    if any(each.group for each in given):
        raise InfrastructureError("a rule that names a group of guests can not be kept on OpenStack", permanent=True)
    if not any(each.direction == "out" for each in given):
        given = (*given, FirewallRule(direction="out"))
    return {each for rule in given for each in _families(rule)}


def _families(rule: FirewallRule) -> list[Rule]:
    found: list[Rule] = []
    for family, mark in (("IPv4", "."), ("IPv6", ":")):
        if rule.network and mark not in rule.network:
            continue
        network = None if rule.network in ("0.0.0.0/0", "::/0", "") else rule.network
        protocol = _ICMP[family] if rule.protocol == "icmp" else rule.protocol or None
        first, last = (rule.first, max(rule.first, rule.last)) if rule.protocol in ("tcp", "udp") else (0, 0)
        found.append((_DIRECTIONS[rule.direction], family, protocol, first or None, last or None, network))
    return found


def _as_neutron(rule: Any) -> Rule:
    network = rule.remote_ip_prefix if rule.remote_ip_prefix not in ("0.0.0.0/0", "::/0") else None
    protocol = _ICMP["IPv6"] if rule.protocol in ("icmpv6", "ipv6-icmp") else rule.protocol
    return rule.direction, rule.ether_type, protocol, rule.port_range_min, rule.port_range_max, network


def ensure(connection: Any, name: str, rules: Sequence[FirewallRule] | None) -> str:
    """Return the id of the server's group, with these rules and no others. What is let in is let in before anything else is
    taken away."""
    group = next(iter(connection.network.security_groups(name=name)), None)
    if group is None:
        group = connection.network.create_security_group(name=name, description="of one guest, by pacemaker-cloud")
    now = {_as_neutron(each): each for each in connection.network.security_group_rules(security_group_id=group.id)}
    target = wanted(rules)
    for direction, family, protocol, first, last, network in sorted(target - now.keys(), key=str):
        connection.network.create_security_group_rule(
            security_group_id=group.id,
            direction=direction,
            ether_type=family,
            protocol=protocol,
            port_range_min=first,
            port_range_max=last,
            remote_ip_prefix=network,
        )
    for rule in now.keys() - target:
        connection.network.delete_security_group_rule(now[rule].id, ignore_missing=True)
    return str(group.id)


def settle(connection: Any, name: str, server: str, rules: Sequence[FirewallRule] | None) -> None:
    """Bring a server (its id) to these rules, at once."""
    known = next(iter(connection.network.security_groups(name=name)), None)
    if rules is None and known is None:
        return
    group = ensure(connection, name, rules)
    if known is None:
        connection.compute.add_security_group_to_server(server, connection.network.get_security_group(group))


def remove(connection: Any, name: str) -> None:
    """Remove the server's group; a repeated request may have made several. No server may have it any more."""
    if not connection.has_service("network"):  # a cloud without Neutron never had one
        return
    for group in list(connection.network.security_groups(name=name)):
        connection.network.delete_security_group(group.id, ignore_missing=True)
