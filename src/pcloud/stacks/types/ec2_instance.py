"""AWS::EC2::Instance: one guest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.guests import seed
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, listing, text
from pcloud.stacks.types import disks
from pcloud.stacks.types.base import Context, ResourceType
from pcloud.stacks.types.servers import ServerType, short_id

_NOTHING = OnChange.NOTHING
_NO_NETWORKS = "guests share one network of the infrastructure"


class Instance(ServerType):
    """A guest with user data and metadata for cfn-init."""

    names = ("AWS::EC2::Instance",)
    image_property = "ImageId"
    size_property = "InstanceType"
    group_properties = frozenset({"SecurityGroups", "SecurityGroupIds"})
    disk_properties = ("Volumes", "BlockDeviceMappings")
    attributes = frozenset({"AvailabilityZone", "PrivateDnsName", "PublicDnsName", "PrivateIp", "PublicIp"})
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
        "SubnetId": text(refused=_NO_NETWORKS),
        "NetworkInterfaces": listing(refused=_NO_NETWORKS),
        "PrivateIpAddress": text(),
        "IamInstanceProfile": anything(refused="there are no roles; give the guest a key of AWS::IAM::AccessKey"),
        "KernelId": text(refused="guests share the host's kernel"),
        "RamDiskId": text(refused="guests share the host's kernel"),
    }

    def fixed(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """By its own name."""
        return properties.get("PrivateIpAddress"), ("PrivateIpAddress",)

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Its disks."""
        return disks.ec2_problems(properties)

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """The size of its own disk."""
        return disks.ec2_notes(properties)

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
        """By name and by id."""
        return [each for key in sorted(self.group_properties) for each in context.properties.get(key) or []]

    def addresses(self, context: Context, address: str, place: str) -> dict[str, Any]:
        """EC2's names."""
        return {
            "PublicIp": address,
            "PrivateIp": address,
            "PublicDnsName": address,
            "PrivateDnsName": address,
            "AvailabilityZone": place or "local",
        }


TYPES: tuple[type[ResourceType], ...] = (Instance,)
