"""AWS::EC2::Instance: one guest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.guests import seed
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, listing, text
from pcloud.stacks.types import disks, vpc_instances
from pcloud.stacks.types.base import Context, ResourceType, Services
from pcloud.stacks.types.servers import Part, ServerType, short_id

_NOTHING = OnChange.NOTHING


class Instance(ServerType):
    """A guest with user data and metadata for cfn-init."""

    names = ("AWS::EC2::Instance",)
    image_property = "ImageId"
    size_property = "InstanceType"
    group_properties = frozenset({"SecurityGroups", "SecurityGroupIds"})
    disk_properties = ("Volumes", "BlockDeviceMappings")
    attributes = frozenset({"AvailabilityZone", "PrivateDnsName", "PublicDnsName", "PrivateIp", "PublicIp", "VpcId"})
    schema: ClassVar[Schema] = {
        "ImageId": text(required=True),
        "InstanceType": text(default="m1.small", on_change=OnChange.UPDATE),
        "KeyName": text(inert="key pairs are those of OS::Nova::KeyPair in the same stack; others are not known here"),
        "UserData": text(secret=True),
        "SecurityGroups": listing(on_change=OnChange.UPDATE),
        "SecurityGroupIds": listing(on_change=OnChange.UPDATE),
        "AvailabilityZone": text(inert="there is one place"),
        "Tags": listing(on_change=_NOTHING, fields={"Key": text(required=True), "Value": text(required=True)}),
        "Monitoring": boolean(on_change=_NOTHING, inert="services are always monitored"),
        "DisableApiTermination": boolean(on_change=_NOTHING, inert="a stack is protected as a whole"),
        "Tenancy": text(inert="there is one host"),
        "SourceDestCheck": boolean(on_change=_NOTHING, inert="guests do not route"),
        "Volumes": listing(on_change=OnChange.UPDATE, fields=disks.EC2_VOLUME),
        "BlockDeviceMappings": listing(fields=disks.EC2_MAPPING),
        "EbsOptimized": boolean(inert=disks.ONE_KIND),
        "SubnetId": text(),
        "NetworkInterfaces": listing(fields=vpc_instances.INTERFACE),
        "PrivateIpAddress": text(),
        "IamInstanceProfile": anything(refused="there are no roles; give the guest a key of AWS::IAM::AccessKey"),
        "KernelId": text(refused="guests share the host's kernel"),
        "RamDiskId": text(refused="guests share the host's kernel"),
    }

    def fixed(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """By its own name; in a subnet it is one of that."""
        if vpc_instances.inside(properties):
            return None, ()
        return properties.get("PrivateIpAddress"), ("PrivateIpAddress",)

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Its disks and its interfaces."""
        return [*disks.ec2_problems(properties), *vpc_instances.problems(properties)]

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Besides image and size: whether there are subnets."""
        return [*super().check_on(properties, platform), *vpc_instances.lacking(properties, platform)]

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """The size of its own disk, and subnets of others."""
        return [*disks.ec2_notes(properties), *vpc_instances.notes(properties)]

    def disks(self, context: Context) -> list[disks.Disk]:
        """In EC2's words."""
        return disks.ec2_disks(context.properties)

    def instance(self, context: Context) -> str:
        """`i-` and 17 digits."""
        return short_id("i", context)

    def user_data(self, context: Context) -> str:
        """Base64 in templates."""
        return seed.decoded(context.properties.get("UserData") or "")

    def groups(self, context: Context) -> list[Any]:
        """By name and by id, and those of its interfaces."""
        named = vpc_instances.group_names(context.services, context.properties)
        vpc_instances.fitting(context, named, vpc_instances.vpc_of(context, context.record))
        return named

    def parts(self, context: Context) -> list[Part]:
        """Its subnet, or its interfaces."""
        return vpc_instances.parts(context.properties)

    def ports(self, context: Context) -> list[ResourceRecord]:
        """Interfaces that it takes."""
        return vpc_instances.ports(context.services, context.properties)

    async def enter(self, context: Context) -> None:
        """Besides: its address outside, which its user data may need."""
        await super().enter(context)
        if vpc_instances.wants_public(context):
            await vpc_instances.publish(context)

    async def delete(self, context: Context) -> None:
        """Besides: give its address outside back."""
        await vpc_instances.withdraw(context)
        await super().delete(context)

    def addresses(self, context: Context, address: str, place: str) -> dict[str, Any]:
        """EC2's names."""
        return {
            "PublicIp": address,
            "PrivateIp": address,
            "PublicDnsName": address,
            "PrivateDnsName": address,
            "AvailabilityZone": place or "local",
            "VpcId": vpc_instances.vpc_of(context, context.record),
        }

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """In a VPC its addresses are those of its first interface; the one outside is looked up, for it comes and goes."""
        if record.data.get("interfaces") and name in ("PrivateIp", "PrivateDnsName", "PublicIp", "PublicDnsName"):
            return vpc_instances.addresses(record, services)[name.startswith("Public")]
        return super().attribute(record, name, path, services)


TYPES: tuple[type[ResourceType], ...] = (Instance,)
