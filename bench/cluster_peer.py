"""The peers of the `recovery` benchmark: a guest made by our driver that is started by hand, or by a real Pacemaker cluster.

The cluster (corosync, Pacemaker) lives in namespaces of its own; its bridge and the host's are joined, so that the page of
the guest is asked for from the host, whoever runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tests.peers.cluster import Cluster

from bench import outage
from pcloud.environment.infrastructure import GuestSpec, Image
from pcloud.images.assembly import AssemblyImageSpec
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_settings import LxcSettings

NODE = "web"
SERVICE = "apache2"


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that exists and does not run."""

    name: str
    """LXC's name of it."""
    guests: Path
    """LXC's path."""
    bridge: str
    interface: ipaddress.IPv4Interface
    """Its address, with the prefix of the bridge's network."""
    key: bytes
    """What its agent takes for authentication."""

    @property
    def address(self) -> str:
        """Its address alone."""
        return str(self.interface.ip)

    def lxc(self, command: str, *words: str, check: bool = True) -> int:
        """Run one of LXC's tools on it and return the exit code."""
        argv = [f"lxc-{command}", "-P", str(self.guests), "-n", self.name, *words]
        return subprocess.run(argv, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    def start(self) -> None:
        """Start guest and service by hand, as soon as they let themselves be started."""
        self.lxc("wait", "-s", "STOPPED", "-t", "10")
        self.lxc("start", "-d")
        begin = ("--", "systemctl", "start", SERVICE)
        outage.until("the start by hand", lambda: self.lxc("attach", *begin, check=False) == 0, 60, pause=0.01)


def build_image() -> Image:
    """Return the image of the peers' guest: our packages, with Debian's pacemaker-remoted in place of our agent."""
    spec = AssemblyImageSpec(
        jeos="bookworm", packages=("apache2",), agent="pacemaker", disable_units=(f"{SERVICE}.service",)
    )
    return asyncio.run(ImageStore().build_assembly(spec))


@contextlib.contextmanager
def guest(state: Path) -> Iterator[Guest]:
    """Make the guest, stopped; remove it in the end."""
    identity = make_identity(NODE).identity
    name = f"peer{secrets.token_hex(3)}"
    bridge = f"pcb{secrets.token_hex(3)}"
    spec = GuestSpec(
        guest_id=name, deployable=name, assembly=NODE, image=build_image(), identity=identity, digest="1"
    )  # fmt: skip

    async def make() -> ipaddress.IPv4Interface:
        driver = LxcInfrastructure(LxcSettings(state=str(state), bridge=bridge))
        await driver.start(spec)
        await driver.destroy(name)
        await driver.close()
        config = (state / "guests" / name / "config").read_text()
        found = next(line for line in config.splitlines() if line.startswith("lxc.net.0.ipv4.address"))
        return ipaddress.IPv4Interface(found.partition("=")[2].strip())

    async def remove() -> None:
        driver = LxcInfrastructure(LxcSettings(state=str(state), bridge=bridge))
        await driver.delete(name)
        await driver.close()

    try:
        interface = asyncio.run(make())
        made = Guest(
            name=name, guests=state / "guests", bridge=bridge, interface=interface, key=identity.agent_key
        )  # fmt: skip
        try:
            yield made
        finally:
            made.lxc("stop", "-k", check=False)
    finally:
        asyncio.run(remove())


@contextlib.contextmanager
def cluster(folder: Path, guest: Guest, interval: float) -> Iterator[Cluster]:
    """Run a cluster that runs the guest, as a guest node, and the service in it; yield when the service runs.

    Guest and service are monitored every `interval` seconds.
    """
    folder.mkdir()
    made = Cluster(folder, key=guest.key)
    cable = f"pcb{secrets.token_hex(3)}"
    try:
        made.start()
        subprocess.run(["ip", "link", "add", cable, "type", "veth", "peer", "name", f"{cable}p"], check=True)
        subprocess.run(["ip", "link", "set", f"{cable}p", "netns", str(made.pids["cluster"])], check=True)
        subprocess.run(["ip", "link", "set", cable, "master", guest.bridge, "up"], check=True)
        network = guest.interface.network
        made.run("cluster", "ip", "link", "add", guest.bridge, "type", "bridge", "forward_delay", "0")
        made.run("cluster", "ip", "addr", "add", f"{network[-2]}/{network.prefixlen}", "dev", guest.bridge)
        made.run("cluster", "ip", "link", "set", guest.bridge, "up")
        made.run("cluster", "ip", "link", "set", f"{cable}p", "master", guest.bridge, "up")
        made.run("cluster", "cibadmin", "-M", "-c", "-o", "configuration", "-X", _configuration(guest, interval))
        made.wait_where(SERVICE, NODE, 180)
        yield made
    finally:
        made.stop()
        subprocess.run(["ip", "link", "del", cable], check=False, capture_output=True)


def set_interval(made: Cluster, interval: float) -> None:
    """Monitor the service at another interval."""
    change = f'<op id="{SERVICE}-m" interval="{interval:g}s"/>'
    made.run("cluster", "cibadmin", "-M", "-o", "resources", "-X", change)


def at_rest(made: Cluster) -> bool:
    """Whether the service runs and the cluster has nothing under way."""
    return made.where(SERVICE) == NODE and made.idle()


def _configuration(guest: Guest, interval: float) -> str:
    """The guest as a guest node, and the service, which is not even looked for where there is no systemd to ask."""

    def pairs(owner: str, **values: str) -> str:
        return "".join(
            f'<nvpair id="{owner}-{n}" name="{n.replace("_", "-")}" value="{v}"/>' for n, v in values.items()
        )

    parameters = pairs("guest-i", folder=str(guest.guests), name=guest.name)
    meta = pairs("guest-a", remote_node=NODE, remote_addr=guest.address)
    return (
        '<configuration><resources><primitive id="guest" class="ocf" provider="test" type="container">'
        f'<instance_attributes id="guest-i">{parameters}</instance_attributes>'
        f'<meta_attributes id="guest-a">{meta}</meta_attributes>'
        f'<operations><op id="guest-m" name="monitor" interval="{interval:g}s" timeout="20s"/>'
        '<op id="guest-t" name="start" interval="0" timeout="60s"/>'
        '<op id="guest-p" name="stop" interval="0" timeout="30s"/></operations></primitive>'
        f'<primitive id="{SERVICE}" class="systemd" type="{SERVICE}"><operations>'
        f'<op id="{SERVICE}-m" name="monitor" interval="{interval:g}s" timeout="20s"/></operations></primitive></resources>'
        f'<constraints><rsc_location id="l-guest" rsc="guest" node="{NODE}" score="-INFINITY"/>'
        f'<rsc_location id="l-{SERVICE}" rsc="{SERVICE}" node="node1" score="-INFINITY" resource-discovery="never"/>'
        "</constraints></configuration>"
    )
