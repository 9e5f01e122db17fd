"""OS::Neutron::Port: an address that a server takes, in the guests' own network or in one that a stack made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.environment.infrastructure import Capability
from pcloud.stacks.platform import Platform
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, listing, text
from pcloud.stacks.types.addresses import PORT, Address
from pcloud.stacks.types.base import Context, ResourceType
from pcloud.stacks.types.networks import join, leave, of_stack

_LABEL = "it is a label, as in Neutron: a port is the server's that names it in its networks"


class Port(Address):
    """OS::Neutron::Port."""

    names = (PORT,)
    needs = frozenset({"guests", Capability.ADDRESSES, Capability.NETWORK})
    attributes = frozenset(
        {
            "fixed_ips",
            "network_id",
            "mac_address",
            "status",
            "show",
            "security_groups",
            "device_id",
            "device_owner",
            "name",
            "tenant_id",
            "admin_state_up",
        }
    )
    schema: ClassVar[Schema] = {
        "network": text(),
        "network_id": text(),
        "name": text(on_change=OnChange.UPDATE),
        "fixed_ips": listing(
            fields={
                "subnet": text(),
                "subnet_id": text(),
                "ip_address": text(),
            }
        ),
        "security_groups": listing(),
        "admin_state_up": boolean(default=True, allowed=(True,)),
        "device_id": text(on_change=OnChange.UPDATE, inert=_LABEL),
        "device_owner": text(on_change=OnChange.UPDATE, inert=_LABEL),
        "mac_address": text(refused="guests have one interface"),
        "allowed_address_pairs": listing(inert="a guest may use any address"),
        "port_security_enabled": boolean(inert="a guest may use any address"),
        "replacement_policy": text(on_change=OnChange.NOTHING),
        "binding:vnic_type": text(inert="guests have one interface"),
        "value_specs": anything(refused="there is no Neutron behind this API"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """It has one address."""
        asked = properties.get("fixed_ips")
        if not isinstance(asked, list) or len(asked) < 2:
            return []
        return [PropertyProblem(code="REFUSED", message="a port has one address here", path=("fixed_ips", 1))]

    def wanted(self, properties: Mapping[str, Any]) -> tuple[Any, tuple[str | int, ...]]:
        """That of its first fixed address."""
        asked = properties.get("fixed_ips")
        first = asked[0] if isinstance(asked, list) and asked else None
        return first.get("ip_address") if isinstance(first, Mapping) else None, ("fixed_ips", 0, "ip_address")

    def inside(self, properties: Mapping[str, Any]) -> Any:
        """Return the network or subnet of a stack that it is in; None where it is in the guests' own network."""
        asked = properties.get("fixed_ips")
        first = asked[0] if isinstance(asked, list) and asked and isinstance(asked[0], Mapping) else {}
        named = (first.get("subnet"), first.get("subnet_id"), properties.get("network"), properties.get("network_id"))
        return next((each for each in named if each is not None and of_stack(each)), None)

    def claims(self, properties: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
        """Of the guests' own network."""
        return {} if self.inside(properties) is not None else super().claims(properties)

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Only of the guests' own network an address may not be asked for."""
        return [] if self.inside(properties) is not None else super().check_on(properties, platform)

    async def create(self, context: Context) -> None:
        """Take an address."""
        record = context.record
        record.physical = context.token
        network = subnet = "guests"
        if inside := self.inside(context.properties):
            asked = str(self.wanted(context.properties)[0] or "")
            interface = await join(context, str(inside), context.token, asked)
            record.data["interface"] = interface
            address = interface["address"].partition("/")[0]
            network, subnet = interface["network"], interface["subnet"]
        else:
            address = await self.take(context)
        record.attributes = {
            "name": context.properties.get("name") or context.physical_name(),
            "admin_state_up": True,
            "fixed_ips": [{"ip_address": address, "subnet_id": subnet}],
            "network_id": network,
            "status": "ACTIVE",
            "mac_address": "",
            "tenant_id": "admin",
            **_labels(context.properties),
            "security_groups": context.properties.get("security_groups") or [],
        }

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Take the other name and labels."""
        given = context.properties
        name = given.get("name") or context.physical_name()
        context.record.attributes = {**context.record.attributes, "name": name, **_labels(given)}

    async def delete(self, context: Context) -> None:
        """Give its address back."""
        await leave(context)
        await super().delete(context)


def _labels(properties: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(properties.get(key) or "") for key in ("device_id", "device_owner")}


TYPES: tuple[type[ResourceType], ...] = (Port,)
