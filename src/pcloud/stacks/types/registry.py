"""Finds a resource type by its name. To add a type: write its class, and add its module to `_MODULES`."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import importlib
from collections.abc import Mapping
from typing import Any

from pcloud.stacks.records import EXTERNAL
from pcloud.stacks.template import ResourceDefinition
from pcloud.stacks.types.base import ResourceType

_MODULES = (
    "values",
    "waiting",
    "identity",
    "nested",
    "groups",
    "ec2_instance",
    "nova",
    "security_groups",
    "database",
    "own",
    "networks",
    "routers",
    "addresses",
    "ports",
    "vpc",
    "vpc_subnets",
    "internet_gateways",
    "route_tables",
    "network_interfaces",
    "volumes",
    "scaling",
    "autoscaling",
    "scaling_policies",
    "alarm",
    "restarter",
    "telemetry",
    "software",
    "deployments",
    "balancers",
    "octavia",
    "buckets",
    "containers",
    "external",
)

_NO_SERVICE = "there is no {} behind this API"
REFUSED: Mapping[str, str] = {
    "AWS::S3::*": "of S3 only buckets and their policies are offered",
    "OS::Swift::*": "of Swift only containers are offered",
    "OS::Barbican::*": _NO_SERVICE.format("secret store (Barbican)"),
    "OS::Blazar::*": _NO_SERVICE.format("reservation service (Blazar)"),
    "OS::Ceilometer::*": "there is no telemetry service (Ceilometer); of its alarms those over guests' meters are offered",
    "OS::Aodh::*": "there is no telemetry service (Aodh); of its alarms those over guests' meters are offered",
    "OS::Designate::*": _NO_SERVICE.format("name service (Designate)"),
    "OS::Keystone::*": "there are no users and projects to manage (Keystone)",
    "OS::Magnum::*": _NO_SERVICE.format("container service (Magnum)"),
    "OS::Mistral::*": _NO_SERVICE.format("workflow service (Mistral)"),
    "OS::Monasca::*": "there is no monitoring service (Monasca); the engine watches services itself",
    "OS::Zaqar::*": _NO_SERVICE.format("message queue (Zaqar)"),
    "OS::Octavia::*": "of Octavia load balancer, listener, pool, member and health monitor are offered",
    "OS::Sahara::*": _NO_SERVICE.format("data processing (Sahara)"),
    "OS::Trove::*": "use AWS::RDS::DBInstance for a database guest",
    "OS::Nova::HostAggregate": "hosts can not be grouped from a stack",
    "OS::Neutron::ProviderNet": "networks are made by this host; none of others' can be joined from a stack",
    "OS::Neutron::*": "of Neutron networks, subnets, routers, ports, floating addresses and security groups are offered",
    "AWS::EC2::NatGateway": "a guest in a VPC goes outside by an internet gateway and an address of its own",
    "AWS::EC2::NetworkAcl*": "subnets have no access lists; write the rules of security groups",
    "AWS::EC2::SubnetNetworkAclAssociation": "subnets have no access lists; write the rules of security groups",
    "AWS::EC2::VPCPeeringConnection": "VPCs are apart from each other",
    "AWS::EC2::TransitGateway*": "VPCs are apart from each other",
    "AWS::EC2::VPCEndpoint*": "there are no services behind endpoints of a VPC",
    "AWS::EC2::VPN*": "there are no VPN gateways",
    "AWS::EC2::CustomerGateway": "there are no VPN gateways",
    "AWS::EC2::DHCPOptions": "guests resolve names as their image does",
    "AWS::EC2::VPCDHCPOptionsAssociation": "guests resolve names as their image does",
    "AWS::EC2::EgressOnlyInternetGateway": "networks of stacks are IPv4",
    "AWS::EC2::VPCCidrBlock": "a VPC has one range of IPv4 addresses",
    "AWS::EC2::SubnetCidrBlock": "a subnet has one range of IPv4 addresses",
    "AWS::EC2::NetworkInterfaceAttachment": "name the interface in the instance's NetworkInterfaces",
    "AWS::EC2::*": "of EC2 instances, volumes, security groups, elastic addresses and VPCs with their subnets, "
    "route tables, internet gateways and interfaces are offered",
    "AWS::CloudWatch::*": "of CloudWatch only alarms of one metric are offered",
    "AWS::RDS::*": "of RDS only database instances are offered",
    "AWS::AutoScaling::*": "of auto scaling only groups, launch configurations and simple policies are offered",
    "OS::Cinder::*": "of Cinder volumes and their attachments are offered",
    "AWS::*": "this AWS service has nothing behind it here",
    "OS::Heat::*": "this Heat type is not offered",
    "OS::*": "this OpenStack service has nothing behind it here",
}


@functools.cache
def types() -> Mapping[str, ResourceType]:
    """Return every type by each of its names."""
    result: dict[str, ResourceType] = {}
    for name in _MODULES:
        module = importlib.import_module(f"pcloud.stacks.types.{name}")
        for kind in module.TYPES:
            instance = kind()
            for alias in instance.names:
                result[alias] = instance
    return result


def alias_of(name: str, registry: Mapping[str, Any]) -> str:
    """Follow the environment's resource_registry from a type's name to a type or a file; bounded."""
    for _ in range(10):
        target = registry.get(name)
        if not isinstance(target, str):
            patterns = [
                key for key in registry if isinstance(key, str) and key.endswith("*") and fnmatch.fnmatchcase(name, key)
            ]
            if not patterns:
                return name
            best = max(patterns, key=len)
            target = registry[best]
            if not isinstance(target, str):
                return name
            if target.endswith("*"):
                target = target[:-1] + name[len(best) - 1 :]
        if target == name:
            return name
        name = target
    return name


def made_as_of(definition: ResourceDefinition, registry: Mapping[str, Any]) -> str:
    """Return what a thing of a definition is made as."""
    return alias_of(definition.type, registry) if definition.external_id is None else EXTERNAL


def type_made(
    type_name: str, made_as: str, registry: Mapping[str, Any], files: Mapping[str, str]
) -> tuple[ResourceType | None, str]:
    """Return the type that a thing was made as (`made_as`; empty when that was not kept), whatever its name means now."""
    if is_template_name(made_as):
        return types()["pcloud:template"], ""
    kind, refusal, _ = find_type(made_as or type_name, {} if made_as else registry, files)
    return kind, refusal


def is_template_name(name: str) -> bool:
    """Return whether a type's name is a template file or URL."""
    return name.endswith((".yaml", ".yml", ".template", ".json"))


def find_type(name: str, registry: Mapping[str, Any], files: Mapping[str, str]) -> tuple[ResourceType | None, str, str]:
    """Return (type, refusal, hint): a type, or the sentence why there is none."""
    resolved = alias_of(name, registry)
    known = types()
    if is_template_name(resolved):
        if resolved not in files:
            return None, f"the template file '{resolved}' was not sent with the template", "send it among the files"
        return known["pcloud:template"], "", ""
    found = known.get(resolved)
    if found is not None:
        return found, "", ""
    for pattern, sentence in REFUSED.items():
        if fnmatch.fnmatchcase(resolved, pattern):
            return None, f"{resolved} is refused: {sentence}", ""
    near = difflib.get_close_matches(resolved, known, 1)
    return None, f"the resource type '{resolved}' is not known", f"did you mean {near[0]}?" if near else ""
