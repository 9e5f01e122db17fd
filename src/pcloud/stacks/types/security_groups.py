"""Security groups of both languages: what may reach the guests that name them, held by nftables in each guest's own network.

A group's rules are copied into the guests that name it, those guests are its members. A rule that names another group means
that group's members, at all addresses that they have at the moment; the infrastructure keeps to that as they come and go.
Changed rules reach the members at once, without a restart. This host always reaches a guest's agent and sshd.

Rules that stand outside their group, as resources of their own, are kept in the group's record: `data["further"]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.environment.infrastructure import Capability
from pcloud.model.deployable import Assembly, FirewallRule
from pcloud.stacks.functions.evaluation import Unknown
from pcloud.stacks.guests import assemblies
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, listing, text
from pcloud.stacks.types import security_rules
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services
from pcloud.stacks.types.vpc import is_vpc, vpc_of

_NEEDS = frozenset({"guests", "firewall"})
_UPDATE = OnChange.UPDATE
_AT_ONCE = 8
_SIDES = {"SecurityGroupIngress": "in", "SecurityGroupEgress": "out"}
_GROUP_KEYS = frozenset(
    {
        "SourceSecurityGroupId",
        "SourceSecurityGroupName",
        "DestinationSecurityGroupId",
        "remote_group_id",
        "remote_group",
    }
)


class GroupOfRules(ResourceType):
    """Base of both kinds."""

    needs = _NEEDS
    rule_properties: ClassVar[tuple[str, ...]]

    def rule(self, given: Mapping[str, Any], key: str) -> FirewallRule:
        """Return a rule of the template in our words; ValueError says what is wrong."""
        raise NotImplementedError

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Every rule that is known already must be one."""
        return [
            problem
            for key, index, each in self._written(properties)
            for problem in _judged(each, (key, index), lambda one, key=key: self.rule(one, key))
        ]

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Rules that name groups need an infrastructure that follows members."""
        found = []
        for key, index, each in self._written(properties):
            found += _followed(each, (key, index), platform)
        return found

    def _written(self, properties: Mapping[str, Any]) -> Iterable[tuple[str, int, Mapping[str, Any]]]:
        for key in self.rule_properties:
            rules = properties.get(key)
            for index, each in enumerate(rules if isinstance(rules, list) else ()):
                if isinstance(each, Mapping):
                    yield key, index, each

    async def create(self, context: Context) -> None:
        """Note the rules."""
        context.record.physical = self.identity(context)
        self._note(context)
        context.record.attributes = {"GroupId": context.record.physical, "show": {"id": context.record.physical}}

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Changed rules reach the guests that name the group."""
        self._note(context)
        await refresh(context, context.record.physical)

    def _note(self, context: Context) -> None:
        try:
            rules = [self.rule(each, key) for key, _, each in self._written(context.properties)]
        except ValueError as problem:
            raise ResourceFailed(str(problem)) from None
        resolved = [_resolved(context.services, rule, context.record.physical) for rule in rules]
        context.record.data["rules"] = msgspec.to_builtins(resolved)
        context.services.save(context.record)

    def identity(self, context: Context) -> str:
        """Return the physical id."""
        return context.token


class SecurityGroup(GroupOfRules):
    """EC2's: nothing comes in but what a rule lets in; everything goes out unless a rule says what may."""

    names = ("AWS::EC2::SecurityGroup",)
    attributes = frozenset({"GroupId", "VpcId"})
    rule_properties = ("SecurityGroupIngress", "SecurityGroupEgress")
    schema: ClassVar[Schema] = {
        "GroupDescription": text(required=True),
        "GroupName": text(),
        "VpcId": text(),
        "SecurityGroupIngress": listing(fields=security_rules.INGRESS, single=True, on_change=_UPDATE),
        "SecurityGroupEgress": listing(fields=security_rules.EGRESS, single=True, on_change=_UPDATE),
        "Tags": listing(on_change=OnChange.NOTHING),
    }

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """A VPC of others."""
        vpc = properties.get("VpcId")
        note = f"VpcId has no effect here: '{vpc}' is no VPC of a stack; the group is for guests in any network"
        return [] if vpc is None or is_vpc(vpc) else [note]

    async def create(self, context: Context) -> None:
        """Besides: it is for guests of its VPC."""
        vpc = context.properties.get("VpcId")
        if vpc is not None and is_vpc(vpc):
            context.record.data["vpc"] = vpc_of(context, vpc).physical
        await super().create(context)
        context.record.attributes["VpcId"] = vpc or ""

    def identity(self, context: Context) -> str:
        """A generated name; the given one means the group as well."""
        if name := context.properties.get("GroupName"):
            other = context.services.find(str(name))
            if other is not None and other is not context.record and "rules" in other.data:
                raise ResourceFailed(f"there is a security group {name} already")
            context.record.data["reference"] = str(name)
        return context.physical_name()

    def rule(self, given: Mapping[str, Any], key: str) -> FirewallRule:
        """EC2's words."""
        return security_rules.ec2_rule(given, _SIDES[key])


