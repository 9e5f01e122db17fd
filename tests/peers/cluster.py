"""A real one-node cluster (corosync and Pacemaker) in namespaces of its own, with our agent as its remote and guest node.

The cluster and the remote host each have their own network, mounts, IPC names and processes; a pair of virtual Ethernet
devices joins them. No systemd is needed. Fencing goes through a fake fence agent that asks the test to do it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.peers.agents import ATTRIBUTES, CONTAINER, COROSYNC, ENTER, FENCE, HOLD, META, SHARED
from tests.remoted import AGENT, SERVICE

PATIENCE = 300.0
"""Seconds that anything may take at least: a busy machine is no failure."""


class Cluster:
    """The cluster and the remote host beside it.

    `root` is the root of the distribution whose cluster it is; None for this machine's. `key` is that of the remote nodes; a
    new one where none is given.
    """

    def __init__(self, folder: Path, root: Path | None = None, *, key: bytes = b"") -> None:
        self.root = root
        self._key = key or secrets.token_bytes(4096)
        tag = secrets.token_hex(2)
        number = secrets.randbelow(250) + 1
        self.folder = folder
        self.address, self.remote_address = f"10.97.{number}.1", f"10.97.{number}.2"
        self.links = (f"agc{tag}", f"agr{tag}")
        self.holders: dict[str, subprocess.Popen[bytes]] = {}
        self.pids: dict[str, int] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.pacemaker: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None
        self.state = folder / "state"
        self.state.mkdir(mode=0o777)
        self.fence: Callable[[], None] = lambda: None
        self.at_end: list[Callable[[], None]] = []
        """What remains to be done when all processes have ended."""
        self._closing = False

    def start(self) -> None:
        """Bring all of it up; skip where the machine can not."""
        of_cluster = () if self.root else ("corosync", "pacemakerd", "cibadmin", "crm_mon")
        for program in (*of_cluster, "unshare", "ip"):
            if not shutil.which(program):
                pytest.skip(f"needs the program {program} (Debian packages corosync, pacemaker, iproute2)")
        if os.geteuid() != 0:
            pytest.skip("needs root for namespaces")
        (self.folder / "authkey").write_bytes(self._key)
        (self.folder / "corosync.conf").write_text(COROSYNC.format(address=self.address))
        agents = self.folder / "agents" / "test"
        agents.mkdir(parents=True)
        service = SERVICE.replace(
            """meta-data) echo '<resource-agent name="service"/>'; exit 0 ;;""", f"meta-data) {META} ;;"
        )
        for path, text in (
            (agents / "service", service),
            (agents / "container", CONTAINER.replace("@META@", META)),
            (agents / "attributes", ATTRIBUTES.replace("@META@", META)),
            (self.folder / "fence_test", FENCE.replace("@DIR@", str(self.folder))),
        ):
            path.write_text(text)
            path.chmod(0o755)
        (self.folder / "fence.asked").touch()
        (self.folder / "fence.asked").chmod(0o666)
        self.folder.chmod(0o777)
        for who in ("cluster", "remote"):
            command = [
                "unshare",
                "-n",
                "-m",
                "-i",
                "-p",
                "--fork",
                "--mount-proc",
                "--kill-child",
                "--propagation",
                "private",
            ]
            command += ["bash", "-c", ENTER if self.root and who == "cluster" else HOLD, "hold", str(self.folder), who]
            command += [str(self.root), HOLD]
            with (self.folder / f"{who}.log").open("wb") as log:
                self.holders[who] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            self._until((self.folder / f"{who}.ready").exists, 20, f"namespaces of the {who}")
            holder = self.holders[who].pid
            self.pids[who] = int(Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0])
        subprocess.run(["ip", "link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1]], check=True)
        for who, link, address in zip(
            ("cluster", "remote"), self.links, (self.address, self.remote_address), strict=True
        ):
            subprocess.run(["ip", "link", "set", link, "netns", str(self.pids[who])], check=True)
            self.run(who, "ip", "addr", "add", f"{address}/24", "dev", link)
            self.run(who, "ip", "link", "set", link, "up")
        self.spawn("cluster", "corosync", "-f")
        self._until(lambda: self._does("cluster", "corosync-cpgtool"), 20, "corosync")
        self._configure()
        self.start_pacemaker()
        self.option("stonith-enabled", "false")
        threading.Thread(target=self._fence_loop, daemon=True).start()

    def _configure(self) -> None:
        """Write a first configuration: a cluster of one node need not wait for what others have to say."""
        empty = ElementTree.fromstring(self.run("cluster", "cibadmin", "--empty"))
        options = ElementTree.SubElement(
            empty.findall("./configuration/crm_config")[0], "cluster_property_set", id="cib-bootstrap-options"
        )
        name = "dc-deadtime"
        ElementTree.SubElement(options, "nvpair", id=f"cib-bootstrap-options-{name}", name=name, value="2s")
        script = 'umask 077; cat > "$1"; chown hacluster:haclient "$1"'
        words = ("sh", "-c", script, "sh", "/var/lib/pacemaker/cib/cib.xml")
        self.run("cluster", *words, stdin=ElementTree.tostring(empty, "unicode"))

    # --- processes

    def command(self, who: str, *argv: str) -> list[str]:
        """Return the command line that runs `argv` in the namespaces of `cluster` or `remote`."""
        return ["nsenter", "-t", str(self.pids[who]), "-n", "-m", "-i", "-p", "-r", "-w", "--", *argv]

    def run(self, who: str, *argv: str, check: bool = True, stdin: str = "") -> str:
        """Run a command there and return its output."""
        done = subprocess.run(self.command(who, *argv), capture_output=True, text=True, check=False, input=stdin)
        assert not check or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def _does(self, who: str, *argv: str) -> bool:
        """Tell whether a command succeeds there."""
        return subprocess.run(self.command(who, *argv), capture_output=True, check=False).returncode == 0

    def spawn(self, who: str, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process there."""
        with (self.folder / f"{Path(argv[0]).name}.log").open("ab") as log:
            made = subprocess.Popen(
                self.command(who, *argv),
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.processes.append(made)
        return made

    def start_pacemaker(self) -> None:
        """Start Pacemaker and wait until its node is online."""
        self.pacemaker = self.spawn("cluster", "pacemakerd", "-f", PCMK_logfile="/var/log/pacemaker/pacemaker.log")
        self._until(lambda: self.online("node1"), 120, "the cluster's node online")

    def stop_pacemaker(self) -> None:
        """Stop Pacemaker in order."""
        assert self.pacemaker is not None
        self.run("cluster", "pkill", "-TERM", "-x", "pacemakerd")
        self.pacemaker.wait(PATIENCE)

    def start_agent(self) -> None:
        """Start our agent on the remote host."""
        self.agent = self.spawn("remote", *AGENT, "--log-level", "debug")

    def signal_agent(self, number: int) -> None:
        """Send a signal to the agent itself (which is a child of `nsenter`)."""
        assert self.agent is not None
        children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split()
        os.kill(int(children[0]) if children else self.agent.pid, number)
        if number == signal.SIGKILL:
            os.kill(self.agent.pid, signal.SIGCONT)  # `nsenter` stops itself together with its child

    def _fence_loop(self) -> None:
        done = 0
        while not self._closing:
            asked = (self.folder / "fence.asked").read_text().splitlines()
            if len(asked) > done:
                self.fence()
                done += 1
                (self.folder / "fence.done").write_text("".join(f"{line}\n" for line in asked[:done]))
            time.sleep(0.05)

    def fenced(self) -> list[str]:
        """What the fake fence agent was asked."""
        return (self.folder / "fence.asked").read_text().splitlines()

    # --- configuration and state

    def option(self, name: str, value: str) -> None:
        """Set a cluster option."""
        self.run("cluster", "crm_attribute", "-t", "crm_config", "-n", name, "-v", value)

    def create(self, section: str, xml: str) -> None:
        """Add to the configuration."""
        self.run("cluster", "cibadmin", "-C", "-o", section, "-X", xml)

    def meta(self, resource: str, name: str, value: str) -> None:
        """Set a meta-attribute of a resource."""
        self.run("cluster", "crm_resource", "-r", resource, "--meta", "-p", name, "-v", value)

    def status(self) -> ElementTree.Element:
        """Return crm_mon's XML; an empty element while the cluster does not answer."""
        text = self.run("cluster", "crm_mon", "-1", "--output-as=xml", check=False)
        return ElementTree.fromstring(text) if text else ElementTree.Element("none")

    def online(self, node: str) -> bool:
        """Whether the cluster holds a node online and clean."""
        found = self.status().find(f"./nodes/node[@name='{node}']")
        return found is not None and found.get("online") == "true" and found.get("unclean") == "false"

    def idle(self) -> bool:
        """Whether the cluster has nothing under way."""
        return "S_IDLE" in self.run("cluster", "crmadmin", "-S", "node1", check=False)

    def where(self, resource: str) -> str:
        """The node on which a resource is active and well, or empty."""
        for found in self.status().iterfind(f".//resources//resource[@id='{resource}']"):
            node = found.find("node")
            well = found.get("role") == "Started" and found.get("failed") == "false" and found.get("pending") is None
            if well and node is not None and self.online(node.get("name", "")):
                return node.get("name", "")
        return ""

    def wait_where(self, resource: str, node: str, timeout: float = 60) -> None:
        """Wait until a resource is active on that node (empty: nowhere)."""
        self._until(lambda: self.where(resource) == node, timeout, f"{resource} on {node or 'no node'}")

    def _until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        timeout = max(timeout, PATIENCE)
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                text = self.run("cluster", "crm_mon", "-1rfA", check=False) if "cluster" in self.pids else ""
                log = (
                    self.run("cluster", "tail", "-n", "60", "/var/log/pacemaker/pacemaker.log", check=False)
                    if self.pids
                    else ""
                )
                pytest.fail(f"{what} did not happen within {timeout:.0f} s\n{text}\n{log}")
            time.sleep(0.1)

    def until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Poll until `condition()` holds."""
        self._until(condition, timeout, what)

    def calls(self, resource: str) -> list[str]:
        """The actions that were asked of a `test:service` whose state is `resource`'s folder."""
        path = self.state / resource / "calls"
        return path.read_text().split() if path.exists() else []

    def service(
        self,
        name: str,
        node: str,
        interval: str = "60s",
        agent: str = "service",
        *,
        pinned: bool = True,
    ) -> None:
        """Configure a `test:service` (or another agent: one of the tests, or `CLASS:TYPE`) that may run on one node only,
        or prefers it. Its state is below `state`."""
        (self.state / name).mkdir(mode=0o777)
        which = f'class="ocf" provider="test" type="{agent}"'
        if ":" in agent:
            which = 'class="{}" type="{}"'.format(*agent.split(":"))
        operation, score = ("ne", "-INFINITY") if pinned else ("eq", "100")
        # Where there is no systemd, a cluster can not even ask whether a unit runs.
        discovery = "exclusive" if ":" in agent else "always"
        if discovery == "exclusive":
            operation, score = ("eq", "INFINITY")
        resource = (
            f'<primitive id="{name}" {which}><instance_attributes id="{name}-i">'
            f'<nvpair id="{name}-i-dir" name="dir" value="{SHARED}/{name}"/></instance_attributes><operations>'
            f'<op id="{name}-m" name="monitor" interval="{interval}" timeout="20s"/></operations></primitive>'
        )
        constraint = (
            f'<rsc_location id="l-{name}" rsc="{name}" resource-discovery="{discovery}"><rule id="l-{name}-r" '
            f'score="{score}"><expression id="l-{name}-e" attribute="#uname" operation="{operation}" value="{node}"/>'
            "</rule></rsc_location>"
        )
        # Both at once: a cluster would look for the resource everywhere before it knew where it may be.
        both = f"<resources>{resource}</resources><constraints>{constraint}</constraints>"
        both = f"<configuration>{both}</configuration>"
        self.run("cluster", "cibadmin", "-M", "-c", "-o", "configuration", "-X", both)

    def remove(self, name: str) -> None:
        """Stop a `service` and take it out of the configuration."""
        self.meta(name, "target-role", "Stopped")
        self.wait_where(name, "")
        self.until(self.idle, 30, "the cluster idle")
        both = f"//configuration//*[@id='l-{name}' or @id='{name}']"
        self.run("cluster", "cibadmin", "--delete-all", "--force", "--xpath", both)
        shutil.rmtree(self.state / name)

    def pid(self, name: str) -> str:
        """Process id, in the namespace, of a `test:service`."""
        return (self.state / name / "pid").read_text().strip()

    def stop(self) -> None:
        """End all of it."""
        self._closing = True
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)  # the namespace's first process: all in it end
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for holder in self.holders.values():
            holder.wait(PATIENCE)  # it ends when all that were in its namespaces have
        subprocess.run(["ip", "link", "del", self.links[0]], capture_output=True, check=False)
        for rest in self.at_end:
            rest()
