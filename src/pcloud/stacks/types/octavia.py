"""OS::Octavia's load balancer, listener, pool, member and health monitor, on a guest of ours with haproxy.

The parts are kept in the balancer's record (`data["parts"]`, by the id of the part's record), from which its configuration
follows. A member that is a guest of the stack is followed when its address changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pcloud.stacks.functions.evaluation import walk
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.schema import OnChange, PropertyProblem, Schema, anything, boolean, integer, listing, mapping, text
from pcloud.stacks.types.balancers import HaproxyBalancer
from pcloud.stacks.types.balancing import Check, Listener, Server
from pcloud.stacks.types.base import Context, ResourceFailed, ResourceType, Services

_UPDATE = OnChange.UPDATE
_ALGORITHMS = {
    "ROUND_ROBIN": "roundrobin",
    "LEAST_CONNECTIONS": "leastconn",
    "SOURCE_IP": "source",
    "SOURCE_IP_PORT": "source",
}
_NAMES: Schema = {
    "name": text(on_change=_UPDATE),
    "description": text(on_change=_UPDATE),
    "tags": listing(on_change=_UPDATE, inert="balancers are not searched by tags"),
}
_NO_TLS = "there is no certificate store; serve TLS in the members with protocol TCP"
_ONE_NETWORK = "guests share one network"
_PROTOCOLS = ("HTTP", "TCP", "HTTPS")

Parts = Mapping[str, Mapping[str, Any]]


class OctaviaBalancer(HaproxyBalancer):
    """A load balancer; its listeners come as resources of their own."""

    names = ("OS::Octavia::LoadBalancer",)
    attributes = frozenset({"vip_address", "vip_port_id", "vip_subnet_id", "vip_network_id", "pools", "show"})
    schema: ClassVar[Schema] = {
        **_NAMES,
        "admin_state_up": boolean(default=True, on_change=_UPDATE),
        "availability_zone": text(inert="guests are placed by their infrastructure"),
        "flavor": text(inert="balancers are of one size"),
        "provider": text(inert="there is one kind of balancer: haproxy"),
        "vip_address": text(refused="addresses are given out by the infrastructure"),
        "vip_network": text(inert=_ONE_NETWORK),
        "vip_subnet": text(inert=_ONE_NETWORK),
    }

    def instances(self, context: Context) -> list[str]:
        """The members that are guests."""
        parts: Parts = context.record.data.get("parts") or {}
        return [str(part["instance"]) for part in parts.values() if part["kind"] == "member" and part.get("instance")]

    def listeners(self, context: Context, servers: Mapping[str, str]) -> tuple[Listener, ...]:
        """What the parts make together."""
        parts: Parts = context.record.data.get("parts") or {}
        if not context.properties["admin_state_up"]:
            return ()
        return tuple(
            _listener(part, parts, servers)
            for _, part in sorted(parts.items())
            if part["kind"] == "listener" and part["admin_state_up"]
        )

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """Addresses and ids; `vip_port_id` is the balancer's own id, which a floating address may be given to."""
        known = {
            "vip_address": record.attributes.get("address", ""),
            "vip_port_id": record.physical,
            "vip_subnet_id": record.properties.get("vip_subnet"),
            "vip_network_id": record.properties.get("vip_network"),
            "pools": [
                {"id": part["id"]} for part in (record.data.get("parts") or {}).values() if part["kind"] == "pool"
            ],
        }
        return walk({"id": record.physical, **known} if name == "show" else known.get(name), path)