class NeutronSecurityGroup(GroupOfRules):
    """Neutron's."""

    names = ("OS::Neutron::SecurityGroup",)
    attributes = frozenset({"show"})
    rule_properties = ("rules",)
    schema: ClassVar[Schema] = {
        "name": text(on_change=OnChange.NOTHING),
        "description": text(on_change=OnChange.NOTHING),
        "rules": listing(
            on_change=_UPDATE,
            fields={
                **security_rules.NEUTRON,
                "remote_group_id": text(),
                "remote_mode": text(default="remote_ip_prefix", allowed=("remote_ip_prefix", "remote_group_id")),
            },
        ),
    }

    def rule(self, given: Mapping[str, Any], key: str) -> FirewallRule:
        """Neutron's words. A rule of mode `remote_group_id` that names none means its own group, as Heat has it."""
        own = security_rules.OWN if given.get("remote_mode") == "remote_group_id" else ""
        return security_rules.neutron_rule(given, given.get("remote_group_id") or own)


class GroupRule(ResourceType):
    """Base of a rule that is a resource of its own, in a group of any stack."""

    needs = _NEEDS
    group_properties: ClassVar[tuple[str, ...]]
    """Which of them is given names the group that gets the rule."""

    def rule(self, given: Mapping[str, Any]) -> FirewallRule:
        """Return the rule in our words; ValueError says what is wrong."""
        raise NotImplementedError

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """It is a rule, in a group."""
        own = {key: value for key, value in properties.items() if key not in self.group_properties}
        found = _judged(own, (), self.rule)
        if not any(properties.get(key) for key in self.group_properties):
            message = f"{' or '.join(self.group_properties)} is needed"
            found.append(PropertyProblem(code="MISSING_PROPERTY", message=message, path=(self.group_properties[0],)))
        return found

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """A rule that names a group needs an infrastructure that follows members."""
        return _followed(properties, (), platform)

    async def create(self, context: Context) -> None:
        """Add it to its group, and tell the group's members."""
        record, services = context.record, context.services
        named = next(context.properties[key] for key in self.group_properties if context.properties.get(key))
        group = group_of(services, named)
        rule = _resolved(services, self.rule(context.properties), group.physical)
        record.physical = f"sgr-{context.short.lower()}"
        record.data["group"] = group.physical
        services.save(record)
        group.data["further"] = {**group.data.get("further", {}), record.id: msgspec.to_builtins(rule)}
        services.save(group)
        await refresh(context, group.physical)

    async def delete(self, context: Context) -> None:
        """Take it out of its group, if that is still there."""
        group = context.services.find(str(context.record.data.get("group", "")))
        if group is None:
            return
        further = group.data.get("further", {})
        group.data["further"] = {key: rule for key, rule in further.items() if key != context.record.id}
        context.services.save(group)
        await refresh(context, group.physical)


class Ingress(GroupRule):
    """AWS::EC2::SecurityGroupIngress."""

    names = ("AWS::EC2::SecurityGroupIngress",)
    group_properties = ("GroupId", "GroupName")
    attributes = frozenset({"Id"})
    schema: ClassVar[Schema] = {"GroupId": text(), "GroupName": text(), **security_rules.INGRESS}

    def rule(self, given: Mapping[str, Any]) -> FirewallRule:
        """EC2's words."""
        return security_rules.ec2_rule(given, "in")


class Egress(GroupRule):
    """AWS::EC2::SecurityGroupEgress."""

    names = ("AWS::EC2::SecurityGroupEgress",)
    group_properties = ("GroupId",)
    attributes = frozenset({"Id"})
    schema: ClassVar[Schema] = {"GroupId": text(), **security_rules.EGRESS}

    def rule(self, given: Mapping[str, Any]) -> FirewallRule:
        """EC2's words."""
        return security_rules.ec2_rule(given, "out")


