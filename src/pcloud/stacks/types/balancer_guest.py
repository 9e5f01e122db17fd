"""The guest that a load balancer runs in: one assembly of the stack's deployable, with haproxy as its service."""

from __future__ import annotations

from pcloud.model.deployable import Assembly, Resource
from pcloud.stacks.guests import assemblies
from pcloud.stacks.types.base import Context

IMAGE = "bookworm"
PACKAGES = ("haproxy", "socat")


async def make(context: Context) -> None:
    """Make the guest of a balancer and wait until it runs."""
    _, name = assemblies.place(context)
    service = Resource(name="haproxy", resource_class="systemd", type="haproxy", monitor_interval=10.0)
    await assemblies.put(context, Assembly(name=name, image=IMAGE, packages=PACKAGES, resources=(service,)))
    status = await assemblies.running(context)
    record = context.record
    record.physical = str(context.properties.get("LoadBalancerName") or context.physical_name())
    record.attributes = {**record.attributes, "address": status.address}
    context.services.save(record)


async def remove(context: Context) -> None:
    """Remove the guest of a balancer."""
    await assemblies.remove(context)
