"""Networks of stacks over a platform that keeps them in memory: what guests and routers become, refusals, crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcloud.model.deployable import Interface
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from tests.stacks.crashes import crash_everywhere
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_networks import MemoryNetworks, Networked
from tests.stacks.memory_platform import MemoryPlatform, guests
from tests.stacks.templates import hot


@pytest.fixture
def platform() -> Networked:
    return Networked()


def get(name: str) -> dict[str, str]:
    return {"get_resource": name}


def neutron(kind: str, **properties: Any) -> dict[str, Any]:
    return {"type": f"OS::Neutron::{kind}", "properties": properties}


def server(*networks: dict[str, Any], **properties: Any) -> dict[str, Any]:
    given = {"image": "bookworm", "flavor": "m1.small", "networks": list(networks), **properties}
    return {"type": "OS::Nova::Server", "properties": given}


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