class NeutronRule(GroupRule):
    """OS::Neutron::SecurityGroupRule."""

    names = ("OS::Neutron::SecurityGroupRule",)
    group_properties = ("security_group",)
    attributes = frozenset({"show"})
    schema: ClassVar[Schema] = {
        "security_group": text(),
        "description": text(on_change=OnChange.NOTHING),
        "remote_group": text(),
        **security_rules.NEUTRON,
    }

    def rule(self, given: Mapping[str, Any]) -> FirewallRule:
        """Neutron's words."""
        return security_rules.neutron_rule(given, given.get("remote_group"))


def _judged(given: Mapping[str, Any], path: tuple[str | int, ...], read: Any) -> list[PropertyProblem]:
    # Which group it will be says nothing about the rest.
    guessed = {key: "?" if key in _GROUP_KEYS and isinstance(value, Unknown) else value for key, value in given.items()}
    if any(isinstance(value, Unknown) for value in guessed.values()):
        return []
    try:
        read(guessed)
    except ValueError as problem:
        return [PropertyProblem(code="BAD_PROPERTY", message=str(problem), path=path)]
    return []


def _followed(given: Mapping[str, Any], path: tuple[str | int, ...], platform: Platform) -> list[PropertyProblem]:
    named = [key for key in sorted(_GROUP_KEYS & given.keys()) if given[key] is not None]
    if given.get("remote_mode") == "remote_group_id":
        named.append("remote_mode")
    if not named or Capability.FIREWALL_GROUPS in platform.capabilities:
        return []
    sentence = f"'{named[0]}' can not be honoured: this platform does not follow the addresses of a group's guests"
    return [PropertyProblem(code="REFUSED", message=sentence, path=(*path, named[0]))]


def group_of(services: Services, reference: Any) -> ResourceRecord:
    """Return the security group of an id or name; ResourceFailed when no stack has it."""
    found = services.find(str(reference))
    if found is None or "rules" not in found.data:
        raise ResourceFailed(f"there is no security group {reference}: refer to one of a stack")
    return found


def _resolved(services: Services, rule: FirewallRule, own: str) -> FirewallRule:
    """Return a rule with the id of the group that it names."""
    if not rule.group:
        return rule
    group = own if rule.group in (security_rules.OWN, own) else group_of(services, rule.group).physical
    return msgspec.structs.replace(rule, group=group)


def member_of(services: Services, groups: Any) -> list[str]:
    """Return the ids of the groups that a server names, `default` left out; ResourceFailed when there is no such group."""
    names = [str(name) for name in groups or [] if str(name) != "default"]
    return list(dict.fromkeys(group_of(services, name).physical for name in names))


def walls(services: Services, groups: Iterable[str]) -> dict[str, Any]:
    """Return what the definition of a guest in these groups says of them. No rules where it is in none: then everything
    passes. A group that is gone lets nothing pass."""
    names = tuple(groups)
    if not names:
        return {"firewall": None, "groups": ()}
    rules: list[FirewallRule] = []
    for name in names:
        found = services.find(name)
        if found is not None:
            kept = [*found.data.get("rules", ()), *found.data.get("further", {}).values()]
            rules += msgspec.convert(kept, list[FirewallRule])
    return {"firewall": tuple(dict.fromkeys(rules)), "groups": names}


async def refresh(context: Context, group: str) -> None:
    """Bring every guest in a group to the rules as they are now. A guest that is just being made looks again itself."""
    services = context.services
    places = [(place, one) for one in services.guests_in(group) if (place := services.place_of(one)) is not None]
    for name in {place[0] for place, _ in places}:
        edits = {place[1]: _edit(services, one) for place, one in places if place[0] == name}
        await assemblies.change_many(context, name, edits)
    bound = asyncio.Semaphore(_AT_ONCE)

    async def settle(place: tuple[str, str]) -> None:
        async with bound:
            await services.platform.settle(*place)

    await asyncio.gather(*(settle(place) for place, _ in places))


async def surround(context: Context, server: ResourceRecord) -> None:
    """Bring one guest to the groups that its record names."""
    place = context.services.place_of(server)
    assert place is not None
    await assemblies.change_at(context, place, _edit(context.services, server))
    await context.services.platform.settle(*place)


def _edit(services: Services, server: ResourceRecord) -> Any:
    def edit(_: Assembly) -> Mapping[str, Any]:
        return walls(services, server.data.get("groups", ()))

    return edit


TYPES: tuple[type[ResourceType], ...] = (SecurityGroup, NeutronSecurityGroup, Ingress, Egress, NeutronRule)
