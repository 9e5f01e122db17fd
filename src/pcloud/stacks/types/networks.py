"""OS::Neutron::Net and Subnet: networks that a stack makes, apart from the guests' own and from each other.

A network's id begins with `net-`, a subnet's with `subnet-`: a template that names another network means the guests' own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure.lxc_segments import Subnet as Addresses
from pcloud.model.deployable import Interface
from pcloud.stacks.functions.evaluation import Unknown
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord, short_hash
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, known

NEEDS = frozenset({"guests", Capability.NETWORKS})
_NOTHING = OnChange.NOTHING
_ONE_PROJECT = "there is one project"
NO_NEUTRON = "there is no Neutron behind this API"
_WAIT = 600.0


class OnHost(ResourceType):
    """Base of what this host has under the physical id: networks and routers."""

    needs = NEEDS

    async def drift(self, context: Context) -> dict[str, Any] | None:
        """None when this host has it no more."""
        return {} if await context.services.platform.networks.stands(context.record.physical) else None


class Net(OnHost):
    """A network of its own."""

    names = ("OS::Neutron::Net",)
    attributes = frozenset({"name", "status", "subnets", "admin_state_up", "tenant_id", "mtu", "show", "segments"})
    schema: ClassVar[Schema] = {
        "name": text(on_change=_NOTHING),
        "admin_state_up": boolean(default=True, allowed=(True,)),
        "shared": boolean(inert=_ONE_PROJECT),
        "tenant_id": text(inert=_ONE_PROJECT),
        "port_security_enabled": boolean(inert="a guest may use any address"),
        "availability_zone_hints": listing(inert="there is one host"),
        "dhcp_agent_ids": listing(inert="guests are given their addresses"),
        "tags": listing(on_change=_NOTHING),
        "dns_domain": text(refused="there is no name service (Designate) behind this API"),
        "qos_policy": text(refused=NO_NEUTRON),
        "value_specs": anything(refused=NO_NEUTRON),
    }

    async def create(self, context: Context) -> None:
        """Make it."""
        record = context.record
        record.physical = own_id("net", record)
        await context.services.platform.networks.make_network(record.physical)
        record.attributes = {
            "name": context.properties.get("name") or context.physical_name(),
            "status": "ACTIVE",
            "admin_state_up": True,
            "tenant_id": "pcloud",
            "mtu": 1500,
            "segments": [],
        }

    async def delete(self, context: Context) -> None:
        """Remove it."""
        await context.services.platform.networks.remove_network(own_id("net", context.record))

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Any) -> Any:
        """Its subnets are those that are there now."""
        if name == "subnets":
            return list(record.data.get("subnets", ()))
        return super().attribute(record, name, path, services)


class Subnet(ResourceType):
    """A range of addresses of a network."""

    names = ("OS::Neutron::Subnet",)
    needs = NEEDS
    attributes = frozenset(
        {
            "name",
            "network_id",
            "cidr",
            "gateway_ip",
            "allocation_pools",
            "ip_version",
            "enable_dhcp",
            "tenant_id",
            "show",
        }
    )
    schema: ClassVar[Schema] = {
        "network": text(),
        "network_id": text(),
        "cidr": text(required=True),
        "gateway_ip": text(),
        "allocation_pools": listing(fields={"start": text(required=True), "end": text(required=True)}),
        "ip_version": integer(default=4, allowed=(4,)),
        "name": text(on_change=_NOTHING),
        "enable_dhcp": boolean(inert="guests are given their addresses"),
        "dns_nameservers": listing(inert="guests resolve names as their image does"),
        "tenant_id": text(inert=_ONE_PROJECT),
        "tags": listing(on_change=_NOTHING),
        "host_routes": listing(refused="guests have the way to their router"),
        "subnetpool": text(refused="there are no pools of subnets; write the cidr"),
        "prefixlen": integer(refused="there are no pools of subnets; write the cidr"),
        "segment": text(refused=NO_NEUTRON),
        "value_specs": anything(refused=NO_NEUTRON),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Addresses of version 4, its router and pools among them."""
        found = []
        if properties.get("network") is None and properties.get("network_id") is None:
            found.append(PropertyProblem(code="MISSING_PROPERTY", message="'network' is needed", path=("network",)))
        asked = ("cidr", "gateway_ip", "allocation_pools")
        if properties.get("cidr") is None or not all(isinstance(properties.get(key), str | None) for key in asked[:2]):
            return found
        pools = properties.get("allocation_pools")
        if isinstance(pools, Unknown) or any(
            isinstance(value, Unknown) for each in pools or () for value in each.values()
        ):
            return found
        try:
            _addresses("", "", properties)
        except ValueError as problem:
            found.append(PropertyProblem(code="BAD_PROPERTY", message=str(problem), path=("cidr",)))
        return found

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """The guests' own network is another."""
        cidr = properties.get("cidr")
        if not known(cidr) or self.check(properties):
            return []
        why = platform.networks.refusal(str(cidr))
        return [PropertyProblem(code="ADDRESS", message=why, path=("cidr",))] if why else []

    async def create(self, context: Context) -> None:
        """Give its network the addresses."""
        record, services = context.record, context.services
        net = found(context, str(context.properties.get("network") or context.properties.get("network_id")), Net)
        record.physical = own_id("subnet", record)
        subnet = _addresses(record.physical, net.physical, context.properties)
        await services.platform.networks.make_subnet(subnet)
        record.data.update(network=net.physical, cidr=subnet.cidr, gateway=subnet.gateway)
        record.attributes = {
            "name": context.properties.get("name") or context.physical_name(),
            "network_id": net.physical,
            "cidr": subnet.cidr,
            "gateway_ip": subnet.gateway,
            "allocation_pools": [{"start": first, "end": last} for first, last in subnet.pools],
            "ip_version": 4,
            "enable_dhcp": False,
            "tenant_id": "pcloud",
        }
        services.save(record)
        net.data["subnets"] = list(dict.fromkeys((*net.data.get("subnets", ()), record.physical)))
        services.save(net)

    async def delete(self, context: Context) -> None:
        """Take the addresses away."""
        record, services = context.record, context.services
        if net := services.find(str(record.data.get("network", ""))):
            net.data["subnets"] = [name for name in net.data.get("subnets", ()) if name != record.physical]
            services.save(net)
        await services.platform.networks.remove_subnet(own_id("subnet", record))


