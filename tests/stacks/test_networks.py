"""Networks of stacks over a platform that keeps them in memory: what guests and routers become, refusals, crashes."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pcloud.infrastructure.lxc_segments import Subnet
from pcloud.model.deployable import Interface
from pcloud.model.errors import InvalidDocument, Unavailable
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source
from pcloud.stacks.store import SqliteStore
from tests.stacks.test_crash import CrashingStore, settle
from tests.stacks.test_guests import MemoryPlatform, opened
from tests.stacks.test_security_groups import changed, guests, made


class MemoryNetworks:
    """What a host would have of networks. Whatever needs something that is not there is an error."""

    def __init__(self) -> None:
        self.networks: set[str] = set()
        self.subnets: dict[str, Subnet] = {}
        self.leases: dict[tuple[str, str], str] = {}
        self.routers: dict[str, tuple[list[str], bool, list[tuple[str, str]]]] = {}
        self.ways: dict[str, list[tuple[str, str]] | None] = {}
        self.told = 0

    def refusal(self, cidr: str) -> str:
        own = ipaddress.IPv4Network("10.88.0.0/16")
        return "overlaps the guests' own" if own.overlaps(ipaddress.IPv4Network(cidr, strict=False)) else ""

    async def make_network(self, network: str) -> None:
        self.networks.add(network)

    async def remove_network(self, network: str) -> None:
        self.networks.discard(network)

    async def make_subnet(self, subnet: Subnet) -> None:
        assert subnet.network in self.networks
        for other in self.subnets.values():
            if other.name != subnet.name and other.network == subnet.network and other.range.overlaps(subnet.range):
                raise Unavailable.of("NO_NETWORK", "it overlaps another one")
        self.subnets[subnet.name] = subnet

    async def remove_subnet(self, subnet: str) -> None:
        self.subnets.pop(subnet, None)
        for subnets, _, _ in self.routers.values():
            if subnet in subnets:
                subnets.remove(subnet)

    async def take(self, subnet: str, holder: str, wanted: str = "") -> str:
        span, pools = self.subnets[subnet].range, self.subnets[subnet].pools
        first = ipaddress.IPv4Address(pools[0][0]) if pools else span[2]
        free = (str(each) for each in span.hosts() if each >= first and str(each) not in self.leases.values())
        return f"{self.leases.setdefault((subnet, holder), wanted or next(free))}/{span.prefixlen}"

    async def give_back(self, subnet: str, holder: str) -> None:
        self.leases.pop((subnet, holder), None)

    async def put_router(
        self,
        router: str,
        subnets: Sequence[str],
        *,
        outside: bool,
        floating: Sequence[tuple[str, str]],
        ways: Sequence[tuple[str, str]] | None = None,
        within: str = "",
    ) -> None:
        await asyncio.sleep(0)
        assert set(subnets) <= self.subnets.keys()
        self.routers[router] = (list(subnets), outside, list(floating))
        self.ways[router] = None if ways is None else sorted(ways)
        self.told += 1

    async def remove_router(self, router: str) -> None:
        await asyncio.sleep(0)
        self.routers.pop(router, None)
        self.ways.pop(router, None)

    async def stands(self, name: str) -> bool:
        return name in self.networks or name in self.routers

    @property
    def empty(self) -> bool:
        return not (self.networks or self.subnets or self.leases or self.routers)


class Networked(MemoryPlatform):
    """Guests and networks in memory."""

    capabilities = frozenset({"guests", "addresses", "fixed-addresses", "firewall", "networks"})

    def __init__(self) -> None:
        super().__init__()
        self.networks = MemoryNetworks()
        self.outer: dict[str, str] = {}

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        return f"{self.outer.setdefault(holder, wanted or f'10.88.1.{len(self.outer) + 1}')}/16"

    async def release_address(self, holder: str) -> None:
        self.outer.pop(holder, None)


@pytest.fixture
def platform() -> Networked:
    return Networked()


@pytest.fixture
async def manager(tmp_path: Path, platform: Networked) -> AsyncIterator[StackManager]:
    manager = await opened(tmp_path, platform)
    yield manager
    await manager.close()


def get(name: str) -> dict[str, str]:
    return {"get_resource": name}


def neutron(kind: str, **properties: Any) -> dict[str, Any]:
    return {"type": f"OS::Neutron::{kind}", "properties": properties}


def server(*networks: dict[str, Any], **properties: Any) -> dict[str, Any]:
    given = {"image": "bookworm", "flavor": "m1.small", "networks": list(networks), **properties}
    return {"type": "OS::Nova::Server", "properties": given}


def hot(**resources: Any) -> Source:
    return Source(template=json.dumps({"heat_template_version": "2018-08-31", "resources": resources}))


def document(*, outside: bool = True, port: str = "192.168.7.9", **more: Any) -> dict[str, Any]:
    info = {"external_gateway_info": {"network": "public"}} if outside else {}
    fixed = [{"subnet": get("sub"), "ip_address": port}]
    return {
        "net": neutron("Net", name="private"),
        "sub": neutron("Subnet", network=get("net"), cidr="192.168.7.0/24", gateway_ip="192.168.7.254"),
        "router": neutron("Router", **info),
        "at": neutron("RouterInterface", router=get("router"), subnet=get("sub")),
        "port": neutron("Port", network=get("net"), fixed_ips=fixed),
        "one": server({"port": get("port")}),
        "two": server({"network": get("net")}),
        **more,
    }


FLOATING = {"float": neutron("FloatingIP", floating_network="public", port_id=get("port"))}


async def test_what_becomes_of_a_topology(manager: StackManager, platform: Networked) -> None:
    """Guests have their part in it, the router what everybody brings to it; changes reach it; nothing is left."""
    stack = await made(manager, "topology", hot(**document(**FLOATING)))
    current = manager.current(stack)
    net, sub = current["net"].physical, current["sub"].physical
    found = guests(platform)
    gateway = "192.168.7.254"
    assert found["one"].interfaces == (Interface(network=net, address="192.168.7.9/24", gateway=gateway),)
    assert found["two"].interfaces == (Interface(network=net, address="192.168.7.2/24", gateway=gateway),)
    assert found["one"].addresses == ()
    told = current["one"].attributes
    assert (told["first_address"], told["networks"]) == (
        "192.168.7.9",
        {net: ["192.168.7.9"], "private": ["192.168.7.9"]},
    )
    router = current["router"].physical
    assert platform.networks.routers == {router: ([sub], True, [("10.88.1.1", "192.168.7.9")])}
    shown = current["float"].attributes
    assert (shown["fixed_ip_address"], shown["router_id"]) == ("192.168.7.9", router)

    await changed(manager, stack, hot(**document(outside=False)))
    assert platform.networks.routers == {router: ([sub], False, [])}
    assert platform.outer == {}
    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE", stack.reason
    assert platform.networks.empty


async def test_as_older_templates_write_it(manager: StackManager, platform: Networked) -> None:
    """Ids by their older names, the way outside as a resource, an address a server asks for in a subnet."""
    stack = await made(
        manager,
        "older",
        hot(
            net={"type": "OS::Neutron::Net"},
            sub=neutron("Subnet", network_id=get("net"), cidr="192.168.7.0/24", ip_version=4),
            router={"type": "OS::Neutron::Router"},
            at=neutron("RouterInterface", router_id=get("router"), subnet_id=get("sub")),
            out=neutron("RouterGateway", router_id=get("router"), network_id="public"),
            s=server({"subnet": get("sub"), "fixed_ip": "192.168.7.50"}),
        ),
    )
    current = manager.current(stack)
    assert platform.networks.routers == {current["router"].physical: ([current["sub"].physical], True, [])}
    assert guests(platform)["s"].interfaces[0].address == "192.168.7.50/24"
    await manager.delete(stack)
    await manager.wait(stack)
    assert platform.networks.empty


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        ({"s": neutron("Subnet", network="net-1", cidr="10.0.0.0")}, "must be between /8 and /29"),
        ({"s": neutron("Subnet", network="net-1", cidr="10.88.3.0/24")}, "overlaps the guests' own"),
        ({"s": neutron("Subnet", network="net-1", cidr="nonsense")}, "nonsense"),
        ({"s": neutron("Subnet", network="net-1", cidr="fd00::/64", ip_version=6)}, "'6' is not one of 4"),
        ({"s": neutron("Subnet", network="net-1", cidr="10.0.0.0/24", gateway_ip="10.0.1.1")}, "no address for anyone"),
        (
            {
                "s": neutron(
                    "Subnet",
                    network="net-1",
                    cidr="10.0.0.0/24",
                    allocation_pools=[{"start": "10.0.0.9", "end": "10.0.0.2"}],
                )
            },
            "10.0.0.9 to 10.0.0.2 is no range",
        ),
        ({"s": neutron("Subnet", cidr="10.0.0.0/24")}, "'network' is needed"),
        ({"p": neutron("ProviderNet", network_type="vlan")}, "none of others' can be joined"),
        ({"r": neutron("Router", external_gateway_info={"network": "net-1"})}, "to the guests' own network only"),
        (
            {
                "n": neutron("Net"),
                "r": neutron("Router"),
                "g": neutron("RouterGateway", router=get("r"), network=get("n")),
            },
            "to the guests' own network only",
        ),
        ({"s": server({"network": "net-1"}, {"network": "public"})}, "not in both"),
        ({"i": neutron("RouterInterface", router="router-1", port="x")}, "name the subnet"),
    ],
)
async def test_refused_before_anything_starts(
    manager: StackManager, platform: Networked, resources: Any, says: str
) -> None:
    with pytest.raises(InvalidDocument, match=says):
        await manager.create("no", hot(**resources))
    assert platform.networks.empty


async def test_where_there_are_no_networks_they_are_refused(tmp_path: Path) -> None:
    manager = await opened(tmp_path, MemoryPlatform())
    with pytest.raises(InvalidDocument, match="this platform has no networks"):
        await manager.create("no", hot(net=neutron("Net")))
    await manager.close()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"again": neutron("Subnet", network=get("net"), cidr="192.168.0.0/16")}, "it overlaps another one"),
        (
            {
                "else": neutron("Net"),
                "there": neutron("Subnet", network=get("else"), cidr="192.168.0.0/16"),
                "also": {
                    **neutron("RouterInterface", router=get("router"), subnet=get("there")),
                    "depends_on": "at",
                },
            },
            "which the router has too",
        ),
        (
            {
                "second": neutron("Router"),
                "also": {**neutron("RouterInterface", router=get("second"), subnet=get("sub")), "depends_on": "at"},
            },
            "has a router already",
        ),
        ({"none": server({"port": get("port")}, {"port": get("plain")}), "plain": neutron("Port")}, "not in both"),
    ],
)
async def test_what_can_not_be_made_is_undone(manager: StackManager, platform: Networked, more: Any, says: str) -> None:
    """The stack says why, and nothing of it is left."""
    stack = await manager.create("bad", hot(**document(**more)))
    await manager.wait(stack)
    assert stack.status == "ROLLBACK_COMPLETE"
    assert says in stack.reason
    assert platform.networks.empty


async def crash_everywhere(
    folder: Path, source: Source, *, deleting: bool, step: int, whole: Callable[[MemoryNetworks, dict[str, str]], None]
) -> None:
    """Make or delete a stack and crash at every so many writes; the next start comes to the same end: all of it is there,
    which `whole` asserts, or nothing is."""
    for point in range(0, 10_000, step):
        platform = Networked()
        store = CrashingStore(folder / f"{point}.db")
        manager = StackManager(store, platform)
        await manager.start()
        if deleting:
            await made(manager, "s", source)
        store.left = point

        async def operate(manager: StackManager = manager) -> None:
            if deleting:
                await manager.delete(manager.get("s"))
            else:
                await manager.create("s", source)
            await settle(manager)

        work = asyncio.ensure_future(operate())
        async with asyncio.timeout(120):
            while not work.done() and not store.crashed:
                await asyncio.sleep(0.001)
        crashed = store.crashed
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await manager.close()
        again = StackManager(SqliteStore(folder / f"{point}.db"), platform)
        await again.start()
        await settle(again)
        live = [stack for stack in again.stacks.values() if stack.live]
        if live and not (deleting and live[0].status == "CREATE_COMPLETE"):
            assert [stack.status for stack in live] == ["CREATE_COMPLETE"], (point, live[0].reason)
        if live:
            whole(platform.networks, platform.outer)
        else:
            assert platform.networks.empty, point
        await again.close()
        if not crashed:
            break
    else:
        pytest.fail("it never came to its end")
    assert point > 10


@pytest.mark.parametrize("deleting", [False, True])
async def test_a_crash_at_every_write_comes_to_the_same_end(tmp_path: Path, deleting: bool) -> None:
    """Nothing is made twice, nothing is left over, and no router comes back that was removed."""

    def whole(networks: MemoryNetworks, outer: dict[str, str]) -> None:
        counts = (len(networks.networks), len(networks.subnets), len(networks.routers), len(networks.leases))
        assert (*counts, len(outer)) == (1, 1, 1, 2, 1)
        ((subnets, outside, floating),) = networks.routers.values()
        assert (len(subnets), outside, floating) == (1, True, [("10.88.1.1", "192.168.7.9")])

    source = hot(**document(**FLOATING))
    await crash_everywhere(tmp_path, source, deleting=deleting, step=4, whole=whole)
