"""AWS::AutoScaling groups, launch configurations, and OS::Heat::InstanceGroup: groups of like instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, boolean, integer, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services
from pcloud.stacks.types.disks import EC2_MAPPING, ec2_notes, ec2_problems
from pcloud.stacks.types.groups import MAX_MEMBERS
from pcloud.stacks.types.rolling import Members, Roll, aws_roll
from pcloud.stacks.types.scaling import ScalingGroup
from pcloud.stacks.types.vpc_instances import in_subnet, listed_lacking, listed_problems, subnet_notes

_UPDATE = OnChange.UPDATE
_PLACES = "guests are placed by their infrastructure"
_ONE_KIND = "members are made from a launch configuration"
_LAUNCH = "name an AWS::AutoScaling::LaunchConfiguration instead"
INSTANCE = "AWS::EC2::Instance"
COPIED = (
    "ImageId",
    "InstanceType",
    "KeyName",
    "UserData",
    "SecurityGroups",
    "NovaSchedulerHints",
    "BlockDeviceMappings",
)
"""Properties of a launch configuration that its instances get."""


class LaunchConfiguration(ResourceType):
    """How the members of a group are made. A change makes a new one, as the real one is."""

    names = ("AWS::AutoScaling::LaunchConfiguration",)
    schema: ClassVar[Schema] = {
        "ImageId": text(required=True),
        "InstanceType": text(required=True),
        "KeyName": text(),
        "UserData": text(secret=True),
        "SecurityGroups": listing(),
        "NovaSchedulerHints": listing(fields={"Key": text(required=True), "Value": text(required=True)}),
        "BlockDeviceMappings": listing(fields=EC2_MAPPING),
        "LaunchConfigurationName": text(),
        "InstanceId": text(refused="a configuration is not copied from an instance; write it out"),
        "AssociatePublicIpAddress": boolean(),
        "EbsOptimized": boolean(inert="there is one kind of storage"),
        "IamInstanceProfile": text(refused="there are no roles to give to guests; make an AWS::IAM::AccessKey"),
        "InstanceMonitoring": boolean(inert="the engine monitors every guest"),
        "MetadataOptions": mapping(inert="metadata is served by the stack's endpoint"),
        "PlacementTenancy": text(inert=_PLACES),
        "SpotPrice": text(refused="there is no market for guests"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Its members' disks."""
        return ec2_problems(properties)

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """The size of its members' own disks, and where an address outside counts."""
        found = ec2_notes(properties)
        if properties.get("AssociatePublicIpAddress") is not None:
            found.append("AssociatePublicIpAddress counts for groups with a VPCZoneIdentifier only: it is one of a VPC")
        return found

    async def create(self, context: Context) -> None:
        """Keep the properties: they are all it is."""
        context.record.physical = context.properties.get("LaunchConfigurationName") or context.physical_name()


class InstanceGroup(ScalingGroup):
    """Instances made from a launch configuration; its size is a property."""

    names = ("OS::Heat::InstanceGroup",)
    attributes = frozenset({"InstanceList"})
    needs = frozenset({"guests"})
    minimum_key = maximum_key = desired_key = "Size"
    cooldown_key = ""
    schema: ClassVar[Schema] = {
        "AvailabilityZones": listing(required=True, on_change=_UPDATE, inert=_PLACES),
        "LaunchConfigurationName": text(required=True, on_change=_UPDATE),
        "Size": integer(required=True, minimum=0, maximum=MAX_MEMBERS, on_change=_UPDATE),
        "LoadBalancerNames": listing(on_change=_UPDATE),
        "Tags": listing(on_change=_UPDATE, fields={"Key": text(required=True), "Value": text(required=True)}),
    }

    def configuration(self, context: Context) -> ResourceRecord:
        """Return the launch configuration's record; ResourceFailed when there is none."""
        name = str(context.properties.get("LaunchConfigurationName"))
        found = context.services.find(name)
        if found is None or found.type not in LaunchConfiguration.names:
            raise ResourceFailed(f"there is no launch configuration {name}")
        return found

    def instance(self, context: Context, index: int) -> dict[str, Any]:
        """Return the definition of a member as it is now; they are spread over the group's subnets."""
        given = self.configuration(context)
        properties = {key: given.properties[key] for key in COPIED if given.properties.get(key) is not None}
        if subnets := context.properties.get("VPCZoneIdentifier"):
            public = given.properties.get("AssociatePublicIpAddress")
            properties = in_subnet(properties, str(subnets[index % len(subnets)]), public)
        tags = [{"Key": tag["Key"], "Value": tag["Value"]} for tag in context.properties.get("Tags") or []]
        tags += [{"Key": key, "Value": self.name(context)} for key in ("AutoScalingGroupName", "metering.groupname")]
        return {"type": INSTANCE, "properties": {**properties, "Tags": tags}}

    def name(self, context: Context) -> str:
        """Return the name that the group goes by."""
        return context.physical_name()

    def members(self, context: Context) -> Members:
        """Members that are there stay as they are, unless a policy says how they are updated; new ones are like the
        configuration now."""
        kept = self.current(context.record, context.services) if self.roll(context) is None else {}
        names = [f"member{index}" for index in range(self.size(context))]
        return {name: kept.get(name) or self.instance(context, index) for index, name in enumerate(names)}

    def roll(self, context: Context) -> Roll | None:
        """`UpdatePolicy`."""
        return aws_roll(context.update_policy)

    async def create(self, context: Context) -> None:
        """Make the members."""
        context.record.data["reference"] = self.name(context)
        await super().create(context)

    async def delete(self, context: Context) -> None:
        """Take the members off their load balancers and delete them."""
        await self._register(context, [])
        await super().delete(context)

    async def changed(self, context: Context) -> None:
        """Load balancers are told the members."""
        await self._register(context, self.instances(context.record, context.services))

    async def _register(self, context: Context, instances: list[str]) -> None:
        for name in context.properties.get("LoadBalancerNames") or []:
            await context.services.balance(str(name), context.record.id, instances)

    def instances(self, record: ResourceRecord, services: Services) -> list[str]:
        """Return the ids of the members' guests."""
        found = [self.value(record, name, "", [], services) for name in self.names_of(record, services)]
        return [str(item) for item in found if item]

    def reference(self, record: ResourceRecord, services: Services) -> Any:
        """The group's name."""
        return record.data.get("reference") or record.physical

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """`InstanceList`: the members' addresses; of one without an address outside, its own."""
        if name == "InstanceList":
            addresses = [
                self.value(record, item, "PublicIp", [], services)
                or self.value(record, item, "PrivateIp", [], services)
                for item in self.names_of(record, services)
            ]
            return ",".join(str(address) for address in addresses if address)
        return super().attribute(record, name, path, services)


