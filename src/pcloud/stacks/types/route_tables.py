"""AWS::EC2::RouteTable, Route and SubnetRouteTableAssociation: which subnets of a VPC have a way outside, and where to.

A subnet without an association has the VPC's main table: the subnets reach each other, nothing else. All of it is kept in
the VPC's record, see `routing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known
from pcloud.stacks.types.internet_gateways import InternetGateway
from pcloud.stacks.types.networks import NEEDS, found, own_id
from pcloud.stacks.types.routing import bring, settle, take_back
from pcloud.stacks.types.vpc import NO_IPV6, TAGS, of_vpc, span, vpc_of
from pcloud.stacks.types.vpc_subnets import Subnet

_OTHERS = {
    "NatGatewayId": "NAT gateways",
    "InstanceId": "guests that route",
    "NetworkInterfaceId": "guests that route",
    "VpcPeeringConnectionId": "connections between VPCs",
    "TransitGatewayId": "transit gateways",
    "VpcEndpointId": "endpoints",
    "CarrierGatewayId": "carrier gateways",
    "LocalGatewayId": "outposts",
    "CoreNetworkArn": "core networks",
    "OdbNetworkArn": "other networks",
}
_REFUSED = {
    "DestinationIpv6CidrBlock": NO_IPV6,
    "DestinationPrefixListId": "there are no lists of prefixes; write the DestinationCidrBlock",
    "EgressOnlyInternetGatewayId": NO_IPV6,
    **{key: f"a route leads to an internet gateway; there are no {what}" for key, what in _OTHERS.items()},
}


class RouteTable(ResourceType):
    """Routes that subnets of a VPC share."""

    names = ("AWS::EC2::RouteTable",)
    needs = NEEDS
    attributes = frozenset({"RouteTableId"})
    schema: ClassVar[Schema] = {"VpcId": text(required=True), "Tags": TAGS}

    async def create(self, context: Context) -> None:
        """Take a name."""
        record = context.record
        vpc = vpc_of(context, context.properties["VpcId"])
        record.physical = own_id("rtb", record)
        record.data["vpc"] = vpc.physical
        record.attributes = {"RouteTableId": record.physical}

    async def delete(self, context: Context) -> None:
        """There is nothing to remove."""


class Route(ResourceType):
    """A way outside."""

    names = ("AWS::EC2::Route",)
    needs = NEEDS
    attributes = frozenset({"CidrBlock"})
    schema: ClassVar[Schema] = {
        "RouteTableId": text(required=True),
        "DestinationCidrBlock": text(),
        "GatewayId": text(on_change=OnChange.UPDATE),
        **{key: text() for key in _REFUSED},
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A range of addresses, and a gateway unless something else is named, which is refused."""
        problems = [
            PropertyProblem(
                code="REFUSED", message=f"the property '{key}' can not be honoured: {_REFUSED[key]}", path=(key,)
            )
            for key in _REFUSED
            if properties.get(key) is not None
        ]
        problems = problems or [
            PropertyProblem(code="MISSING_PROPERTY", message=f"{key} is needed", path=(key,))
            for key in ("DestinationCidrBlock", "GatewayId")
            if properties.get(key) is None
        ]
        destination = properties.get("DestinationCidrBlock")
        if known(destination):
            try:
                span(destination)
            except ValueError as problem:
                problems.append(
                    PropertyProblem(code="BAD_PROPERTY", message=str(problem), path=("DestinationCidrBlock",))
                )
        return problems

    async def create(self, context: Context) -> None:
        """Add it to its table."""
        record, services = context.record, context.services
        table = found(context, str(context.properties["RouteTableId"]), RouteTable)
        gateway = found(context, str(context.properties["GatewayId"]), InternetGateway)
        vpc = vpc_of(context, table.data["vpc"])
        destination = str(span(context.properties["DestinationCidrBlock"]))
        for owner, (other, there, _) in vpc.data.get("routes", {}).items():
            if owner != record.id and (other, there) == (table.physical, destination):
                raise ResourceFailed(f"the route table {table.name} has a route to {destination} already")
        record.physical = f"{table.physical}|{destination}"
        record.attributes = {"CidrBlock": destination}
        record.data["vpc"] = vpc.physical
        services.save(record)
        bring(vpc, "routes", record.id, [table.physical, destination, gateway.physical])
        await settle(context, vpc)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Let it lead to another gateway."""
        await self.create(context)

    async def delete(self, context: Context) -> None:
        """Take it out of its table."""
        await take_back(context, "routes", context.record.data.get("vpc", ""))


class Association(ResourceType):
    """A subnet's route table."""

    names = ("AWS::EC2::SubnetRouteTableAssociation",)
    needs = NEEDS
    attributes = frozenset({"Id"})
    schema: ClassVar[Schema] = {"RouteTableId": text(required=True), "SubnetId": text(required=True)}

    async def create(self, context: Context) -> None:
        """Give the subnet the table. While one is replaced, the new association counts."""
        record, services = context.record, context.services
        table = found(context, str(context.properties["RouteTableId"]), RouteTable)
        vpc = vpc_of(context, table.data["vpc"])
        subnet = of_vpc(context, found(context, str(context.properties["SubnetId"]), Subnet), vpc)
        other = subnet.data.get("association")
        if other is not None and other[1:] != [record.stack, record.name]:
            raise ResourceFailed(f"the subnet {subnet.name} has a route table already")
        record.physical = own_id("rtbassoc", record)
        record.attributes = {"Id": record.physical}
        record.data.update(vpc=vpc.physical, subnet=subnet.physical)
        services.save(record)
        subnet.data["association"] = [record.id, record.stack, record.name]
        services.save(subnet)
        bring(vpc, "associations", record.id, [subnet.physical, table.physical])
        await settle(context, vpc)

    async def delete(self, context: Context) -> None:
        """Give the subnet the main table again."""
        subnet = context.services.find(str(context.record.data.get("subnet", "")))
        if subnet is not None and subnet.data.get("association", [""])[0] == context.record.id:
            del subnet.data["association"]
            context.services.save(subnet)
        await take_back(context, "associations", context.record.data.get("vpc", ""))


TYPES: tuple[type[ResourceType], ...] = (RouteTable, Route, Association)