def _listener(part: Mapping[str, Any], parts: Parts, servers: Mapping[str, str]) -> Listener:
    pool: Mapping[str, Any] = next(
        (
            other
            for other in parts.values()
            if other["kind"] == "pool"
            and (other.get("listener") == part["id"] or part.get("default_pool") == other["id"])
        ),
        {},
    )
    inside = [other for other in parts.values() if other.get("pool") == pool.get("id") and pool.get("admin_state_up")]
    members = tuple(
        Server(
            name=str(other["id"]),
            address=servers.get(other.get("instance") or "") or other["address"],
            port=other["protocol_port"],
            weight=other["weight"],
        )
        for other in inside
        if other["kind"] == "member" and other["admin_state_up"]
    )
    monitor = next((other for other in inside if other["kind"] == "monitor" and other["admin_state_up"]), None)
    check = None
    if monitor is not None:
        protocol = monitor["type"] if monitor["type"] in ("HTTP", "HTTPS") else "TCP"
        check = Check(
            protocol=protocol,
            path=monitor.get("url_path") or "/",
            interval=float(monitor["delay"]),
            timeout=float(monitor["timeout"]),
            healthy=int(monitor["max_retries"]),
            unhealthy=int(monitor["max_retries"]),
        )
    persistence = (pool.get("session_persistence") or {}).get("type")
    balance = _ALGORITHMS.get(str(pool.get("lb_algorithm")), "roundrobin")
    return Listener(
        port=part["protocol_port"],
        target=80,
        protocol="HTTP" if part["protocol"] == "HTTP" else "TCP",
        balance="source" if persistence == "SOURCE_IP" else balance,
        servers=members,
        check=check,
        limit=max(0, int(part.get("connection_limit") or 0)),
        cookie=persistence == "HTTP_COOKIE",
    )


class Part(ResourceType):
    """Base of what belongs to a balancer."""

    kind: ClassVar[str]
    parents: ClassVar[tuple[str, ...]]
    """Properties that may name what it belongs to."""
    needs = frozenset({"guests", "access"})
    attributes = frozenset({"show"})

    def described(self, context: Context) -> dict[str, Any]:
        """Return what the balancer must know of it."""
        return {"id": context.record.physical, "kind": self.kind, **context.properties}

    async def create(self, context: Context) -> None:
        """Join the balancer."""
        context.record.physical = context.token
        for key in self.parents:
            name = context.properties.get(key)
            if not name:
                continue
            parent = context.services.find(str(name))
            if parent is None:
                raise ResourceFailed(f"there is no {key} {name}")
            context.record.data["of"] = parent.data.get("of") or parent.physical
        if "of" not in context.record.data:
            raise ResourceFailed(f"one of {' and '.join(self.parents)} is needed")
        await self._tell(context)

    async def update(self, context: Context, old: Mapping[str, Any], changed: frozenset[str]) -> None:
        """Tell the balancer the changed form."""
        await self._tell(context)

    async def _tell(self, context: Context) -> None:
        part = self.described(context)
        context.record.attributes = {key: value for key, value in part.items() if key != "kind"}
        await context.services.balance(context.record.data["of"], context.record.id, part)

    async def delete(self, context: Context) -> None:
        """Leave the balancer."""
        if "of" in context.record.data:
            await context.services.balance(context.record.data["of"], context.record.id, {})


class OctaviaListener(Part):
    """A port."""

    names = ("OS::Octavia::Listener",)
    kind, parents = "listener", ("loadbalancer",)
    attributes = frozenset({"loadbalancers", "default_pool_id", "show"})
    schema: ClassVar[Schema] = {
        **_NAMES,
        "admin_state_up": boolean(default=True, on_change=_UPDATE),
        "allowed_cidrs": listing(refused="who may connect is a matter of the host's firewall"),
        "connection_limit": integer(default=-1, minimum=-1, on_change=_UPDATE),
        "default_pool": text(on_change=_UPDATE),
        "default_tls_container_ref": text(refused=_NO_TLS),
        "loadbalancer": text(required=True),
        "protocol": text(required=True, allowed=_PROTOCOLS),
        "protocol_port": integer(required=True, minimum=1, maximum=65535),
        "sni_container_refs": listing(refused=_NO_TLS),
        "tls_ciphers": text(refused=_NO_TLS),
        "tls_versions": listing(refused=_NO_TLS),
    }

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """Ids."""
        if name == "loadbalancers":
            return walk([{"id": record.data.get("of")}], path)
        if name == "default_pool_id":
            return record.properties.get("default_pool")
        return super().attribute(record, name, path, services)