def _addresses(name: str, network: str, given: Mapping[str, Any]) -> Addresses:
    """Read a subnet's properties; ValueError says what is wrong with them."""
    cidr = ipaddress.IPv4Network(str(given["cidr"]), strict=False)
    if not 8 <= cidr.prefixlen <= 29:
        raise ValueError(f"{cidr} must be between /8 and /29")
    wanted = given.get("gateway_ip")
    gateway = str(cidr[1]) if wanted is None else str(wanted)
    if gateway:
        _inside(gateway, cidr)
    pools = []
    for each in given.get("allocation_pools") or []:
        first, last = _inside(each["start"], cidr), _inside(each["end"], cidr)
        if last < first:
            raise ValueError(f"{first} to {last} is no range")
        pools.append((str(first), str(last)))
    return Addresses(name=name, network=network, cidr=str(cidr), gateway=gateway, pools=tuple(pools))


def _inside(text_: str, cidr: ipaddress.IPv4Network) -> ipaddress.IPv4Address:
    address = ipaddress.IPv4Address(str(text_))
    if address not in cidr or address in (cidr[0], cidr[-1]):
        raise ValueError(f"{address} is no address for anyone in {cidr}")
    return address


def found(context: Context, reference: str, *kinds: type[ResourceType]) -> ResourceRecord:
    """Return the resource of an id and one of the types; ResourceFailed when no stack has it."""
    record = context.services.find(reference)
    if record is None or not any(record.type in kind.names for kind in kinds):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kinds[0].__name__).lower()
        raise ResourceFailed(f"no stack has the {words} {reference}")
    return record


def subnet_of(context: Context, reference: str) -> ResourceRecord:
    """Return the subnet of an id, of either language; ResourceFailed when no stack has it."""
    record = context.services.find(reference)
    if record is None or not {"network", "cidr", "gateway"} <= record.data.keys():
        raise ResourceFailed(f"no stack has the subnet {reference}")
    return record


def own_id(kind: str, record: ResourceRecord) -> str:
    """Return the id of what a record stands for, whether that was made or not."""
    return f"{kind}-{short_hash(record.id, length=16)}"


def is_own_id(kind: str, reference: Any) -> bool:
    """Tell whether something is an id as `own_id` gives it."""
    return re.fullmatch(rf"{kind}-[a-z2-7]{{16}}", str(reference)) is not None


def of_stack(reference: Any) -> bool:
    """Tell whether a network or subnet is one that a stack made, or, while that is not known, may be."""
    return isinstance(reference, Unknown) or str(reference).startswith(("net-", "subnet-"))


def interfaces(record: ResourceRecord) -> tuple[Interface, ...]:
    """Return a guest's interfaces in networks of stacks, as its assembly has them."""
    return tuple(
        Interface(network=one["network"], address=one["address"], gateway=one["gateway"])
        for one in record.data.get("interfaces", ())
    )


async def join(context: Context, reference: str, holder: str, wanted: str = "") -> dict[str, str]:
    """Take an address in a network or subnet that a stack made; return what a guest's interface there is. Waits for the
    subnet of a network that is just being made."""
    services = context.services
    if reference.startswith("net-"):
        net = found(context, reference, Net)

        def subnets() -> list[str]:
            return list(net.data.get("subnets", ()))

        if not subnets() and not await _until(context, subnets):
            raise ResourceFailed(f"the network {net.name} has no subnet")
        reference = subnets()[0]
    subnet = subnet_of(context, reference)
    # Noted first: what is taken is given back, whatever comes between.
    context.record.data["held"] = {**context.record.data.get("held", {}), holder: subnet.physical}
    services.save(context.record)
    address = await services.platform.networks.take(subnet.physical, holder, wanted)
    return {
        "network": str(subnet.data["network"]),
        "subnet": subnet.physical,
        "address": address,
        "gateway": str(subnet.data["gateway"]),
    }


async def leave(context: Context) -> None:
    """Give back all addresses that `join` took."""
    for holder, subnet in context.record.data.get("held", {}).items():
        await context.services.platform.networks.give_back(subnet, holder)


async def _until(context: Context, check: Any) -> Any:
    try:
        return await context.until(check, deadline=context.services.now() + _WAIT)
    except ResourceFailed:
        return None


TYPES: tuple[type[ResourceType], ...] = (Net, Subnet)
