"""Networks and routers of stacks on real LXC guests: what the topology joins can talk, and nothing else."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.environment.infrastructure import GuestSpec, Image, InfrastructureError
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure import lxc_segments
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_network import Network
from pcloud.infrastructure.lxc_router_rules import Router
from pcloud.infrastructure.lxc_segments import Segments, Subnet
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.model.deployable import Interface

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed (package nftables)"),
    pytest.mark.timeout(1800),
]
NETS = {"one": "192.168.71.0/24", "two": "192.168.72.0/24"}
PATIENCE = 300.0


@pytest.fixture(scope="module")
def image() -> Image:
    """The JEOS, built once for all runs on this machine."""
    return asyncio.run(ImageStore().build_jeos("bookworm", "x86_64"))


def ours(segments: Segments) -> list[str]:
    """What of a state folder's networks this host's kernel has."""
    links = [segments.bridge(name) for name in NETS]
    spaces = [segments.space(name) for name in ("r", "s")]
    return [name for name in links if Path("/sys/class/net", name).exists()] + [
        name for name in spaces if Path("/run/netns", name).exists()
    ]


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    """Two networks; nothing of them may be left."""
    segments = Segments(tmp_path / "lxc")
    for name, cidr in NETS.items():
        segments.make_network(name)
        segments.make_subnet(Subnet(name=name, network=name, cidr=cidr, gateway=cidr.replace("0/24", "1")))
    yield segments
    for router in ("r", "s"):
        segments.remove_router(router)
    for name in NETS:
        segments.remove_subnet(name)
        segments.remove_network(name)
    assert ours(segments) == []
    assert sorted(path.name for path in (tmp_path / "lxc").iterdir() if path.suffix != ".lock") == []


@pytest.fixture
async def driver(tmp_path: Path, segments: Segments) -> AsyncIterator[LxcInfrastructure]:
    driver = LxcInfrastructure(LxcSettings(state=str(tmp_path / "lxc")))
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    driver._leases.release("_outside")
    await driver._bridge.remove_unused()
    await driver.close()


def spec(image: Image, name: str, *interfaces: Interface) -> GuestSpec:
    return GuestSpec(
        guest_id=f"nets.{name}", deployable="nets", assembly=name, image=image,
        identity=make_identity(name).identity, digest="1", interfaces=interfaces,
    )  # fmt: skip


def at(net: str, number: int) -> Interface:
    start = NETS[net].removesuffix("0/24")
    return Interface(network=net, address=f"{start}{number}/24", gateway=f"{start}1")


async def test_the_topology_says_who_talks_to_whom(driver: LxcInfrastructure, segments: Segments, image: Image) -> None:
    """In a network, between networks of a router, outside, by floating addresses; this host reaches every agent."""
    guests = {"a": at("one", 10), "b": at("one", 11), "c": at("two", 10)}
    plain = await driver.start(spec(image, "plain"))
    where = {name: (await driver.start(spec(image, name, guests[name]))).address for name in guests}
    serve = (
        "import socket\ns = socket.create_server(('', 80))\n"
        "while True:\n c, a = s.accept(); c.sendall(a[0].encode()); c.close()"
    )
    deadline = asyncio.get_running_loop().time() + PATIENCE
    for name in ("plain", *guests):
        while (await driver.execute(f"nets.{name}", ["systemd-run", "python3", "-c", serve])).returncode:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)

    async def said(name: str, address: str, seconds: int = 1) -> str:
        """What a guest hears from a server: from where it saw it call; empty where it does not reach it."""
        words = ["timeout", str(seconds), "bash", "-c", f"cat < /dev/tcp/{address}/80"]
        return (await driver.execute(f"nets.{name}", words)).stdout.decode()

    async def hears(name: str, address: str, wanted: str) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while (heard := await said(name, address, 20)) != wanted:
            assert asyncio.get_running_loop().time() < deadline, heard
            await asyncio.sleep(0.05)

    def here(address: str, seconds: int = 1) -> str:
        words = ["timeout", str(seconds), "bash", "-c", f"cat < /dev/tcp/{address}/80"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    async def heard_here(address: str, wanted: str) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while (heard := here(address, 20)) != wanted:
            assert asyncio.get_running_loop().time() < deadline, heard
            await asyncio.sleep(0.05)

    # All of them listen, and this host reaches each; so what is not heard from here on does not come through.
    network = await driver._bridge.ensure()
    for address in (plain.address, *where.values()):
        await heard_here(address, str(network.gateway))
    await hears("a", "192.168.71.11", "192.168.71.10")
    assert await said("a", "192.168.72.10") == ""
    # The guests' own network is this host's alone for them.
    assert [await said("a", where[other]) for other in ("b", "c")] == ["", ""]
    assert await said("a", plain.address) == await said("plain", where["a"]) == ""

    hosts = (await driver.execute("nets.c", ["cat", "/etc/hosts"])).stdout.decode()
    assert "192.168.72.10 c\n" in hosts
    assert "192.168.71.10 a\n" in hosts
    # A router between the two; then outside; then a floating address, which is reached from everywhere.
    segments.put_router(Router(name="r", subnets=("one", "two")), None)
    await hears("a", "192.168.72.10", "192.168.71.10")
    assert await said("a", plain.address) == ""
    outside, floating = (network.address(network.network.num_addresses - number) for number in (3, 4))
    driver._leases.claim("_outside", network.network.num_addresses - 3)
    led = Router(name="r", subnets=("one", "two"), outside=str(outside))
    segments.put_router(led, network)
    await hears("a", plain.address, str(outside.ip))
    assert here(str(floating.ip)) == ""
    segments.put_router(
        Router(name="r", subnets=("one", "two"), outside=str(outside), floating=((str(floating.ip), "192.168.71.11"),)),
        network,
    )
    await hears("plain", str(floating.ip), plain.address)
    await hears("a", str(floating.ip), "192.168.71.1")
    await heard_here(str(floating.ip), str(network.gateway))
    await hears("b", plain.address, str(floating.ip))
    # And back.
    segments.put_router(Router(name="r", subnets=("one",)), None)
    assert await said("a", "192.168.72.10") == await said("a", plain.address) == here(str(floating.ip)) == ""
    # What a restart of this host takes is there again before a guest is.
    segments.put_router(Router(name="r", subnets=("one", "two")), None)
    await driver.stop("nets.a", timeout=30)
    await driver.stop("nets.b", timeout=30)
    await driver.stop("nets.c", timeout=30)
    for name in NETS:
        subprocess.run(["ip", "link", "del", segments.bridge(name)], check=True)
    subprocess.run(["ip", "netns", "del", segments.space("r")], check=True)
    await driver.start(spec(image, "a", guests["a"]))
    await driver.start(spec(image, "c", guests["c"]))
    while (await driver.execute("nets.c", ["systemd-run", "python3", "-c", serve])).returncode:
        await asyncio.sleep(0.1)
    await hears("a", "192.168.72.10", "192.168.71.10")


def test_addresses_of_a_subnet(segments: Segments) -> None:
    """From its pools, one holder each, the router's left out."""
    with pytest.raises(InfrastructureError, match="overlaps"):
        segments.make_subnet(Subnet(name="three", network="one", cidr="192.168.0.0/16"))
    pools = (("10.9.0.0", "10.9.0.2"), ("10.9.0.6", "10.9.0.7"))
    segments.make_subnet(Subnet(name="small", network="two", cidr="10.9.0.0/29", gateway="10.9.0.1", pools=pools))
    assert segments.take("small", "a") == segments.take("small", "a") == "10.9.0.2/29"
    assert segments.take("small", "b") == "10.9.0.6/29"
    with pytest.raises(InfrastructureError, match=r"all addresses of 10\.9\.0\.0/29 are taken"):
        segments.take("small", "c")
    assert segments.take("small", "c", "10.9.0.4") == "10.9.0.4/29"
    for wanted in ("10.9.0.4", "10.9.0.1", "10.9.0.0", "10.9.0.7", "10.9.0.8", "x; y"):
        with pytest.raises(InfrastructureError, match=r"taken by c|no address for a guest|no IPv4 address"):
            segments.take("small", "d", wanted)
    for holder in "abcd":
        segments.give_back("small", holder)
    segments.remove_subnet("small")


