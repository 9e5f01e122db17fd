"""OS::Neutron::Router, RouterInterface and RouterGateway: what lets the guests of several networks reach each other.

What others bring to a router is in its record, see `routing`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, listing, mapping, text
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.networks import NEEDS, NO_NEUTRON, OnHost, Subnet, found, of_stack, own_id
from pcloud.stacks.types.routing import bring, remove, settle, take_back

_NOTHING = OnChange.NOTHING
_OUTSIDE = "a router leads outside to the guests' own network only"
_ONE_HOST = "there is one host"


class Router(OnHost):
    """A router."""

    names = ("OS::Neutron::Router",)
    attributes = frozenset({"name", "status", "external_gateway_info", "admin_state_up", "tenant_id", "show"})
    schema: ClassVar[Schema] = {
        "name": text(on_change=_NOTHING),
        "external_gateway_info": mapping(
            on_change=OnChange.UPDATE,
            fields={
                "network": text(required=True),
                "enable_snat": boolean(default=True, allowed=(True,)),
                "external_fixed_ips": listing(refused="its address is given by the guests' network"),
            },
        ),
        "admin_state_up": boolean(default=True, allowed=(True,)),
        "distributed": boolean(inert=_ONE_HOST),
        "ha": boolean(inert=_ONE_HOST),
        "l3_agent_id": text(inert=_ONE_HOST),
        "l3_agent_ids": listing(inert=_ONE_HOST),
        "availability_zone_hints": listing(inert=_ONE_HOST),
        "tags": listing(on_change=_NOTHING),
        "value_specs": anything(refused=NO_NEUTRON),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """Outside is not another network of a stack."""
        info = properties.get("external_gateway_info")
        network = info.get("network") if isinstance(info, Mapping) else None
        return _outward(network, ("external_gateway_info", "network"))

    async def create(self, context: Context) -> None:
        """Make it."""
        record = context.record
        record.physical = own_id("router", record)
        await self.update(context, {}, frozenset())

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Lead it outside, or no longer."""
        record = context.record
        info = context.properties.get("external_gateway_info")
        bring(record, "gateways", record.id, True if info else None)
        record.attributes = {
            "name": context.properties.get("name") or context.physical_name(),
            "status": "ACTIVE",
            "external_gateway_info": info or {},
            "admin_state_up": True,
            "tenant_id": "pcloud",
        }
        await settle(context, record)

    async def delete(self, context: Context) -> None:
        """Remove it."""
        await remove(context, own_id("router", context.record))


class RouterInterface(ResourceType):
    """A subnet's place at a router."""

    names = ("OS::Neutron::RouterInterface",)
    needs = NEEDS
    schema: ClassVar[Schema] = {
        "router": text(),
        "router_id": text(),
        "subnet": text(),
        "subnet_id": text(),
        "port": text(refused="name the subnet: the router has its gateway's address there"),
        "port_id": text(refused="name the subnet: the router has its gateway's address there"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A router and a subnet."""
        return _named(properties, "router", "subnet")

    async def create(self, context: Context) -> None:
        """Connect them."""
        record, services = context.record, context.services
        router = _router(context)
        subnet = found(context, str(context.properties.get("subnet") or context.properties.get("subnet_id")), Subnet)
        if not subnet.data["gateway"]:
            raise ResourceFailed(f"the subnet {subnet.name} has no gateway address for a router")
        if subnet.data.get("router") not in (None, router.physical):
            raise ResourceFailed(f"the subnet {subnet.name} has a router already")
        range_ = ipaddress.IPv4Network(subnet.data["cidr"])
        for name in router.data.get("interfaces", {}).values():
            other = services.find(name)
            if other is not None and other is not subnet and range_.overlaps(ipaddress.IPv4Network(other.data["cidr"])):
                raise ResourceFailed(f"{range_} overlaps {other.data['cidr']}, which the router has too")
        record.physical = f"{router.physical}:subnet_id={subnet.physical}"
        record.data.update(router=router.physical, subnet=subnet.physical)
        services.save(record)
        subnet.data["router"] = router.physical
        services.save(subnet)
        bring(router, "interfaces", record.id, subnet.physical)
        await settle(context, router)

    async def delete(self, context: Context) -> None:
        """Part them."""
        data, services = context.record.data, context.services
        if subnet := services.find(str(data.get("subnet", ""))):
            subnet.data.pop("router", None)
            services.save(subnet)
        await take_back(context, "interfaces", data.get("router", ""))


class RouterGateway(ResourceType):
    """A router's way outside, as older templates write it."""

    names = ("OS::Neutron::RouterGateway",)
    needs = NEEDS
    schema: ClassVar[Schema] = {
        "router": text(),
        "router_id": text(),
        "network": text(),
        "network_id": text(),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """A router, and a network outside."""
        key = "network" if properties.get("network") is not None else "network_id"
        return [*_named(properties, "router", "network"), *_outward(properties.get(key), (key,))]

    async def create(self, context: Context) -> None:
        """Lead the router outside."""
        router = _router(context)
        context.record.physical = f"{router.physical}:outside"
        context.record.data["router"] = router.physical
        context.services.save(context.record)
        bring(router, "gateways", context.record.id, True)
        await settle(context, router)

    async def delete(self, context: Context) -> None:
        """No longer."""
        await take_back(context, "gateways", context.record.data.get("router", ""))


def _named(properties: Mapping[str, Any], *keys: str) -> list[PropertyProblem]:
    return [
        PropertyProblem(code="MISSING_PROPERTY", message=f"'{key}' is needed", path=(key,))
        for key in keys
        if properties.get(key) is None and properties.get(f"{key}_id") is None
    ]


def _outward(network: Any, path: tuple[str, ...]) -> list[PropertyProblem]:
    if network is None or not of_stack(network):
        return []
    return [PropertyProblem(code="REFUSED", message=_OUTSIDE, path=path)]


def _router(context: Context) -> ResourceRecord:
    return found(context, str(context.properties.get("router") or context.properties.get("router_id")), Router)


TYPES: tuple[type[ResourceType], ...] = (Router, RouterInterface, RouterGateway)
