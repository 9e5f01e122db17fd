"""An instance's part in a VPC: its interfaces, its address outside, and the security groups that fit.

Also read by scaling groups and balancers, whose guests are in subnets by the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.environment.infrastructure import Capability
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import PropertyProblem, Schema, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceFailed, Services, known
from pcloud.stacks.types.networks import is_own_id, of_stack
from pcloud.stacks.types.routing import LAUNCH, router_of, stand, standing
from pcloud.stacks.types.servers import Part
from pcloud.stacks.types.vpc import NO_IPV6

ONE_ADDRESS = "an interface has one address here"
ADDRESSES = listing(fields={"PrivateIpAddress": text(required=True), "Primary": boolean(required=True)})
INTERFACE: Schema = {
    "DeviceIndex": integer(minimum=0),
    "NetworkInterfaceId": text(),
    "SubnetId": text(),
    "PrivateIpAddress": text(),
    "PrivateIpAddresses": ADDRESSES,
    "AssociatePublicIpAddress": boolean(),
    "GroupSet": listing(),
    "DeleteOnTermination": boolean(inert="an interface that an instance makes goes with it, no other does"),
    "Description": text(inert="interfaces are not searched by it"),
    "SecondaryPrivateIpAddressCount": integer(refused=ONE_ADDRESS),
    "AssociateCarrierIpAddress": boolean(refused="there are no carrier gateways"),
    "Ipv6AddressCount": integer(refused=NO_IPV6),
    "Ipv6Addresses": listing(refused=NO_IPV6),
}
Path = tuple[str | int, ...]


def _interfaces(properties: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return `NetworkInterfaces` that are known, the first device first."""
    written = properties.get("NetworkInterfaces")
    found = [each for each in (written if isinstance(written, list) else ()) if isinstance(each, Mapping)]
    return sorted(found, key=lambda each: index if isinstance(index := each.get("DeviceIndex"), int) else 0)


def inside(properties: Mapping[str, Any]) -> bool:
    """Tell whether an instance is in a subnet of a stack, or, while that is not known, may be."""
    named = [properties.get("SubnetId")]
    for each in _interfaces(properties):
        named += [each.get("SubnetId"), "subnet-" if each.get("NetworkInterfaceId") is not None else None]
    return any(name is not None and of_stack(name) for name in named)


def problems(properties: Mapping[str, Any]) -> list[PropertyProblem]:
    """Return what EC2 does not take, and subnets that no stack can have."""
    found = subnet_problems(properties.get("SubnetId"), ("SubnetId",))
    written = properties.get("NetworkInterfaces")
    listed = written if isinstance(written, list) else []
    for key in ("SubnetId", "SecurityGroups", "SecurityGroupIds", "PrivateIpAddress"):
        if listed and properties.get(key):
            message = f"'{key}' is that of an interface where NetworkInterfaces are given"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=(key,)))
    for number, each in enumerate(listed):
        if not isinstance(each, Mapping):
            continue
        path: Path = ("NetworkInterfaces", number)
        found += subnet_problems(each.get("SubnetId"), (*path, "SubnetId"))
        found += secondary(each, path)
        if each.get("NetworkInterfaceId") is None:
            if each.get("SubnetId") is None and len(listed) > 1:
                message = "SubnetId or NetworkInterfaceId is needed"
                found.append(PropertyProblem(code="MISSING_PROPERTY", message=message, path=(*path, "SubnetId")))
            continue
        for key in ("SubnetId", "PrivateIpAddress", "GroupSet", "AssociatePublicIpAddress"):
            if each.get(key) is not None:
                message = f"'{key}' is that of the interface which NetworkInterfaceId names"
                found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=(*path, key)))
    return found


def subnet_problems(subnet: Any, path: Path) -> list[PropertyProblem]:
    """Return why a subnet can not be one of a stack."""
    if not known(subnet) or not str(subnet).startswith("subnet-") or is_own_id("subnet", subnet):
        return []
    return [PropertyProblem(code="REFUSED", message=f"no stack can have the subnet {subnet}", path=path)]


