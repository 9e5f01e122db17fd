"""The guest that a load balancer runs in: one assembly of the stack's deployable, with haproxy as its service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pcloud.model.deployable import Assembly, Resource
from pcloud.stacks.guests import assemblies
from pcloud.stacks.types.base import Context
from pcloud.stacks.types.networks import interfaces, join, leave
from pcloud.stacks.types.security_groups import member_of, surround, walls
from pcloud.stacks.types.vpc_instances import addresses, fitting, publish, vpc_of, withdraw

IMAGE = "bookworm"
PACKAGES = ("haproxy", "socat")


async def make(
    context: Context, *, subnets: Sequence[str] = (), groups: Sequence[Any] = (), public: bool = False
) -> None:
    """Make the guest of a balancer and wait until it runs. In subnets of a stack it has an address in each, its groups, and
    an address outside where it is public."""
    _, name = assemblies.place(context)
    record, services = context.record, context.services
    joined = [
        {**await join(context, subnet, f"{context.token}.{index}"), "owner": context.token}
        for index, subnet in enumerate(subnets)
    ]
    record.data["interfaces"] = joined
    services.save(record)
    if joined:
        enter(context, groups)
        if public:
            await publish(context)
    service = Resource(name="haproxy", resource_class="systemd", type="haproxy", monitor_interval=10.0)
    wanted = Assembly(
        name=name,
        image=IMAGE,
        packages=PACKAGES,
        resources=(service,),
        interfaces=interfaces(record),
        **walls(services, record.data.get("groups", ())),
    )
    await assemblies.put(context, wanted)
    status = await assemblies.running(context)
    if record.data.get("groups"):
        await surround(context, record)  # rules may have changed while it was made
    own, outer = addresses(record, services) if joined else (status.address, "")
    record.physical = str(context.properties.get("LoadBalancerName") or context.physical_name())
    record.attributes = {**record.attributes, "address": outer or own}
    services.save(record)


def enter(context: Context, groups: Sequence[Any]) -> None:
    """Note the security groups of a balancer in a VPC; ResourceFailed when they are none, or of another."""
    fitting(context, list(groups), vpc_of(context, context.record))
    context.record.data["groups"] = member_of(context.services, groups)
    context.services.save(context.record)


async def remove(context: Context) -> None:
    """Remove the guest of a balancer, and what it has in networks of stacks."""
    await withdraw(context)
    await assemblies.remove(context)
    await leave(context)