class OctaviaPool(Part):
    """The members behind a listener."""

    names = ("OS::Octavia::Pool",)
    kind, parents = "pool", ("listener", "loadbalancer")
    schema: ClassVar[Schema] = {
        **_NAMES,
        "admin_state_up": boolean(default=True, on_change=_UPDATE),
        "lb_algorithm": text(required=True, allowed=tuple(_ALGORITHMS), on_change=_UPDATE),
        "listener": text(),
        "loadbalancer": text(),
        "protocol": text(required=True, allowed=_PROTOCOLS),
        "session_persistence": mapping(
            on_change=_UPDATE,
            fields={
                "type": text(required=True, allowed=("SOURCE_IP", "HTTP_COOKIE")),
                "cookie_name": text(refused="cookies of the application are not read"),
            },
        ),
        "tls_enabled": boolean(refused=_NO_TLS),
    }


class OctaviaMonitor(Part):
    """How a pool's members are checked."""

    names = ("OS::Octavia::HealthMonitor",)
    kind, parents = "monitor", ("pool",)
    schema: ClassVar[Schema] = {
        "admin_state_up": boolean(default=True, on_change=_UPDATE),
        "delay": integer(required=True, minimum=1, on_change=_UPDATE),
        "expected_codes": text(on_change=_UPDATE, inert="2xx and 3xx are healthy"),
        "http_method": text(default="GET", allowed=("GET",), on_change=_UPDATE),
        "max_retries": integer(required=True, minimum=1, maximum=10, on_change=_UPDATE),
        "pool": text(required=True),
        "tags": listing(on_change=_UPDATE, inert="monitors are not searched by tags"),
        "timeout": integer(required=True, minimum=1, on_change=_UPDATE),
        "type": text(required=True, allowed=("TCP", "HTTP", "HTTPS")),
        "url_path": text(on_change=_UPDATE),
    }


class OctaviaMember(Part):
    """One server of a pool."""

    names = ("OS::Octavia::PoolMember",)
    kind, parents = "member", ("pool",)
    attributes = frozenset({"address", "pool_id", "show"})
    schema: ClassVar[Schema] = {
        "address": text(required=True),
        "admin_state_up": boolean(default=True, on_change=_UPDATE),
        "backup": boolean(refused="members that only stand by are not offered"),
        "monitor_address": text(refused="a member is checked where it serves"),
        "monitor_port": anything(refused="a member is checked where it serves"),
        "pool": text(required=True),
        "protocol_port": integer(required=True, minimum=1, maximum=65535),
        "subnet": text(inert=_ONE_NETWORK),
        "tags": listing(on_change=_UPDATE, inert="members are not searched by tags"),
        "weight": integer(default=1, minimum=0, maximum=256, on_change=_UPDATE),
    }

    def check(self, properties: Mapping[str, Any]) -> list[PropertyProblem]:
        """The address must be one."""
        import ipaddress

        try:
            if isinstance(properties.get("address"), str):
                ipaddress.ip_address(properties["address"])
        except ValueError:
            message = f"'{properties['address'][:60]}' is no address"
            return [PropertyProblem(code="BAD_PROPERTY", message=message, path=("address",))]
        return []

    async def create(self, context: Context) -> None:
        """Join the balancer; a guest of the stack is followed by its id."""
        guest = await context.services.guest_at(context.properties["address"], context.stack.id)
        context.record.data["instance"] = guest.physical if guest is not None else ""
        await super().create(context)

    def described(self, context: Context) -> dict[str, Any]:
        """With the guest that it is."""
        return {**super().described(context), "instance": context.record.data.get("instance", "")}

    def attribute(self, record: ResourceRecord, name: str, path: list[Any], services: Services) -> Any:
        """Address and pool."""
        if name == "pool_id":
            return record.properties.get("pool")
        return super().attribute(record, name, path, services)


TYPES: tuple[type[ResourceType], ...] = (
    OctaviaBalancer,
    OctaviaListener,
    OctaviaPool,
    OctaviaMonitor,
    OctaviaMember,
)