def _dying(state: Path, at_command: int, router: Router, network: Network) -> None:
    """Do everything, and die before one of the commands."""
    done = 0
    run = lxc_segments.run_tool

    def counted(*words: str, given: str = "") -> str:
        nonlocal done
        done += 1
        if done == at_command:
            os._exit(9)
        return run(*words, given=given)

    lxc_segments.run_tool = counted
    segments = Segments(state)
    segments.make_network("one")
    segments.put_router(router, network)
    segments.remove_router("r")
    segments.remove_network("one")
    os._exit(0)


def test_killed_before_any_of_its_commands(tmp_path: Path, segments: Segments) -> None:
    """The same calls, made again, come to the same end; nothing is left."""
    guests = Network(bridge=segments.bridge("two"), subnet="10.123.0.0/16")
    floating = (("10.123.0.9", "192.168.71.9"),)
    router = Router(name="r", subnets=("one", "two"), outside="10.123.0.7/16", floating=floating)
    context = multiprocessing.get_context("fork")
    for at_command in range(1, 200):
        process: Any = context.Process(target=_dying, args=(tmp_path / "lxc", at_command, router, guests))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
        segments.make_network("one")
        segments.put_router(router, guests)
        space = segments.space("r")
        shown = subprocess.run(
            ["ip", "netns", "exec", space, "sh", "-c", "ip -4 -o addr; nft list ruleset"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for text in ("192.168.71.1/24", "192.168.72.1/24", "10.123.0.7/16", "10.123.0.9/32", "dnat to 192.168.71.9"):
            assert text in shown, at_command
    else:
        pytest.fail("it never came to its end")
    assert at_command > 20
