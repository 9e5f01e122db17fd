"""The two kinds of node that our agent can be in a cluster, behind one face: how each is broken and looked into.

Both run in the cluster of `conftest`: a remote node (`ocf:pacemaker:remote`, a host of its own) and a guest node (a
container that the cluster itself starts, a resource with the meta-attribute `remote-node`).
"""

from __future__ import annotations

import signal

from tests.peers.cluster import Cluster
from tests.remoted import AGENT


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
            '<op id="remote1-m" name="monitor" interval="3s" timeout="5s"/></operations></primitive>',
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
        assert self.cluster.agent.wait(60) == 0
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
    """The guest node: the container of the resource `g1`."""

    name = "guest1"
    service = "e1"
    fenced_by_agent = False

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        network = f"10.96.{cluster.address.split('.')[2]}"
        agent = " ".join([*AGENT, "--log-level", "debug"])
        cluster.create(
            "resources",
            '<primitive id="g1" class="ocf" provider="test" type="guest"><instance_attributes id="g1-i">'
            f'<nvpair id="g1-i-c" name="command" value="{agent}"/><nvpair id="g1-i-s" name="state" value="/run/g1.pid"/>'
            f'<nvpair id="g1-i-n" name="network" value="{network}"/></instance_attributes><meta_attributes id="g1-a">'
            '<nvpair id="g1-a-n" name="remote-node" value="guest1"/>'
            f'<nvpair id="g1-a-a" name="remote-addr" value="{network}.2"/></meta_attributes>'
            '<operations><op id="g1-m" name="monitor" interval="5s" timeout="10s"/></operations></primitive>',
        )
        cluster.create("constraints", '<rsc_location id="l-g1" rsc="g1" node="remote1" score="-INFINITY"/>')
        cluster.service(self.service, self.name, interval="1s")
        cluster.wait_where("g1", "node1")
        cluster.wait_where(self.service, self.name, 90)

    def boot(self) -> str:
        """Identity of the container that runs now."""
        return self.cluster.run("cluster", "cat", "/run/g1.pid", check=False).strip()

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command in the container."""
        init = self.cluster.run("cluster", "pgrep", "-P", self.boot()).strip()
        return self.cluster.run("cluster", "nsenter", "-t", init, "-n", "-m", "-i", "-p", "--", *argv, check=check)

    def kill_service(self, name: str) -> None:
        """`kill -9` of a `test:service`."""
        self.run("kill", "-9", self.cluster.pid(name))

    def signal_agent(self, number: int) -> None:
        """Send a signal to the agent; the container's first process starts another when it has ended."""
        self.run("pkill", f"-{number}", "-f", f"^{AGENT[0]} ")  # not the first process, which has it in its script

    def stop_agent(self) -> None:
        """Stop the agent in order."""
        self.signal_agent(signal.SIGTERM)

    def kill_agent(self) -> None:
        """`kill -9` of the agent."""
        self.signal_agent(signal.SIGKILL)

    def cut_off(self) -> None:
        """Take the container off the network."""
        self.run("ip", "link", "set", "guest1", "down")

    def kill(self) -> None:
        """End the container as a crash would."""
        self.cluster.run("cluster", "kill", "-9", self.boot())