def lacking(properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
    """Return the refusal of a subnet where no stack can make networks."""
    key = "SubnetId" if properties.get("SubnetId") is not None else "NetworkInterfaces"
    return _no_networks(key, platform) if inside(properties) else []


def notes(properties: Mapping[str, Any]) -> list[str]:
    """Return subnets that mean nothing here."""
    named = [properties.get("SubnetId"), *(each.get("SubnetId") for each in _interfaces(properties))]
    return subnet_notes("SubnetId", named)


def subnet_notes(key: str, named: Any) -> list[str]:
    """Return which of these subnets mean nothing here."""
    return [
        f"{key} has no effect here: '{name}' is no subnet of a stack, so the guests' own network is meant"
        for name in (named if isinstance(named, list) else [])
        if known(name) and not of_stack(name)
    ]


def listed_problems(key: str, properties: Mapping[str, Any]) -> list[PropertyProblem]:
    """Return why the subnets of a list can not be some of a stack."""
    named = properties.get(key)
    return [
        problem
        for index, name in enumerate(named if isinstance(named, list) else ())
        for problem in subnet_problems(name, (key, index))
    ]


def listed_lacking(key: str, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
    """Return the refusal of a list of subnets where no stack can make networks."""
    named = properties.get(key)
    some = any(of_stack(name) for name in (named if isinstance(named, list) else ()))
    return _no_networks(key, platform) if some else []


def _no_networks(key: str, platform: Platform) -> list[PropertyProblem]:
    if Capability.NETWORKS in platform.capabilities:
        return []
    message = f"'{key}' can not be honoured: this platform has no networks"
    return [PropertyProblem(code="REFUSED", message=message, path=(key,))]


def in_subnet(properties: Mapping[str, Any], subnet: str, public: Any) -> dict[str, Any]:
    """Return an instance's properties with a subnet, and whether it gets an address outside where that is said."""
    if public is None or not of_stack(subnet):
        return {**properties, "SubnetId": subnet}
    groups = {"GroupSet": properties["SecurityGroups"]} if properties.get("SecurityGroups") else {}
    interface = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": public, **groups}
    return {
        **{key: each for key, each in properties.items() if key != "SecurityGroups"},
        "NetworkInterfaces": [interface],
    }


def secondary(properties: Mapping[str, Any], path: Path) -> list[PropertyProblem]:
    """Return the refusal of more than one address."""
    listed = properties.get("PrivateIpAddresses")
    if not isinstance(listed, list) or len(listed) + (properties.get("PrivateIpAddress") is not None) < 2:
        return []
    message = f"'PrivateIpAddresses' can not be honoured: {ONE_ADDRESS}"
    return [PropertyProblem(code="REFUSED", message=message, path=(*path, "PrivateIpAddresses"))]


def primary(properties: Mapping[str, Any]) -> str:
    """Return the address that is asked for in a subnet, empty where none is."""
    listed = properties.get("PrivateIpAddresses") or [{}]
    return str(properties.get("PrivateIpAddress") or listed[0].get("PrivateIpAddress") or "")


def parts(properties: Mapping[str, Any]) -> list[Part]:
    """Return the networks that an instance names."""
    given = _interfaces(properties) or [properties]
    return [_part(each) for each in given if each.get("SubnetId") or each.get("NetworkInterfaceId")]


def _part(given: Mapping[str, Any]) -> Part:
    if given.get("NetworkInterfaceId"):
        return Part(port=str(given["NetworkInterfaceId"]))
    subnet = str(given["SubnetId"])
    return Part(inside=subnet, fixed=primary(given)) if of_stack(subnet) else Part()


def ports(services: Services, properties: Mapping[str, Any]) -> list[ResourceRecord]:
    """Return the interfaces of others that an instance takes; ResourceFailed when no stack has one."""
    found = []
    for each in _interfaces(properties):
        if not each.get("NetworkInterfaceId"):
            continue
        one = services.find(str(each["NetworkInterfaceId"]))
        if one is None or "interface" not in one.data:
            raise ResourceFailed(f"no stack has the network interface {each['NetworkInterfaceId']}")
        found.append(one)
    return found


def group_names(services: Services, properties: Mapping[str, Any]) -> list[Any]:
    """Return the security groups that an instance and its interfaces name."""
    named = [each for key in ("SecurityGroupIds", "SecurityGroups") for each in properties.get(key) or []]
    named += [each for one in _interfaces(properties) for each in one.get("GroupSet") or []]
    return named + [each for one in ports(services, properties) for each in one.attributes["security_groups"]]


def fitting(context: Context, groups: list[Any], vpc: str) -> None:
    """ResourceFailed when one of these security groups is of another VPC."""
    for name in groups:
        one = context.services.find(str(name))
        if one is not None and one.data.get("vpc", vpc) != vpc:
            raise ResourceFailed(f"the security group {one.physical} is of another VPC than the guest")


def _first(record: ResourceRecord) -> Mapping[str, str] | None:
    return next(iter(record.data.get("interfaces", ())), None)


def vpc_of(context: Context, record: ResourceRecord) -> str:
    """Return the VPC of a guest; empty where it is in none."""
    first = _first(record)
    router = router_of(context.services, first["subnet"]) if first is not None else None
    return router.physical if router is not None and "cidr" in router.data else ""


def wants_public(context: Context) -> bool:
    """Tell whether an instance that is made now gets an address outside: as its first interface says, or its subnet."""
    given = _interfaces(context.properties)
    if given and (said := given[0].get("AssociatePublicIpAddress")) is not None:
        return bool(said)
    first = _first(context.record)
    if first is None or first["owner"] != context.token:
        return False  # the interface is there already, with what addresses it has
    subnet = context.services.find(first["subnet"])
    return bool(subnet is not None and subnet.properties.get("MapPublicIpOnLaunch"))


async def publish(context: Context) -> None:
    """Give a guest an address outside at its VPC's router, for as long as it is there; the same again after a crash."""
    record, services = context.record, context.services
    first = _first(record)
    if first is None:
        return  # in the guests' own network, as the plan says
    router = router_of(services, first["subnet"])
    if router is None:
        raise ResourceFailed("the subnet has no router, so nobody in it has an address outside")
    record.data.update(published=True, router=router.physical)
    services.save(record)
    address = await services.platform.allocate_address(f"{context.token}{LAUNCH}")
    await stand(context, router, f"{record.id}{LAUNCH}", first, address)


async def withdraw(context: Context) -> None:
    """Take back what `publish` gave."""
    record, services = context.record, context.services
    if not record.data.get("published"):
        return
    if router := services.find(str(record.data.get("router", ""))):
        await stand(context, router, f"{record.id}{LAUNCH}", record.data["interfaces"][0], "")
    await services.platform.release_address(f"{context.token}{LAUNCH}")


def addresses(record: ResourceRecord, services: Services) -> tuple[str, str]:
    """Return a guest's first address in its VPC, and the one outside that stands for it, empty where none does."""
    first = record.data["interfaces"][0]
    own = str(first["address"]).partition("/")[0]
    router = router_of(services, first["subnet"])
    outer = [] if router is None else [address for address, inner, _ in standing(router.data) if inner == own]
    return own, next(iter(outer), "")
