"""The two kinds of node that our agent can be in a cluster, behind one face: how each is broken and looked into.

Both run in the cluster of `conftest`: a remote node (`ocf:pacemaker:remote`, a host of its own) and a guest node (a guest
as the engine makes them, that the cluster itself starts: a resource with the meta-attribute `remote-node`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import signal

import msgspec
import pytest

from pcloud.environment.infrastructure import GuestSpec
from pcloud.images.assembly import AssemblyImageSpec
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure import lxc_process, lxc_rootfs
from pcloud.infrastructure.lxc_settings import LxcSettings, render
from pcloud.model.deployable import SeedFile
from pcloud.model.errors import Unavailable
from tests.guests import SCRIPT, UNIT
from tests.peers.agents import SHARED
from tests.peers.cluster import PATIENCE, Cluster


class RemoteNode:
    """The remote node: a host whose agent the tests start."""

    name = "remote1"
    service = "d1"
    fenced_by_agent = True
    """Whether a fence agent is asked; a guest node is fenced by the end of its container."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.fence = self.reset
        cluster.start_agent()
        cluster.create(
            "resources",
            '<primitive id="remote1" class="ocf" provider="pacemaker" type="remote"><instance_attributes id="remote1-i">'
            f'<nvpair id="remote1-i-s" name="server" value="{cluster.remote_address}"/>'
            '<nvpair id="remote1-i-r" name="reconnect_interval" value="2s"/></instance_attributes><operations>'
            '<op id="remote1-m" name="monitor" interval="3s" timeout="20s"/></operations></primitive>',
        )
        cluster.service(self.service, self.name, interval="1s")
        cluster.wait_where(self.service, self.name)

    def boot(self) -> str:
        """Identity of the agent that runs now."""
        assert self.cluster.agent is not None
        return str(self.cluster.agent.pid)

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command on the node."""
        return self.cluster.run("remote", *argv, check=check)

    def kill_service(self, name: str) -> None:
        """`kill -9` of a `test:service`."""
        self.run("kill", "-9", self.cluster.pid(name))

    def signal_agent(self, number: int) -> None:
        """Send a signal to the agent."""
        self.cluster.signal_agent(number)

    def stop_agent(self) -> None:
        """Stop the agent in order, and start it again when it has ended."""
        assert self.cluster.agent is not None
        self.cluster.signal_agent(signal.SIGTERM)
        assert self.cluster.agent.wait(PATIENCE) == 0
        self.cluster.start_agent()

    def kill_agent(self) -> None:
        """`kill -9` of the agent, and a new one."""
        assert self.cluster.agent is not None
        self.cluster.signal_agent(signal.SIGKILL)
        self.cluster.agent.wait(60)
        self.cluster.start_agent()

    def cut_off(self) -> None:
        """Take the node off the network."""
        self.run("ip", "link", "set", self.cluster.links[1], "down")

    def reset(self) -> None:
        """What a power switch does: everything on the host ends; it boots again, with the agent."""
        assert self.cluster.agent is not None
        self.run("pkill", "-9", "-f", "^sleep 1000$", check=False)  # the services; the namespace has its own processes
        if self.cluster.agent.poll() is None:
            self.cluster.signal_agent(signal.SIGKILL)
            self.cluster.agent.wait(60)
        self.run("ip", "link", "set", self.cluster.links[1], "up")
        self.cluster.start_agent()


class GuestNode:
    """The guest node: an LXC guest of our JEOS image with systemd as its first process and our agent as a unit, its files
    and its configuration made as the LXC driver makes them; the cluster runs it by Debian's own `ocf:heartbeat:lxc`."""

    name = "guest1"
    service = "e1"
    fenced_by_agent = False

    IMAGE = AssemblyImageSpec(
        jeos="bookworm",
        packages=("pacemaker", "pacemaker-cli-utils"),
        disable_units=("corosync.service", "pacemaker.service"),
    )
    """Has the cluster's tools, for resource agents that call them. Debian has one of them, crm_node, only in the package of
    the cluster itself, which must not run here."""

    def __init__(self, cluster: Cluster, image: AssemblyImageSpec = IMAGE) -> None:
        self.cluster = cluster
        self._image = image
        if not shutil.which("lxc-start"):
            pytest.skip("needs the program lxc-start (Debian package lxc)")
        network = ipaddress.IPv4Network(f"10.96.{cluster.address.split('.')[2]}.0/24")
        self.container = f"{cluster.links[0]}.{self.name}"
        config = self._make(network)
        bridge = ("ip", "link", "add", "guests", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        for command in (
            bridge,
            ("ip", "addr", "add", f"{network[1]}/24", "dev", "guests"),
            ("ip", "link", "set", "guests", "up"),
        ):
            cluster.run("cluster", *command)
        cluster.at_end.append(lambda: lxc_process.remove_left_groups(self.container))
        values = {"container": self.container, "config": config, "log": "/run/g1.log"}
        cluster.create(
            "resources",
            '<primitive id="g1" class="ocf" provider="heartbeat" type="lxc"><instance_attributes id="g1-i">'
            + "".join(f'<nvpair id="g1-i-{name}" name="{name}" value="{value}"/>' for name, value in values.items())
            + '</instance_attributes><meta_attributes id="g1-a">'
            f'<nvpair id="g1-a-n" name="remote-node" value="{self.name}"/>'
            f'<nvpair id="g1-a-a" name="remote-addr" value="{network[2]}"/></meta_attributes><operations>'
            '<op id="g1-m" name="monitor" interval="3s" timeout="60s"/>'
            # The resource agent waits for an orderly end until five seconds before this is over.
            '<op id="g1-s" name="stop" interval="0" timeout="12s"/></operations></primitive>',
        )
        cluster.create("constraints", '<rsc_location id="l-g1" rsc="g1" node="remote1" score="-INFINITY"/>')
        cluster.service(self.service, self.name, interval="1s")
        cluster.wait_where("g1", "node1")
        cluster.wait_where(self.service, self.name, 90)

    def _make(self, network: ipaddress.IPv4Network) -> str:
        """Make the guest's files; return the path of its container's configuration."""
        try:
            image = asyncio.run(ImageStore().build_assembly(self._image))
        except Unavailable as error:
            pytest.skip(str(error))
        agents = self.cluster.folder / "agents" / "test"
        files = {f"/usr/lib/ocf/resource.d/test/{path.name}": path.read_text() for path in agents.iterdir()}
        files |= {"/etc/init.d/daemon": SCRIPT, "/etc/systemd/system/thing.service": UNIT}
        key = (self.cluster.folder / "authkey").read_bytes()
        spec = GuestSpec(
            guest_id=self.container,
            deployable="cluster",
            assembly=self.name,
            image=image,
            identity=msgspec.structs.replace(make_identity(self.name).identity, agent_key=key),
            seed=tuple(SeedFile(path=path, content=text, mode=0o755) for path, text in files.items()),
        )
        folder = self.cluster.folder / "guests" / self.container
        lxc_rootfs.create(folder.parent, spec)
        config = render(
            spec,
            folder,
            LxcSettings(),
            bridge="guests",
            address=ipaddress.IPv4Interface(f"{network[2]}/24"),
            gateway=network[1],
        )
        # What the tests look into from outside.
        config += f"lxc.mount.entry = {self.cluster.state} {SHARED.lstrip('/')} none bind,create=dir 0 0\n"
        (folder / "config").write_text(config)
        return str(folder / "config")

    def lxc(self, command: str, *argv: str, check: bool = True) -> str:
        """Run one of LXC's tools for the container."""
        return self.cluster.run("cluster", f"lxc-{command}", "-n", self.container, *argv, check=check).strip()

    def boot(self) -> str:
        """Identity of the container that runs now: its first process. Empty while none runs."""
        return self.lxc("info", "-p", "-H", check=False).replace("-1", "")

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command in the guest."""
        return self.lxc("attach", "--clear-env", "--", *argv, check=check)

    def kill_service(self, name: str) -> None:
        """`kill -9` of a `test:service`."""
        self.run("kill", "-9", self.cluster.pid(name))

    def agent(self) -> str:
        """Process id of the agent, in the guest."""
        return self.run("systemctl", "show", "-p", "MainPID", "--value", "pcloud-remoted")

    def signal_agent(self, number: int) -> None:
        """Send a signal to the agent; systemd starts another when it has ended."""
        self.run("kill", f"-{number}", self.agent())

    def stop_agent(self) -> None:
        """Stop the agent in order, as an upgrade of its package does."""
        self.run("systemctl", "restart", "--no-block", "pcloud-remoted")

    def kill(self) -> None:
        """End the guest as a crash would."""
        self.cluster.run("cluster", "kill", "-9", self.boot())
