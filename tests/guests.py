"""A Debian guest with full systemd and our agent in it, for tests of the agent: LXC on an overlay of a cached root."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pcloud.images.payload import agent_files
from tests.remoted import QUICK

CACHE = Path("/var/cache/pcloud-test/agent")
PACKAGES = "systemd-sysv,iproute2,python3-minimal,libpython3-stdlib,libgnutls30,dbus,procps"


def base(name: str = "rootfs", packages: str = PACKAGES, suite: str = "bookworm") -> Path:
    """Return the root file system that guests are laid over, built at the first call (some 20 s); skip where that can
    not be."""
    for program in ("lxc-start", "mmdebstrap", "ip"):
        if not shutil.which(program):
            pytest.skip(f"needs the program {program}")
    if os.geteuid() != 0:
        pytest.skip("needs root to run LXC guests")
    root = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            fresh = CACHE / f"{name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", f"--include={packages}"]
            command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
            done = subprocess.run(
                [*command, suite, str(fresh)], capture_output=True, text=True, check=False,
                pass_fds=(lock.fileno(),),  # it holds the lock as we do: who is killed here leaves it running
            )  # fmt: skip
            if done.returncode:
                pytest.skip(f"needs a Debian mirror to build a guest: {done.stderr[-300:]}")
            fresh.rename(root)
    return root


BOOT = ("cut", "-d", " ", "-f", "22", "/proc/1/stat")
"""Prints in a guest what another boot changes: when its first process started. (The time that `stat` tells of /proc/1 is
when the kernel last made the entry in its cache: it changes when memory is short.)"""


SCRIPT = r"""#!/bin/sh
case "$1" in
start) setsid sleep 7777 >/dev/null 2>&1 & echo $! > /run/daemon.pid ;;
stop) kill $(cat /run/daemon.pid); rm /run/daemon.pid ;;
status) [ -s /run/daemon.pid ] && kill -0 $(cat /run/daemon.pid) 2>/dev/null || exit 3 ;;
esac
"""


UNIT = "[Service]\nExecStart=/bin/sleep infinity\nRestart=always\n"


def put_services(upper: Path) -> None:
    """Put a systemd unit `thing` and an init script `daemon` into a guest's own layer."""
    (upper / "etc/systemd/system/thing.service").write_text(UNIT)
    (upper / "etc/init.d").mkdir(exist_ok=True)
    (upper / "etc/init.d/daemon").write_text(SCRIPT)
    (upper / "etc/init.d/daemon").chmod(0o755)


_held: list[socket.socket] = []
"""What reserves networks, as `tests.ports` does ports: gone with this process."""


def free_network() -> ipaddress.IPv4Network:
    """Return four addresses that no other guest on this machine has or will be given."""
    for _ in range(1000):
        number = secrets.randbelow(16000)
        network = ipaddress.IPv4Network((f"10.98.{number // 64}.{number % 64 * 4}", 30))
        with contextlib.ExitStack() as made, contextlib.suppress(OSError):
            held = made.enter_context(socket.socket(socket.AF_UNIX))
            held.bind(f"\0pcloud-test-network-{number}")
            with socket.socket() as probe:
                try:
                    probe.bind((str(network[1]), 0))
                except OSError:  # this host does not have it: no guest of a run that was killed does
                    made.pop_all()
                    _held.append(held)
                    return network
    raise RuntimeError("no network is free")


