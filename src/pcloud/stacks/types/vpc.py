"""AWS::EC2::VPC: a range of addresses, and the router between its subnets.

Every subnet has a bridge of its own; the VPC is the router that joins them, as EC2's local route does, and the only way to
anything else. What others bring to it is in its record, see `routing`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.functions.evaluation import Unknown
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known
from pcloud.stacks.types.networks import OnHost, found, is_own_id, own_id
from pcloud.stacks.types.routing import remove, settle

NO_IPV6 = "networks of stacks are IPv4"
NO_IPAM = "there are no pools of addresses; write the CidrBlock"
TAGS = listing(
    on_change=OnChange.NOTHING, fields={"Key": text(required=True), "Value": text(required=True)}, single=True
)
_NO_NAMES = "guests resolve names as their image does"


class Vpc(OnHost):
    """A virtual private cloud."""

    names = ("AWS::EC2::VPC",)
    attributes = frozenset(
        {"VpcId", "CidrBlock", "CidrBlockAssociations", "DefaultNetworkAcl", "DefaultSecurityGroup", "Ipv6CidrBlocks"}
    )
    schema: ClassVar[Schema] = {
        "CidrBlock": text(required=True),
        "EnableDnsHostnames": boolean(on_change=OnChange.NOTHING, inert=_NO_NAMES),
        "EnableDnsSupport": boolean(on_change=OnChange.NOTHING, inert=_NO_NAMES),
        "InstanceTenancy": text(allowed=("default", "dedicated", "host"), inert="there is one host"),
        "Tags": TAGS,
        "Ipv4IpamPoolId": text(refused=NO_IPAM),
        "Ipv4NetmaskLength": integer(refused=NO_IPAM),
        "VpcEncryptionControl": anything(refused="what passes between guests of one host is not encrypted"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Its addresses are of version 4 and as many as EC2 allows."""
        return block_problems(properties.get("CidrBlock"))

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """The guests' own network is another."""
        return foreign(properties.get("CidrBlock"), platform)

    async def create(self, context: Context) -> None:
        """Make the router."""
        record = context.record
        record.physical = own_id("vpc", record)
        cidr = str(_block(context.properties["CidrBlock"]))
        record.data["cidr"] = cidr
        record.attributes = {
            "VpcId": record.physical,
            "CidrBlock": cidr,
            "CidrBlockAssociations": [],
            "DefaultNetworkAcl": "",
            "DefaultSecurityGroup": "default",
            "Ipv6CidrBlocks": [],
        }
        await settle(context, record)

    async def delete(self, context: Context) -> None:
        """Remove the router."""
        await remove(context, own_id("vpc", context.record))


def _block(text_: Any) -> ipaddress.IPv4Network:
    """Return a range as EC2 reads it: the bits of hosts may be set. ValueError."""
    cidr = span(text_)
    if not 16 <= cidr.prefixlen <= 28:
        raise ValueError(f"{cidr} must be between /16 and /28")
    return cidr


def span(text_: Any) -> ipaddress.IPv4Network:
    """Return a range of addresses; ValueError when it is none of version 4."""
    try:
        return ipaddress.IPv4Network(str(text_), strict=False)
    except ValueError:
        raise ValueError(f"'{text_}' is no range of IPv4 addresses") from None


def block_problems(cidr: Any) -> list[PropertyProblem]:
    """Return why a `CidrBlock` is none."""
    if not known(cidr):
        return []
    try:
        _block(cidr)
    except ValueError as problem:
        return [PropertyProblem(code="BAD_PROPERTY", message=str(problem), path=("CidrBlock",))]
    return []


def foreign(cidr: Any, platform: Platform) -> list[PropertyProblem]:
    """Return why a `CidrBlock` can not be had here."""
    if not known(cidr) or block_problems(cidr):
        return []
    why = platform.networks.refusal(str(cidr))
    return [PropertyProblem(code="ADDRESS", message=why, path=("CidrBlock",))] if why else []


def is_vpc(reference: Any) -> bool:
    """Tell whether an id is one of ours, or, while it is not known, may be."""
    return isinstance(reference, Unknown) or is_own_id("vpc", reference)


def vpc_of(context: Context, reference: Any) -> ResourceRecord:
    """Return the VPC of an id; ResourceFailed when no stack has it."""
    return found(context, str(reference), Vpc)


def of_vpc(context: Context, other: ResourceRecord, vpc: ResourceRecord) -> ResourceRecord:
    """Return what belongs to a VPC; ResourceFailed when it belongs to another."""
    if other.data.get("vpc") != vpc.physical:
        raise ResourceFailed(f"{other.name} is not of the VPC {vpc.physical}")
    return other


TYPES: tuple[type[ResourceType], ...] = (Vpc,)
