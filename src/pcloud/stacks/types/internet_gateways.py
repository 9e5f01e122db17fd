"""AWS::EC2::InternetGateway and VPCGatewayAttachment: a VPC's way to the guests' own network, which stands for outside.

The gateway alone is nothing but a name; attached, it gives the VPC's router a leg outside. Who may go there, the route
tables say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.networks import NEEDS, found, own_id
from pcloud.stacks.types.routing import bring, settle, take_back
from pcloud.stacks.types.vpc import TAGS, vpc_of


class InternetGateway(ResourceType):
    """A way outside, for one VPC."""

    names = ("AWS::EC2::InternetGateway",)
    needs = NEEDS
    attributes = frozenset({"InternetGatewayId"})
    schema: ClassVar[Schema] = {"Tags": TAGS}

    async def create(self, context: Context) -> None:
        """Take a name."""
        context.record.physical = own_id("igw", context.record)
        context.record.attributes = {"InternetGatewayId": context.record.physical}

    async def delete(self, context: Context) -> None:
        """There is nothing to remove."""


class GatewayAttachment(ResourceType):
    """A VPC's gateway."""

    names = ("AWS::EC2::VPCGatewayAttachment",)
    needs = NEEDS
    attributes = frozenset({"AttachmentType"})
    schema: ClassVar[Schema] = {
        "VpcId": text(required=True),
        "InternetGatewayId": text(on_change=OnChange.UPDATE),
        "VpnGatewayId": text(),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A gateway is needed."""
        if properties.get("VpnGatewayId") is not None:
            message = "the property 'VpnGatewayId' can not be honoured: there are no VPN gateways"
            return [PropertyProblem(code="REFUSED", message=message, path=("VpnGatewayId",))]
        if properties.get("InternetGatewayId") is not None:
            return []
        message = "InternetGatewayId is needed"
        return [PropertyProblem(code="MISSING_PROPERTY", message=message, path=("InternetGatewayId",))]

    async def create(self, context: Context) -> None:
        """Attach the gateway."""
        record, services = context.record, context.services
        vpc = vpc_of(context, context.properties["VpcId"])
        gateway = found(context, str(context.properties["InternetGatewayId"]), InternetGateway)
        if gateway.data.get("attached") not in (None, record.id):
            raise ResourceFailed(f"the internet gateway {gateway.physical} is attached already")
        if set(vpc.data.get("gateways", {})) - {record.id}:
            raise ResourceFailed(f"the VPC {vpc.physical} has an internet gateway already")
        record.physical = f"IGW|{vpc.physical}"
        record.attributes = {"AttachmentType": "IGW"}
        self._let_go(context)
        record.data.update(vpc=vpc.physical, gateway=gateway.physical)
        services.save(record)
        gateway.data["attached"] = record.id
        services.save(gateway)
        bring(vpc, "gateways", record.id, gateway.physical)
        await settle(context, vpc)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Attach another one instead."""
        await self.create(context)

    async def delete(self, context: Context) -> None:
        """Detach the gateway."""
        self._let_go(context)
        await take_back(context, "gateways", context.record.data.get("vpc", ""))

    @staticmethod
    def _let_go(context: Context) -> None:
        """Note that its gateway is attached no longer."""
        gateway = context.services.find(str(context.record.data.get("gateway", "")))
        if gateway is not None and gateway.data.get("attached") == context.record.id:
            del gateway.data["attached"]
            context.services.save(gateway)


TYPES: tuple[type[ResourceType], ...] = (InternetGateway, GatewayAttachment)
