"""Security groups of both languages: what may reach the guests that name them, held by nftables in each guest's own network.

A group's rules are copied into the guests that name it. Changed rules make a new group, so that the guests that refer to it
are updated with it, without a restart. This host always reaches a guest's agent and sshd.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.model.deployable import FirewallRule
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services, known

_ONE_NETWORK = "guests share one network of the infrastructure"
_OTHERS = "a rule names networks; the addresses of another group's guests are not followed"
_PROTOCOLS = {
    "-1": "",
    "tcp": "tcp",
    "udp": "udp",
    "icmp": "icmp",
    "6": "tcp",
    "17": "udp",
    "1": "icmp",
    "any": "",
    "": "",
}
_EC2_RULE: Schema = {
    "IpProtocol": text(required=True),
    "FromPort": integer(),
    "ToPort": integer(),
    "CidrIp": text(),
    "CidrIpv6": text(),
    "Description": text(),
    "SourceSecurityGroupId": anything(refused=_OTHERS),
    "SourceSecurityGroupName": anything(refused=_OTHERS),
    "SourceSecurityGroupOwnerId": anything(refused=_OTHERS),
    "DestinationSecurityGroupId": anything(refused=_OTHERS),
    "DestinationPrefixListId": anything(refused=_ONE_NETWORK),
    "SourcePrefixListId": anything(refused=_ONE_NETWORK),
}


class GroupOfRules(ResourceType):
    """Base of both kinds."""

    needs = frozenset({"guests", "firewall"})
    rule_properties: ClassVar[tuple[str, ...]]

    def rule(self, given: Mapping[str, Any], key: str) -> FirewallRule:
        """Return a rule of the template in our words; ValueError says what is wrong."""
        raise NotImplementedError

    def rules(self, properties: Mapping[str, Any]) -> list[FirewallRule]:
        """Return all rules."""
        return [self.rule(each, key) for key in self.rule_properties for each in properties.get(key) or []]

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Every rule that is known already must be one."""
        found = []
        for key in self.rule_properties:
            rules = properties.get(key)
            for index, each in enumerate(rules if isinstance(rules, list) else ()):
                if not isinstance(each, Mapping) or not all(known(value) for value in each.values()):
                    continue
                try:
                    self.rule(each, key)
                except ValueError as problem:
                    found.append(PropertyProblem(code="BAD_PROPERTY", message=str(problem), path=(key, index)))
        return found

    async def create(self, context: Context) -> None:
        """Note the rules."""
        context.record.physical = self.identity(context)
        try:
            rules = self.rules(context.properties)
        except ValueError as problem:
            raise ResourceFailed(str(problem)) from None
        context.record.data["rules"] = msgspec.to_builtins(rules)
        context.record.attributes = {"GroupId": context.record.physical, "show": {"id": context.record.physical}}

    def identity(self, context: Context) -> str:
        """Return the physical id."""
        return context.token


class SecurityGroup(GroupOfRules):
    """EC2's: nothing comes in but what a rule lets in; everything goes out unless a rule says what may."""

    names = ("AWS::EC2::SecurityGroup",)
    attributes = frozenset({"GroupId"})
    rule_properties = ("SecurityGroupIngress", "SecurityGroupEgress")
    schema: ClassVar[Schema] = {
        "GroupDescription": text(required=True),
        "GroupName": text(),
        "VpcId": text(refused=_ONE_NETWORK),
        "SecurityGroupIngress": listing(fields=_EC2_RULE),
        "SecurityGroupEgress": listing(fields=_EC2_RULE),
        "Tags": listing(on_change=OnChange.NOTHING),
    }

    def identity(self, context: Context) -> str:
        """A generated name."""
        return context.physical_name()

    def rule(self, given: Mapping[str, Any], key: str) -> FirewallRule:
        """EC2's words."""
        first, last = given.get("FromPort"), given.get("ToPort")
        inward = key == "SecurityGroupIngress"
        return make_rule(
            "in" if inward else "out", given["IpProtocol"], first, last, given.get("CidrIp") or given.get("CidrIpv6")
        )


class NeutronSecurityGroup(GroupOfRules):
    """Neutron's."""

    names = ("OS::Neutron::SecurityGroup",)
    attributes = frozenset({"show"})
    rule_properties = ("rules",)
    schema: ClassVar[Schema] = {
        "name": text(on_change=OnChange.NOTHING),
        "description": text(on_change=OnChange.NOTHING),
        "rules": listing(
            fields={
                "direction": text(default="ingress", allowed=("ingress", "egress")),
                "ethertype": text(default="IPv4", allowed=("IPv4", "IPv6")),
                "port_range_min": integer(minimum=0, maximum=65535),
                "port_range_max": integer(minimum=0, maximum=65535),
                "protocol": text(),
                "remote_group_id": text(refused=_OTHERS),
                "remote_ip_prefix": text(),
                "remote_mode": text(default="remote_ip_prefix", allowed=("remote_ip_prefix",)),
            }
        ),
    }

    def rule(self, given: Mapping[str, Any], key: str) -> FirewallRule:
        """Neutron's words."""
        direction = "in" if given.get("direction", "ingress") == "ingress" else "out"
        first, last = given.get("port_range_min"), given.get("port_range_max")
        return make_rule(direction, given.get("protocol") or "", first, last, given.get("remote_ip_prefix"))


def make_rule(direction: str, protocol: Any, first: Any, last: Any, network: Any) -> FirewallRule:
    """Return a rule; ValueError when it is none."""
    word = _PROTOCOLS.get(str(protocol).lower())
    if word is None:
        raise ValueError(f"the protocol '{protocol}' is not tcp, udp, icmp or all")
    low, high = (int(value) if value is not None and int(value) > 0 else 0 for value in (first, last))
    if word in ("tcp", "udp"):
        high = high or low
        if not 0 <= low <= high <= 65535:
            raise ValueError(f"{first} to {last} is no range of ports")
    else:
        low = high = 0
    if network:
        network = str(ipaddress.ip_network(str(network), strict=False))
    return FirewallRule(direction=direction, protocol=word, first=low, last=high, network=network or "")


def firewall_of(services: Services, groups: Any) -> tuple[FirewallRule, ...] | None:
    """Return the rules of the groups that a server names; None where it names none but `default`."""
    names = [str(name) for name in groups or [] if str(name) != "default"]
    if not names:
        return None
    rules: list[FirewallRule] = []
    for name in names:
        found = services.find(name)
        if found is None or "rules" not in found.data:
            raise ResourceFailed(f"there is no security group {name}: refer to one of a stack")
        rules += msgspec.convert(found.data["rules"], list[FirewallRule])
    return tuple(dict.fromkeys(rules))


TYPES: tuple[type[ResourceType], ...] = (SecurityGroup, NeutronSecurityGroup)
