"""AWS::EC2::Subnet: a part of a VPC's addresses, with a bridge of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.infrastructure.lxc_segments import Subnet as Addresses
from pcloud.stacks.platform import Platform
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.networks import OnHost, own_id
from pcloud.stacks.types.routing import bring, settle
from pcloud.stacks.types.vpc import NO_IPAM, NO_IPV6, TAGS, block_problems, foreign, span, vpc_of

_NOTHING = OnChange.NOTHING
_RESERVED = 4
"""EC2 keeps the first addresses: the network's, the router's, and two more."""


class Subnet(OnHost):
    """A range of addresses of a VPC. Its guests reach those of all its subnets."""

    names = ("AWS::EC2::Subnet",)
    attributes = frozenset(
        {"SubnetId", "AvailabilityZone", "AvailabilityZoneId", "CidrBlock", "VpcId", "Ipv6CidrBlocks"}
        | {"NetworkAclAssociationId"}
    )
    schema: ClassVar[Schema] = {
        "VpcId": text(required=True),
        "CidrBlock": text(required=True),
        "AvailabilityZone": text(inert="there is one place"),
        "AvailabilityZoneId": text(inert="there is one place"),
        "MapPublicIpOnLaunch": boolean(on_change=_NOTHING),
        "Tags": TAGS,
        "AssignIpv6AddressOnCreation": boolean(on_change=_NOTHING, allowed=(False,)),
        "EnableDns64": boolean(on_change=_NOTHING, allowed=(False,)),
        "Ipv6Native": boolean(allowed=(False,)),
        "Ipv6CidrBlock": text(refused=NO_IPV6),
        "Ipv6CidrBlocks": listing(refused=NO_IPV6),
        "Ipv6IpamPoolId": text(refused=NO_IPV6),
        "Ipv6NetmaskLength": integer(refused=NO_IPV6),
        "Ipv4IpamPoolId": text(refused=NO_IPAM),
        "Ipv4NetmaskLength": integer(refused=NO_IPAM),
        "EnableLniAtDeviceIndex": integer(refused="there are no outposts"),
        "OutpostArn": text(refused="there are no outposts"),
        "PrivateDnsNameOptionsOnLaunch": anything(on_change=_NOTHING, inert="guests resolve names as their image does"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Its addresses are of version 4 and as many as EC2 allows."""
        return block_problems(properties.get("CidrBlock"))

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """The guests' own network is another."""
        return foreign(properties.get("CidrBlock"), platform)

    async def create(self, context: Context) -> None:
        """Make its bridge, and join it to the VPC's router."""
        record, services = context.record, context.services
        networks = services.platform.networks
        vpc = vpc_of(context, context.properties["VpcId"])
        cidr = span(context.properties["CidrBlock"])
        if not cidr.subnet_of(ipaddress.IPv4Network(vpc.data["cidr"])):
            raise ResourceFailed(f"{cidr} is not in {vpc.data['cidr']}, the VPC's addresses")
        for owner, other in vpc.data.get("blocks", {}).items():
            if owner != record.id and cidr.overlaps(ipaddress.IPv4Network(other)):
                raise ResourceFailed(f"{cidr} overlaps {other}, another subnet of the VPC")
        name = own_id("subnet", record)
        record.physical = name
        record.data.update(network=name, cidr=str(cidr), gateway=str(cidr[1]), vpc=vpc.physical, router=vpc.physical)
        record.attributes = {
            "SubnetId": name,
            "AvailabilityZone": context.properties.get("AvailabilityZone") or "local",
            "AvailabilityZoneId": "local",
            "CidrBlock": str(cidr),
            "VpcId": vpc.physical,
            "Ipv6CidrBlocks": [],
            "NetworkAclAssociationId": "",
        }
        services.save(record)
        bring(vpc, "blocks", record.id, str(cidr))
        services.save(vpc)
        await networks.make_network(name)
        pool = (str(cidr[_RESERVED]), str(cidr[-2]))
        await networks.make_subnet(
            Addresses(name=name, network=name, cidr=str(cidr), gateway=str(cidr[1]), pools=(pool,))
        )
        bring(vpc, "interfaces", record.id, name)
        await settle(context, vpc)

    async def delete(self, context: Context) -> None:
        """Part it from the VPC's router, and remove its bridge."""
        record, services = context.record, context.services
        name = own_id("subnet", record)
        vpc = services.find(str(record.data.get("vpc", "")))
        if vpc is not None:
            bring(vpc, "interfaces", record.id, None)
            await settle(context, vpc)
        await services.platform.networks.remove_subnet(name)
        await services.platform.networks.remove_network(name)
        if vpc is not None:
            bring(vpc, "blocks", record.id, None)
            services.save(vpc)


TYPES: tuple[type[ResourceType], ...] = (Subnet,)
