"""Addresses of both languages: further addresses of guests, from the guests' own network, that move between them.

An elastic or floating address is one more address of the guest that it is associated with; the guest keeps its own. A port
is an address that a server takes when it is made. Associating needs no restart; what a guest has survives its restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.environment.infrastructure import Capability
from pcloud.stacks.guests import assemblies
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services, known
from pcloud.stacks.types.networks import own_id
from pcloud.stacks.types.routing import float_to, unfloat

_ONE_NETWORK = "guests share one network that gives the addresses"
_WAIT = 600.0
PORT = "OS::Neutron::Port"


class Address(ResourceType):
    """Base: an address of the guests' network, kept until it is deleted."""

    needs = frozenset({"guests", "addresses"})

    def wanted(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """Return the address that is asked for, None where none is, and the path of its property."""
        return None, ()

    def claims(self, properties: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
        """The one address."""
        return claim(*self.wanted(properties))

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Addresses can be asked for only where the infrastructure lets them."""
        return not_fixed(*self.wanted(properties), platform)

    async def take(self, context: Context) -> str:
        """Take an address (the same again after a crash); return it."""
        asked = self.wanted(context.properties)[0] or ""
        await self._begin_there(context)
        given = await context.services.platform.allocate_address(context.token, str(asked))
        context.record.data["address"] = given
        return given.partition("/")[0]

    @staticmethod
    async def _begin_there(context: Context) -> None:
        """Note where the address is taken before it is: there it is given back, whatever the settings say then."""
        data, now = context.record.data, context.services.platform.infrastructure
        if "infrastructure" not in data:
            data["infrastructure"] = now
            await context.services.keep(context.record)
        elif data["infrastructure"] != now:
            raise ResourceFailed(
                f"its address was to be one of {data['infrastructure']}; by the settings it is {now} now"
            )

    async def delete(self, context: Context) -> None:
        """Take it off its guest and give it back."""
        await detach(context, context.record.data.get("address", ""))
        await context.services.platform.release_address(context.token, context.record.data.get("infrastructure", ""))


def claim(address: Any, path: tuple[str | int, ...]) -> dict[str, tuple[str | int, ...]]:
    """Return what one property claims; nothing while it is not known."""
    return {str(address): path} if known(address) else {}


def not_fixed(address: Any, path: tuple[str | int, ...], platform: Platform) -> list[PropertyProblem]:
    """Return the refusal of an address that is asked for where none can be."""
    if address is None or Capability.FIXED_ADDRESSES in platform.capabilities:
        return []
    sentence = f"'{path[-1]}' can not be honoured: this platform gives the addresses"
    return [PropertyProblem(code="REFUSED", message=sentence, path=path)]


async def attach(context: Context, target: ResourceRecord, held: ResourceRecord) -> None:
    """Give a guest the address of a resource; waits for a guest that is being made."""
    record, address = context.record, held.data["address"]
    if target.data.get("interfaces"):
        raise ResourceFailed(f"{target.name} is in a network of a stack: give its port a floating address")

    async def there() -> bool:
        place = context.services.place_of(target)
        return place is not None and await assemblies.stored(context, place) is not None

    await context.until(there, deadline=context.services.now() + _WAIT)
    place = context.services.place_of(target)
    assert place is not None
    record.data["at"] = list(place)
    context.services.save(record)
    found = await assemblies.stored(context, place)
    if found is None:
        raise ResourceFailed(f"the guest of {target.name} is gone")
    await _check_there(context, place[0], held)
    await assemblies.change_at(
        context, place, lambda one: {"addresses": tuple(dict.fromkeys((*one.addresses, address)))}
    )
    await context.services.platform.settle(*place)


async def _check_there(context: Context, deployable: str, held: ResourceRecord) -> None:
    """ResourceFailed when an address is not one of the infrastructure that the guests of a deployable are on."""
    definition = await context.services.platform.definition(deployable)
    taken = held.data.get("infrastructure")
    if definition is not None and taken and taken != definition.infrastructure:
        raise ResourceFailed(f"the address is one of {taken}, the guest is on {definition.infrastructure}")


async def detach(context: Context, address: str) -> None:
    """Take an address off the guest or router that has it, if it is still there."""
    data, services = context.record.data, context.services
    await unfloat(context)
    if port := services.find(str(data.get("port", ""))):
        port.data["floating"] = [other for other in port.data.get("floating", []) if other != address]
        services.save(port)
        server = server_of(services, port.physical)
        if "at" not in data and server is not None and (taken := services.place_of(server)):
            data["at"] = list(taken)
    place = data.get("at")
    if not place or not address:
        return
    if await assemblies.stored(context, (place[0], place[1])) is not None:
        await assemblies.change_at(
            context, (place[0], place[1]), lambda one: {"addresses": tuple(a for a in one.addresses if a != address)}
        )
        await context.services.platform.settle(place[0], place[1])
    context.record.data.pop("at", None)


def server_of(services: Services, reference: Any) -> ResourceRecord | None:
    """Return the server that an id means: its own, or that of its port."""
    found = services.find(str(reference)) if reference else None
    if found is not None and "server" in found.data:
        return services.find(str(found.data["server"]))
    return found


class ElasticIp(Address):
    """AWS::EC2::EIP."""

    names = ("AWS::EC2::EIP",)
    attributes = frozenset({"AllocationId", "InstanceId", "PublicIp"})
    schema: ClassVar[Schema] = {
        "Domain": text(allowed=("vpc", "standard"), inert="there is one kind of address"),
        "InstanceId": text(on_change=OnChange.UPDATE),
        "Tags": listing(on_change=OnChange.NOTHING),
    }

    async def create(self, context: Context) -> None:
        """Take an address, and give it to the instance where one is named."""
        record = context.record
        record.physical = await self.take(context)
        record.data["reference"] = own_id("eipalloc", record)  # it is found by that as well
        record.attributes = {"AllocationId": record.data["reference"], "PublicIp": record.physical}
        await self._give(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Give it to another instance, or to none."""
        await detach(context, context.record.data["address"])
        await self._give(context)

    @staticmethod
    async def _give(context: Context) -> None:
        record, instance = context.record, context.properties.get("InstanceId")
        record.attributes = {**record.attributes, "InstanceId": instance or ""}
        if instance:
            await give_to_port(context, str(instance), record)


class ElasticIpAssociation(ResourceType):
    """AWS::EC2::EIPAssociation."""

    names = ("AWS::EC2::EIPAssociation",)
    needs = frozenset({"guests", "addresses"})
    schema: ClassVar[Schema] = {
        "EIP": text(),
        "AllocationId": text(),
        "InstanceId": text(),
        "NetworkInterfaceId": text(),
        "PrivateIpAddress": text(refused="an interface has one address here"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """An address and an instance."""
        found = []
        if not properties.get("EIP") and not properties.get("AllocationId"):
            found.append(
                PropertyProblem(code="MISSING_PROPERTY", message="EIP or AllocationId is needed", path=("EIP",))
            )
        if not properties.get("InstanceId") and not properties.get("NetworkInterfaceId"):
            message = "InstanceId or NetworkInterfaceId is needed"
            found.append(PropertyProblem(code="MISSING_PROPERTY", message=message, path=("InstanceId",)))
        return found

    async def create(self, context: Context) -> None:
        """Give the address to the instance, or to one interface of it."""
        given = context.properties
        held = holder_of(context, given.get("EIP") or given.get("AllocationId"))
        context.record.physical = context.physical_name()
        context.record.data["address"] = held.data["address"]
        await give_to_port(context, str(given.get("NetworkInterfaceId") or given["InstanceId"]), held)

    async def delete(self, context: Context) -> None:
        """Take it off."""
        await detach(context, context.record.data.get("address", ""))


class FloatingIp(Address):
    """OS::Neutron::FloatingIP."""

    names = ("OS::Neutron::FloatingIP", "OS::Nova::FloatingIP")
    attributes = frozenset({"floating_ip_address", "fixed_ip_address", "port_id", "router_id", "show", "ip", "pool"})
    schema: ClassVar[Schema] = {
        "floating_network": text(inert=_ONE_NETWORK),
        "floating_network_id": text(inert=_ONE_NETWORK),
        "floating_subnet": text(inert=_ONE_NETWORK),
        "pool": text(inert=_ONE_NETWORK),
        "port_id": text(),
        "fixed_ip_address": text(inert=_ONE_NETWORK),
        "floating_ip_address": text(),
        "dns_name": text(refused="there is no name service (Designate) behind this API"),
        "dns_domain": text(refused="there is no name service (Designate) behind this API"),
        "value_specs": mapping(refused="there is no Neutron behind this API"),
    }

    def wanted(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """By its own name."""
        return properties.get("floating_ip_address"), ("floating_ip_address",)

    async def create(self, context: Context) -> None:
        """Take an address; a port's server gets it now, or when it is made."""
        record = context.record
        address = await self.take(context)
        record.physical = context.token
        port = context.properties.get("port_id")
        record.attributes = {
            "floating_ip_address": address,
            "ip": address,
            "fixed_ip_address": "",
            "port_id": port or "",
            "router_id": "",
            "pool": "guests",
        }
        if port:
            record.attributes |= await give_to_port(context, str(port), record)


class FloatingIpAssociation(ResourceType):
    """OS::Neutron::FloatingIPAssociation and Nova's."""

    names = ("OS::Neutron::FloatingIPAssociation", "OS::Nova::FloatingIPAssociation")
    needs = frozenset({"guests", "addresses"})
    schema: ClassVar[Schema] = {
        "floatingip_id": text(),
        "floating_ip": text(),
        "port_id": text(),
        "server_id": text(),
        "fixed_ip_address": text(inert=_ONE_NETWORK),
    }

    async def create(self, context: Context) -> None:
        """Give the address to the port's server."""
        given = context.properties
        held = holder_of(context, given.get("floatingip_id") or given.get("floating_ip"))
        context.record.physical = context.token
        context.record.data["address"] = held.data["address"]
        await give_to_port(context, str(given.get("port_id") or given.get("server_id")), held)

    async def delete(self, context: Context) -> None:
        """Take it off."""
        await detach(context, context.record.data.get("address", ""))


async def give_to_port(context: Context, reference: str, held: ResourceRecord) -> dict[str, str]:
    """Give the address of a resource to a port (and to its server, once that is there) or to a server. In a network that a
    stack made it stands for theirs at the router. Return what else is known of it then."""
    found, address = wanted(context, reference), str(held.data["address"])
    interface = found.data.get("interface") or next(iter(found.data.get("interfaces", ())), None)
    if interface is not None:
        router = await float_to(context, interface, address)
        inner = interface["address"].partition("/")[0]
        return {"fixed_ip_address": inner, "router_id": router.physical}
    if found.type == PORT and "server" not in found.data:
        found.data["floating"] = list(dict.fromkeys((*found.data.get("floating", []), address)))
        context.record.data["port"] = found.physical
        context.services.save(found)
        return {}
    server = server_of(context.services, reference)
    if server is None:
        raise ResourceFailed(f"there is no server with the port {reference}")
    await attach(context, server, held)
    return {}


def wanted(context: Context, reference: Any) -> ResourceRecord:
    """Return the resource of an id; ResourceFailed when no stack has it."""
    found = context.services.find(str(reference))
    if found is None:
        raise ResourceFailed(f"no stack has the resource {reference}")
    return found


def holder_of(context: Context, reference: Any) -> ResourceRecord:
    """Return an address resource, named by its id or by the address."""
    found = context.services.find(str(reference))
    if found is None or "address" not in found.data:
        raise ResourceFailed(f"no stack has the address {reference}")
    return found


TYPES: tuple[type[ResourceType], ...] = (
    ElasticIp,
    ElasticIpAssociation,
    FloatingIp,
    FloatingIpAssociation,
)
