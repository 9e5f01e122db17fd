"""AWS::EC2::NetworkInterface: an address in a subnet, that an instance takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceType
from pcloud.stacks.types.networks import NEEDS, found, join, leave, own_id
from pcloud.stacks.types.security_groups import member_of, surround
from pcloud.stacks.types.vpc import NO_IPV6, TAGS
from pcloud.stacks.types.vpc_instances import ADDRESSES, ONE_ADDRESS, fitting, group_names, primary, secondary
from pcloud.stacks.types.vpc_subnets import Subnet

_NOTHING = OnChange.NOTHING


class NetworkInterface(ResourceType):
    """An interface."""

    names = ("AWS::EC2::NetworkInterface",)
    needs = NEEDS
    attributes = frozenset({"Id", "PrimaryPrivateIpAddress", "SecondaryPrivateIpAddresses", "VpcId"})
    schema: ClassVar[Schema] = {
        "SubnetId": text(required=True),
        "Description": text(on_change=_NOTHING),
        "GroupSet": listing(on_change=OnChange.UPDATE),
        "PrivateIpAddress": text(),
        "PrivateIpAddresses": ADDRESSES,
        "SourceDestCheck": boolean(on_change=_NOTHING, inert="guests do not route"),
        "Tags": TAGS,
        "SecondaryPrivateIpAddressCount": integer(refused=ONE_ADDRESS),
        "InterfaceType": text(allowed=("interface",)),
        "Ipv4PrefixCount": integer(refused=ONE_ADDRESS),
        "Ipv4Prefixes": listing(refused=ONE_ADDRESS),
        "Ipv6AddressCount": integer(refused=NO_IPV6),
        "Ipv6Addresses": listing(refused=NO_IPV6),
        "Ipv6PrefixCount": integer(refused=NO_IPV6),
        "Ipv6Prefixes": listing(refused=NO_IPV6),
        "EnablePrimaryIpv6": boolean(refused=NO_IPV6),
        "ConnectionTrackingSpecification": anything(inert="connections are tracked as this host's kernel does"),
        "PublicIpDnsHostnameTypeSpecification": text(inert="there is no name service"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """It has one address."""
        return secondary(properties, ())

    async def create(self, context: Context) -> None:
        """Take an address in the subnet."""
        record, given = context.record, context.properties
        subnet = found(context, str(given["SubnetId"]), Subnet)
        record.physical = own_id("eni", record)
        groups = list(given.get("GroupSet") or [])
        fitting(context, groups, str(subnet.data["vpc"]))
        interface = await join(context, subnet.physical, context.token, primary(given))
        record.data["interface"] = interface
        record.attributes = {
            "Id": record.physical,
            "PrimaryPrivateIpAddress": interface["address"].partition("/")[0],
            "SecondaryPrivateIpAddresses": [],
            "VpcId": subnet.data["vpc"],
            "security_groups": groups,
        }

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Other groups: its instance is in them at once."""
        record, services = context.record, context.services
        groups = list(context.properties.get("GroupSet") or [])
        fitting(context, groups, record.attributes["VpcId"])
        record.attributes = {**record.attributes, "security_groups": groups}
        services.save(record)
        server = services.find(str(record.data.get("server", "")))
        if server is None:
            return
        server.data["groups"] = member_of(services, group_names(services, server.properties))
        services.save(server)
        await surround(context, server)

    async def delete(self, context: Context) -> None:
        """Give its address back."""
        await leave(context)


TYPES: tuple[type[ResourceType], ...] = (NetworkInterface,)
