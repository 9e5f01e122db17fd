"""What a router of a stack is told, be it one of Neutron's or that of an EC2 VPC.

Its record holds what others bring to it, each under the id of the record that brings it: `data["interfaces"]` the subnets,
`data["gateways"]` that it leads to the guests' own network, `data["floating"]` addresses there and what they stand for
(address, address inside, subnet). That of a VPC has `data["cidr"]` besides, and says who may go outside: `data["routes"]`
(route table, range outside, gateway) and `data["associations"]` (subnet, route table). The platform is always told all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.types.base import Context, ResourceFailed, Services

_WAIT = 600.0
LAUNCH = ".launch"
"""Ends the owner of an address that a guest was given when it was made: an elastic one takes its place."""


def bring(router: ResourceRecord, what: str, owner: str, value: Any) -> None:
    """Note what an owner brings to a router; None for nothing. What is brought anew counts as the newest."""
    kept = {key: other for key, other in router.data.get(what, {}).items() if key != owner}
    router.data[what] = kept if value is None else {**kept, owner: value}


async def take_back(context: Context, what: str, router: Any) -> None:
    """Let the router of an id, where there is one, be without what this record brought to it."""
    if one := context.services.find(str(router)):
        bring(one, what, context.record.id, None)
        await settle(context, one)


async def settle(context: Context, router: ResourceRecord) -> None:
    """Let a router become what its record says; durable before anything is made."""
    services = context.services
    async with services.lock(router.id):
        if router.data.get("gone"):
            return
        await services.keep(router)
        subnets = [str(name) for name in router.data.get("interfaces", {}).values()]
        told: dict[str, Any] = {}
        if "cidr" in router.data:
            told = {"ways": ways(router.data), "within": router.data["cidr"]}
        await services.platform.networks.put_router(
            router.physical,
            subnets,
            outside=bool(router.data.get("gateways")),
            floating=[(outer, inner) for outer, inner, subnet in standing(router.data) if subnet in subnets],
            **told,
        )


def standing(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the addresses that stand for something: address, address inside, subnet."""
    floating = data.get("floating", {})
    elastic = {inner for owner, (_, inner, _) in floating.items() if not owner.endswith(LAUNCH)}
    return [
        (outer, inner, subnet)
        for owner, (outer, inner, subnet) in floating.items()
        if not (owner.endswith(LAUNCH) and inner in elastic)
    ]


def ways(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the subnets that have a way outside, each with the range that it leads to. A route to a gateway that is not
    attached leads nowhere; of several associations of a subnet the newest counts, as while one is replaced."""
    attached = set(data.get("gateways", {}).values())
    tables = dict(pair for pair in data.get("associations", {}).values())
    return [
        (subnet, destination)
        for subnet, table in tables.items()
        for other, destination, gateway in data.get("routes", {}).values()
        if other == table and gateway in attached
    ]


async def remove(context: Context, router: str) -> None:
    """Remove the router of a record."""
    record, services = context.record, context.services
    async with services.lock(record.id):
        record.data["gone"] = True  # an address that stands for something here may be taken back at the same time
        services.save(record)
        await services.platform.networks.remove_router(router)


async def float_to(context: Context, interface: Mapping[str, str], address: str) -> ResourceRecord:
    """Let an address of the guests' network stand for an interface, at the router of its subnet; return that router. Waits
    for a router that is just being connected."""
    services = context.services

    def router() -> ResourceRecord | None:
        one = router_of(services, interface["subnet"])
        return one if one is not None and one.data.get("gateways") else None

    try:
        one = await context.until(router, deadline=services.now() + _WAIT)
    except ResourceFailed:
        raise ResourceFailed("no router leads from the port's subnet to the guests' own network") from None
    assert isinstance(one, ResourceRecord)
    context.record.data["router"] = one.physical
    services.save(context.record)
    await stand(context, one, context.record.id, interface, address)
    return one


async def stand(
    context: Context, router: ResourceRecord, owner: str, interface: Mapping[str, str], address: str
) -> None:
    """Let an address stand for an interface at a router, in the name of an owner; an empty one no longer."""
    plain = [text.partition("/")[0] for text in (address, interface["address"])]
    bring(router, "floating", owner, [*plain, interface["subnet"]] if address else None)
    await settle(context, router)


async def unfloat(context: Context) -> None:
    """Take back what `float_to` did."""
    await take_back(context, "floating", context.record.data.pop("router", ""))


def router_of(services: Services, subnet: str) -> ResourceRecord | None:
    """Return the router of a subnet; None while it has none."""
    found = services.find(subnet)
    return services.find(str(found.data.get("router", ""))) if found is not None else None
