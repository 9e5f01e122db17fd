"""The router of a VPC in this host's kernel, between namespaces that stand for guests: packets pass, or they do not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcloud.infrastructure.lxc_network import Network
from pcloud.infrastructure.lxc_router_rules import Router
from pcloud.infrastructure.lxc_segments import Segments, Subnet

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed (package nftables)"),
    pytest.mark.timeout(300),
]
ANY = "0.0.0.0/0"
SUBNETS = {"pub": "172.27.1.0/24", "priv": "172.27.2.0/24"}
OUTSIDE = "10.124.0.0/16"
FRONT, FRONT2, BACK, WORLD = "172.27.1.4", "172.27.1.5", "172.27.2.4", "10.124.0.2"
FLOATING = (("10.124.0.9", FRONT), ("10.124.0.10", FRONT2), ("10.124.0.11", BACK))
PATIENCE = 60.0
SERVE = (
    "import socket\ns = socket.create_server(('', 80))\nprint('ready', flush=True)\n"
    "while True:\n c, a = s.accept(); c.sendall(a[0].encode()); c.close()"
)


class Lan:
    """A VPC's two subnets with guests, and a world outside."""

    def __init__(self, folder: Path) -> None:
        self.segments = Segments(folder)
        for name, cidr in SUBNETS.items():
            self.segments.make_network(name)
            self.segments.make_subnet(Subnet(name=name, network=name, cidr=cidr, gateway=cidr.replace("0/24", "1")))
        self.segments.make_network("outside")
        self.guests = Network(bridge=self.segments.bridge("outside"), subnet=OUTSIDE)
        self.spaces: dict[str, str] = {}
        self.servers: list[subprocess.Popen[str]] = []

    def add(self, address: str, network: str, prefix: int, gateway: str = "") -> None:
        """Give a guest to a network: a namespace with a server in it, which says who calls."""
        space = self.segments._named("pct", address)
        outer = self.segments._named("pcv", address)
        self.spaces[address] = space
        run("ip", "netns", "add", space)
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", outer, "master", self.segments.bridge(network), "up")
        for words in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
            run("ip", "-n", space, *words)
        run("ip", "-n", space, "addr", "add", f"{address}/{prefix}", "dev", "eth0")
        if gateway:
            run("ip", "-n", space, "route", "add", "default", "via", gateway)
        words = ["ip", "netns", "exec", space, sys.executable, "-c", SERVE]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def told(self, caller: str, address: str) -> str:
        """What a guest hears from a server; empty where it does not reach it."""
        return self._call(caller, address).communicate(timeout=60)[0]

    def silent(self, *calls: tuple[str, str]) -> None:
        """See that none of these callers reaches that address; all call at the same time."""
        begun = [self._call(*each) for each in calls]
        heard = [each.communicate(timeout=60)[0] for each in begun]
        assert heard == [""] * len(calls), calls

    def _call(self, caller: str, address: str) -> subprocess.Popen[str]:
        words = ["ip", "netns", "exec", self.spaces[caller], "timeout", "1", "bash", "-c"]
        return subprocess.Popen(
            [*words, f"cat < /dev/tcp/{address}/80"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def hears(self, caller: str, address: str, wanted: str) -> None:
        """Wait until a guest hears that."""
        deadline = time.monotonic() + PATIENCE
        while (heard := self.told(caller, address)) != wanted:
            assert time.monotonic() < deadline, f"{caller} calls {address}: {heard!r}, not {wanted!r}"

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.communicate()
        self.segments.remove_router("v")
        for space in self.spaces.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", space)
        for name in SUBNETS:
            self.segments.remove_subnet(name)
            self.segments.remove_network(name)
        self.segments.remove_network("outside")


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    lan = Lan(tmp_path / "lxc")
    try:
        lan.add(FRONT, "pub", 24, "172.27.1.1")
        lan.add(FRONT2, "pub", 24, "172.27.1.1")
        lan.add(BACK, "priv", 24, "172.27.2.1")
        lan.add(WORLD, "outside", 16)
        yield lan
    finally:
        lan.close()
    assert [lan.segments.stands(name) for name in ("v", *SUBNETS, "outside")] == [False] * 4


def vpc(**changes: object) -> Router:
    given = {"subnets": ("pub", "priv"), "ways": (), "within": "172.27.0.0/16", **changes}
    return Router(name="v", **given)  # type: ignore[arg-type]


def test_who_may_go_outside(lan: Lan) -> None:
    """Subnets reach each other; outside is only for addresses that have one there, by ways of their subnets."""
    put = lan.segments.put_router
    put(vpc(), lan.guests)
    lan.hears(FRONT, BACK, FRONT)
    lan.hears(BACK, FRONT, BACK)
    lan.silent((FRONT, WORLD))

    # A gateway and addresses, but no way.
    led = vpc(outside="10.124.0.7/16", floating=FLOATING)
    put(led, lan.guests)
    run("ip", "-n", lan.spaces[WORLD], "route", "add", "172.27.0.0/16", "via", "10.124.0.7")
    lan.hears(FRONT, BACK, FRONT)
    lan.silent((FRONT, WORLD), (WORLD, "10.124.0.9"), (WORLD, FRONT))

    # A way for one of the subnets.
    put(vpc(outside="10.124.0.7/16", floating=FLOATING, ways=(("pub", ANY),)), lan.guests)
    lan.hears(FRONT, WORLD, "10.124.0.9")
    lan.hears(WORLD, "10.124.0.9", WORLD)
    lan.hears(FRONT, BACK, FRONT)
    lan.hears(FRONT, "10.124.0.10", "10.124.0.9")  # its neighbour, by the address outside
    lan.silent((BACK, WORLD), (WORLD, "10.124.0.11"), (BACK, "10.124.0.9"))

    # Who has no address outside does not go there; a way leads as far as it says.
    fewer = vpc(
        outside="10.124.0.7/16", floating=FLOATING[1:], ways=(("pub", "10.124.0.0/30"), ("priv", "10.125.0.0/16"))
    )
    put(fewer, lan.guests)
    lan.hears(FRONT2, WORLD, "10.124.0.10")
    lan.hears(WORLD, "10.124.0.10", WORLD)
    lan.silent((FRONT, WORLD), (WORLD, "10.124.0.9"), (BACK, WORLD), (WORLD, "10.124.0.11"))

    # What is behind this host is outside as well; but for what is in the VPC's range, be it a subnet or not.
    for address in ("10.124.0.1/16", "172.28.9.9/24", "172.27.9.9/24"):
        run("ip", "-n", lan.spaces[WORLD], "addr", "add", address, "dev", "eth0")
    put(vpc(outside="10.124.0.7/16", floating=FLOATING[1:], ways=(("pub", ANY),)), lan.guests)
    lan.hears(FRONT2, "172.28.9.9", "10.124.0.10")
    lan.silent((FRONT2, "172.27.9.9"))

    # Without the gateway nothing but the subnets is left.
    put(vpc(ways=(("pub", ANY),)), lan.guests)
    lan.hears(FRONT2, BACK, FRONT2)
    lan.silent((FRONT2, WORLD), (WORLD, "10.124.0.10"))


def test_a_subnet_that_goes_leaves_its_router(lan: Lan) -> None:
    """The others go on, also when the router is made anew."""
    lan.segments.put_router(vpc(), lan.guests)
    lan.hears(FRONT, BACK, FRONT)
    lan.segments.remove_subnet("priv")
    lan.silent((FRONT, BACK))
    lan.segments.make_subnet(Subnet(name="more", network="priv", cidr=SUBNETS["priv"], gateway="172.27.2.1"))
    lan.segments.put_router(vpc(subnets=("pub", "more")), lan.guests)
    lan.hears(FRONT, BACK, FRONT)
    lan.segments.remove_subnet("more")
