"""What may reach a machine: libvirt's network filters, which its host applies where the machine's network card ends.

A guest's filter has its domain's name and goes with it. Root in the guest can not change it. Rules are stateful: libvirt
lets the replies of what a rule accepts pass. This host reaches sshd and the agent, or the guest could not be kept running.
Source: libvirt's "Network Filters". Concurrency: blocking functions for the connection's threads; one guest's filter is
touched by one call at a time.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Sequence
from typing import Any

import libvirt
from lxml import etree

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.lxc_firewall import MANAGED
from pcloud.model.deployable import FirewallRule

_ALL = (FirewallRule(), FirewallRule(direction="out"))
_LAST = 1000
"""libvirt's priorities run from -1000 to 1000; the lowest comes first."""


def document(name: str, rules: Sequence[FirewallRule] | None, host: str) -> str:
    """Return a filter. `host` is this host's address in the network; None as rules lets everything pass. Permanent
    InfrastructureError for a rule that names a group of guests."""
    root = etree.Element("filter", name=name, chain="root")
    etree.SubElement(root, "uuid").text = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{xml.NAMESPACE}/filter/{name}"))
    given = _ALL if rules is None else tuple(rules)
    if any(each.group for each in given):
        raise InfrastructureError("a rule that names a group can not be kept for machines", permanent=True)
    managed = [FirewallRule(protocol="tcp", first=port, last=port, network=f"{host}/32") for port in MANAGED]
    for rule in (*managed, *(each for each in given if each.direction == "in")):
        _accept(root, rule)
    outward = [each for each in given if each.direction == "out"]
    for rule in (FirewallRule(direction="out", network=f"{host}/32"), *outward) if outward else _ALL[1:]:
        _accept(root, rule)
    _rule(root, "accept", "inout", "icmpv6", {})  # without it a machine finds no neighbours
    for protocol in ("all", "all-ipv6"):
        _rule(root, "drop", "inout", protocol, {}, priority=_LAST)
    return etree.tostring(root, encoding="unicode")


def _accept(root: etree._Element, rule: FirewallRule) -> None:
    network = ipaddress.ip_network(rule.network, strict=False) if rule.network else None
    side = "src" if rule.direction == "in" else "dst"
    for version in (4, 6) if network is None else (network.version,):
        words = {}
        if network is not None and network.prefixlen:
            words = {f"{side}ipaddr": str(network.network_address), f"{side}ipmask": str(network.prefixlen)}
        if rule.protocol in ("tcp", "udp") and (rule.first or rule.last):
            words |= {"dstportstart": str(rule.first), "dstportend": str(max(rule.first, rule.last))}
        protocol = rule.protocol or "all"
        if version == 6:
            protocol = "icmpv6" if protocol == "icmp" else f"{protocol}-ipv6"
        _rule(root, "accept", rule.direction, protocol, words)


def _rule(
    root: etree._Element, action: str, direction: str, protocol: str, words: dict[str, str], *, priority: int = 500
) -> None:
    rule = etree.SubElement(root, "rule", action=action, direction=direction, priority=str(priority))
    etree.SubElement(rule, protocol, words)


def ensure(connection: Any, name: str, rules: Sequence[FirewallRule] | None, host: str) -> None:
    """Define a guest's filter; a machine that has it is filtered so from now on."""
    try:
        connection.nwfilterDefineXML(document(name, rules, host))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            raise InfrastructureError("this libvirtd has no network filters", permanent=True) from error
        raise


def settle(connection: Any, name: str, rules: Sequence[FirewallRule] | None, host: str) -> None:
    """Bring a machine to these rules, at once where it runs. One that is not there gets them when it starts."""
    try:
        domain = connection.lookupByName(name)
        if rules is None and _filter(connection, name) is None:
            return
        ensure(connection, name, rules, host)
        interface = xml.interface_with_filter(domain.XMLDesc(0), name)
        if interface:
            live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
            domain.updateDeviceFlags(interface, libvirt.VIR_DOMAIN_AFFECT_CONFIG | live)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def remove(connection: Any, name: str) -> None:
    """Remove a guest's filter; no machine may have it any more."""
    found = _filter(connection, name)
    if found is not None:
        found.undefine()


def _filter(connection: Any, name: str) -> Any:
    try:
        return connection.nwfilterLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_ERR_NO_SUPPORT):
            return None
        raise