class AwsAutoScalingGroup(InstanceGroup):
    """Instances whose number policies change."""

    names = ("AWS::AutoScaling::AutoScalingGroup",)
    attributes = frozenset({"InstanceList"})
    minimum_key, maximum_key = "MinSize", "MaxSize"
    desired_key, cooldown_key = "DesiredCapacity", "Cooldown"
    schema: ClassVar[Schema] = {
        "AutoScalingGroupName": text(),
        "AvailabilityZones": listing(on_change=_UPDATE, inert=_PLACES),
        "CapacityRebalance": boolean(on_change=_UPDATE, inert="there is no market for guests"),
        "Context": text(on_change=_UPDATE, inert="it means nothing to AWS either"),
        "Cooldown": integer(default=300, minimum=0, on_change=_UPDATE),
        "DefaultInstanceWarmup": integer(minimum=0, on_change=_UPDATE),
        "DesiredCapacity": integer(minimum=0, on_change=_UPDATE),
        "HealthCheckGracePeriod": integer(on_change=_UPDATE, inert="the engine restarts guests by its own rules"),
        "HealthCheckType": text(on_change=_UPDATE, inert="the engine restarts guests by its own rules"),
        "InstanceId": text(refused=_LAUNCH),
        "LaunchConfigurationName": text(on_change=_UPDATE),
        "LaunchTemplate": mapping(refused=_LAUNCH),
        "LifecycleHookSpecificationList": listing(refused="there are no lifecycle hooks; use resource signals"),
        "LoadBalancerNames": listing(on_change=_UPDATE),
        "MaxInstanceLifetime": integer(refused="guests are not replaced for their age"),
        "MaxSize": integer(required=True, minimum=0, maximum=MAX_MEMBERS, on_change=_UPDATE),
        "MetricsCollection": listing(on_change=_UPDATE, inert="groups have no metrics of their own"),
        "MinSize": integer(required=True, minimum=0, on_change=_UPDATE),
        "MixedInstancesPolicy": mapping(refused=_ONE_KIND),
        "NewInstancesProtectedFromScaleIn": boolean(refused="members can not be protected from scaling in"),
        "NotificationConfigurations": listing(on_change=_UPDATE, inert="there is no notification service"),
        "NotificationConfiguration": mapping(on_change=_UPDATE, inert="there is no notification service"),
        "PlacementGroup": text(on_change=_UPDATE, inert=_PLACES),
        "ServiceLinkedRoleARN": text(on_change=_UPDATE, inert="there are no roles"),
        "Tags": listing(
            on_change=_UPDATE,
            fields={
                "Key": text(required=True),
                "Value": text(required=True),
                "PropagateAtLaunch": boolean(default=True),
            },
        ),
        "TargetGroupARNs": listing(refused="use LoadBalancerNames with an AWS::ElasticLoadBalancing::LoadBalancer"),
        "TerminationPolicies": listing(on_change=_UPDATE, inert="the newest member goes first"),
        "VPCZoneIdentifier": listing(on_change=_UPDATE),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A launch configuration is needed, and subnets that there can be."""
        found = [*super().check(properties), *listed_problems("VPCZoneIdentifier", properties)]
        if properties.get("LaunchConfigurationName") is None:
            message = "LaunchConfigurationName is needed"
            found.append(PropertyProblem(code="MISSING_PROPERTY", message=message, path=("LaunchConfigurationName",)))
        return found

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Whether there are subnets."""
        return listed_lacking("VPCZoneIdentifier", properties, platform)

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """Subnets of others."""
        return subnet_notes("VPCZoneIdentifier", properties.get("VPCZoneIdentifier"))

    def name(self, context: Context) -> str:
        """The given name or a generated one."""
        return str(context.properties.get("AutoScalingGroupName") or context.physical_name())


TYPES: tuple[type[ResourceType], ...] = (LaunchConfiguration, InstanceGroup, AwsAutoScalingGroup)