class Guest:
    """One running guest; `address` is reachable from here."""

    def __init__(self, folder: Path) -> None:
        self.name = f"agt{secrets.token_hex(3)}"
        self.folder = folder
        network = free_network()
        self.host_address, self.address = str(network[1]), str(network[2])
        self.port = 3121
        self.key = secrets.token_bytes(4096)
        self.kind = "pcloud"

    unit = "pcloud-remoted"

    def root(self) -> Path:
        """Return the root file system below the guest's own layer."""
        return base()

    def install(self, upper: Path) -> None:
        """Put our agent into the guest's own layer."""
        for file in agent_files():
            target = upper / file.path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.source, target)
            target.chmod(file.mode)
        wants = upper / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        (wants / "pcloud-remoted.service").symlink_to("/etc/systemd/system/pcloud-remoted.service")
        (upper / "etc/default").mkdir(exist_ok=True)
        (upper / "etc/default/pcloud-remoted").write_text('PCLOUD_REMOTED_OPTIONS="--log-level info"\n')

    def build(self) -> None:
        """Make the guest's files and its container's configuration."""
        root = self.root()
        upper = self.folder / "upper"
        upper.mkdir()
        self.install(upper)
        key = upper / "etc/pacemaker/authkey"
        key.parent.mkdir(parents=True)
        key.write_bytes(self.key)
        key.chmod(0o600)
        (upper / "etc/machine-id").write_text("")
        (upper / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
        self.prepare(upper)
        config = self.folder / self.name / "config"
        config.parent.mkdir()
        config.write_text(
            f"lxc.uts.name = {self.name}\nlxc.rootfs.path = overlay:{root}:{upper}\n"
            "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\nlxc.autodev = 1\nlxc.apparmor.profile = unconfined\n"
            "lxc.tty.max = 0\nlxc.pty.max = 64\nlxc.signal.halt = SIGRTMIN+3\n"
            f"lxc.console.logfile = {self.folder}/console\nlxc.net.0.type = veth\nlxc.net.0.veth.pair = {self.name}\n"
            f"lxc.net.0.name = eth0\nlxc.net.0.flags = up\nlxc.net.0.ipv4.address = {self.address}/30\n"
        )

    def start(self) -> None:
        """Make the guest and wait until its agent listens."""
        self.build()
        command = ["lxc-start", "-P", str(self.folder), "-n", self.name, "-d", "-o", str(self.folder / "log")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            log = (self.folder / "log").read_text() if (self.folder / "log").exists() else ""
            pytest.fail(f"the guest did not start: {done.stderr} {log[-1500:]}")
        subprocess.run(["ip", "addr", "add", f"{self.host_address}/30", "dev", self.name], check=True)
        subprocess.run(["ip", "link", "set", self.name, "up"], check=True)
        deadline = time.monotonic() + 300
        while self.run("systemctl", "is-active", self.unit, check=False).strip() != "active":
            assert time.monotonic() < deadline, self.run("journalctl", "-n", "50", check=False)
            time.sleep(0.1)
        while not self.listens():  # the daemon's unit is active before it does
            assert time.monotonic() < deadline, self.run("journalctl", "-n", "50", check=False)
            time.sleep(0.1)

    def listens(self) -> bool:
        """Tell whether the agent takes connections."""
        try:
            with socket.create_connection((self.address, self.port), 2):
                return True
        except OSError:
            return False

    def prepare(self, upper: Path) -> None:
        """Put more into the guest before its start; for sub-classes."""

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command in the guest and return its output."""
        command = ["lxc-attach", "-P", str(self.folder), "-n", self.name, "--clear-env", "--", *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def stop(self) -> None:
        """End the guest and its network."""
        subprocess.run(["lxc-stop", "-P", str(self.folder), "-n", self.name, "-k"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)


class PacemakerGuest(Guest):
    """A guest with Debian's own pacemaker-remoted instead of our agent."""

    unit = "pacemaker_remote"

    def __init__(self, folder: Path, suite: str = "bookworm") -> None:
        super().__init__(folder)
        self.suite = suite

    def root(self) -> Path:
        """Return a root with the Debian package pacemaker-remote: 2.1.5 of bookworm, 3.0.0 of trixie."""
        packages = "systemd-sysv,iproute2,dbus,procps,pacemaker-remote,resource-agents"
        self.kind = "pacemaker"
        return base("rootfs-pacemaker" + ("" if self.suite == "bookworm" else f"-{self.suite}"), packages, self.suite)

    def install(self, upper: Path) -> None:
        """The package is there; it is started at boot."""
        wants = upper / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True)
        (wants / "pacemaker_remote.service").symlink_to("/lib/systemd/system/pacemaker_remote.service")
        (upper / "etc/default").mkdir()
        (upper / "etc/default/pacemaker").write_text("".join(f"{name}={value}\n" for name, value in QUICK.items()))
