"""Load balancers: guests of ours with haproxy. AWS::ElasticLoadBalancing::LoadBalancer is here, Octavia's objects beside it.

A balancer's configuration follows from its record and from the addresses that its instances have at that moment; it is
written into the guest whenever either changes, and whenever the guest was started again (`engine.balancing`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pcloud.environment.infrastructure import ExecResult
from pcloud.model.errors import PcloudError
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, mapping, text
from pcloud.stacks.types.balancer_guest import enter, make, remove
from pcloud.stacks.types.balancing import Balancer, Check, Listener, Server, configuration, read_target
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType
from pcloud.stacks.types.networks import of_stack
from pcloud.stacks.types.security_groups import surround
from pcloud.stacks.types.vpc_instances import listed_lacking, listed_problems, subnet_notes

_UPDATE = OnChange.UPDATE
FILE = "/etc/haproxy/haproxy.cfg"
_WRITE = (
    'umask 077 && cat >"$1.new" && haproxy -c -q -f "$1.new" && mv "$1.new" "$1" && systemctl reload-or-restart haproxy'
)
_NO_CERTIFICATES = "there is no certificate store; serve TLS in the instances with Protocol TCP"
READY_SECONDS = 300.0


class HaproxyBalancer(Balancer):
    """Base of balancers that have a guest."""

    needs = frozenset({"guests", "access"})

    def listeners(self, context: Context, servers: Mapping[str, str]) -> tuple[Listener, ...]:
        """Return what is served; `servers` is instance id → address now."""
        raise NotImplementedError

    def instances(self, context: Context) -> list[str]:
        """Return the ids of all instances, each once, in order."""
        groups = context.record.data.get("members") or {}
        return list(
            dict.fromkeys([*self.fixed(context), *(item for owner in sorted(groups) for item in groups[owner])])
        )

    def fixed(self, context: Context) -> list[str]:
        """Return the ids of the instances that the template names."""
        return []

    async def create(self, context: Context) -> None:
        """Make the guest, then let it serve."""
        context.record.data["balancer"] = True
        await self.make(context)
        await self.ready(context)

    async def make(self, context: Context) -> None:
        """Make the guest."""
        await make(context)

    async def ready(self, context: Context) -> None:
        """Write the configuration, however long the guest takes to come."""
        deadline = context.services.now() + READY_SECONDS
        while True:
            try:
                await self.refresh(context, force=True)
                return
            except PcloudError as problem:
                if context.services.now() >= deadline:
                    raise ResourceFailed(f"the balancer's guest did not come: {problem}") from None
            await asyncio.sleep(1.0)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Serve by the changed properties."""
        await self.refresh(context)

    async def delete(self, context: Context) -> None:
        """Remove the guest."""
        await remove(context)

    async def refresh(self, context: Context, *, force: bool = False) -> None:
        """Write the configuration into the guest when it differs from what is there; PcloudError when that fails."""
        services, record = context.services, context.record
        place = services.place_of(record)
        if place is None:
            return
        servers = {}
        for identity in self.instances(context):
            guest = services.find(identity)
            address = await _reached(context, guest) if guest is not None else ""
            if address:
                servers[identity] = address
        body = configuration(self.listeners(context, servers))
        digest = hashlib.sha256(body.encode()).hexdigest()
        if digest == record.data.get("configuration") and not force:
            return
        done: ExecResult = await services.platform.execute(
            *place, ["sh", "-c", _WRITE, "sh", FILE], stdin=body.encode(), timeout=30
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()[-300:]
            raise PcloudError.of("BALANCER", f"{record.name}: haproxy does not take its configuration: {words}")
        record.data["configuration"] = digest
        services.save(record)
        services.note(record, f"serves {len(servers)} of {len(self.instances(context))} instances")


async def _reached(context: Context, guest: ResourceRecord) -> str:
    """Return the address at which the balancer reaches a guest now, empty where it does not: in networks of stacks the first
    that it has there."""
    if not context.record.data.get("interfaces"):
        return await context.services.address_of(guest)
    found = guest.data.get("interfaces") or [{"address": ""}]
    return str(found[0]["address"]).partition("/")[0]


class ElasticLoadBalancer(HaproxyBalancer):
    """A classic load balancer."""

    names = ("AWS::ElasticLoadBalancing::LoadBalancer",)
    attributes = frozenset(
        {
            "DNSName",
            "CanonicalHostedZoneName",
            "CanonicalHostedZoneNameID",
            "SourceSecurityGroup.GroupName",
            "SourceSecurityGroup.OwnerAlias",
        }
    )
    schema: ClassVar[Schema] = {
        "AccessLoggingPolicy": mapping(on_change=_UPDATE, refused="there is no object store to log to"),
        "AppCookieStickinessPolicy": listing(refused="only LBCookieStickinessPolicy is offered"),
        "AvailabilityZones": listing(on_change=_UPDATE, inert="guests are placed by their infrastructure"),
        "ConnectionDrainingPolicy": mapping(on_change=_UPDATE, inert="haproxy lets connections end when it reloads"),
        "ConnectionSettings": mapping(on_change=_UPDATE, inert="connections may idle for 60 s"),
        "CrossZone": boolean(on_change=_UPDATE, inert="there is one zone"),
        "HealthCheck": mapping(
            on_change=_UPDATE,
            fields={
                "Target": text(required=True),
                "HealthyThreshold": integer(default=3, minimum=1),
                "UnhealthyThreshold": integer(default=5, minimum=1),
                "Interval": integer(default=30, minimum=1),
                "Timeout": integer(default=5, minimum=1),
            },
        ),
        "Instances": listing(on_change=_UPDATE),
        "LBCookieStickinessPolicy": listing(on_change=_UPDATE),
        "Listeners": listing(
            required=True,
            on_change=_UPDATE,
            fields={
                "LoadBalancerPort": integer(required=True, minimum=1, maximum=65535),
                "InstancePort": integer(required=True, minimum=1, maximum=65535),
                "Protocol": text(required=True, allowed=("HTTP", "HTTPS", "TCP", "SSL")),
                "InstanceProtocol": text(),
                "PolicyNames": listing(),
                "SSLCertificateId": anything(refused=_NO_CERTIFICATES),
            },
        ),
        "LoadBalancerName": text(),
        "Policies": listing(refused="policies of backends are not offered"),
        "Scheme": text(allowed=("internet-facing", "internal")),
        "SecurityGroups": listing(on_change=_UPDATE),
        "Subnets": listing(),
        "Tags": listing(on_change=_UPDATE, inert="balancers are not searched by tags"),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """TLS is not ended here, and the health check's target must be one."""
        found = []
        listeners = properties.get("Listeners")
        for index, listener in enumerate(listeners if isinstance(listeners, list) else ()):
            if isinstance(listener, dict) and listener.get("Protocol") in ("HTTPS", "SSL"):
                found.append(
                    PropertyProblem(
                        code="REFUSED",
                        message=f"{listener['Protocol']} is refused: {_NO_CERTIFICATES}",
                        path=("Listeners", index, "Protocol"),
                    )
                )
        health = properties.get("HealthCheck")
        target = health.get("Target") if isinstance(health, dict) else None
        if isinstance(target, str) and read_target(target) is None:
            message = f"'{target[:80]}' is not of the form HTTP:PORT/PATH or TCP:PORT"
            found.append(PropertyProblem(code="BAD_PROPERTY", message=message, path=("HealthCheck", "Target")))
        return [*found, *listed_problems("Subnets", properties)]

    def check_on(self, properties: Mapping[str, Any], platform: Platform) -> list[PropertyProblem]:
        """Whether there are subnets."""
        return listed_lacking("Subnets", properties, platform)

    def notes(self, properties: Mapping[str, Any]) -> list[str]:
        """What has an effect in a VPC only."""
        found = subnet_notes("Subnets", properties.get("Subnets"))
        if not self._inside(properties):
            given = [key for key in ("Scheme", "SecurityGroups") if properties.get(key)]
            found += [f"{key} has no effect here: the balancer is in no subnet of a stack" for key in given]
        return found

    @staticmethod
    def _inside(properties: Mapping[str, Any]) -> list[Any]:
        """Return its subnets of stacks, those that may be some included."""
        named = properties.get("Subnets")
        return [name for name in (named if isinstance(named, list) else [named]) if name is not None and of_stack(name)]

    async def make(self, context: Context) -> None:
        """Make the guest, in its subnets."""
        given = context.properties
        public = given.get("Scheme") != "internal"
        subnets = [str(name) for name in self._inside(given)]
        await make(context, subnets=subnets, groups=given.get("SecurityGroups") or [], public=public)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Serve by the changed properties, in the changed groups."""
        if "SecurityGroups" in changed and context.record.data.get("interfaces"):
            enter(context, context.properties.get("SecurityGroups") or [])
            await surround(context, context.record)
        await super().update(context, old, changed)

    def fixed(self, context: Context) -> list[str]:
        """`Instances`."""
        return [str(item) for item in context.properties.get("Instances") or []]

    def listeners(self, context: Context, servers: Mapping[str, str]) -> tuple[Listener, ...]:
        """`Listeners`, each with every instance."""
        given = context.properties
        health = given.get("HealthCheck")
        check = None
        if health:
            target = read_target(health["Target"])
            assert target is not None  # `check` saw to it
            check = msgspec.structs.replace(
                target,
                interval=float(health["Interval"]),
                timeout=float(health["Timeout"]),
                healthy=health["HealthyThreshold"],
                unhealthy=health["UnhealthyThreshold"],
            )
        behind = tuple(Server(name=identity, address=address) for identity, address in servers.items())
        return tuple(
            Listener(
                port=item["LoadBalancerPort"],
                target=item["InstancePort"],
                protocol=item["Protocol"],
                servers=behind,
                check=check or Check(interval=10.0),
                cookie=bool(given.get("LBCookieStickinessPolicy") and item.get("PolicyNames")),
            )
            for item in given["Listeners"]
        )

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Any) -> Any:
        """`DNSName` is the guest's address: there is no name service."""
        if name in ("DNSName", "CanonicalHostedZoneName"):
            return record.attributes.get("address", "")
        return ""

    def reference(self, record: ResourceRecord, services: Any) -> Any:
        """The name."""
        return record.data.get("reference") or record.physical


TYPES: tuple[type[ResourceType], ...] = (ElasticLoadBalancer,)
