"""Where the demonstration plays: a daemon of its own, with its own state folder, port, bridge and guests.

Everything is ended by id and removed at the end; what an aborted run left behind is removed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from pcloud.client.api import Client
from pcloud.client.settings import load

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
HOME = Path(os.environ.get("PCLOUD_DEMO_HOME", "/var/lib/pcloud-demo"))
LIBVIRT = Path(f"{HOME}-libvirt")
BRIDGE = "pcloud-demo0"
NAME = "wordpress"


class StageError(Exception):
    """A step of the demonstration did not happen."""


class Stage:
    """The daemon and the deployable of the demonstration."""

    def __init__(self, infrastructure: str) -> None:
        self.infrastructure = infrastructure
        port = _remembered_port() or _free_port()
        self.environment = {
            **os.environ,
            "PCLOUD_HOME": str(HOME),
            "PCLOUD_URL": f"http://127.0.0.1:{port}",
            "NO_PROXY": "127.0.0.1",
        }
        self.environment.pop("PCLOUD_TOKEN", None)
        os.environ.update({key: self.environment[key] for key in ("PCLOUD_HOME", "PCLOUD_URL", "NO_PROXY")})
        os.environ.pop("PCLOUD_TOKEN", None)
        self._port = port
        self.slow = 4 if infrastructure == "libvirt" else 1
        """How much longer everything may take: machines boot, and without KVM every instruction in them is emulated."""
        self.servers_only = False
        """Whether guests are but entries in a cloud's books: a cloud for tests, whose servers have nothing inside."""

    def prepare(self) -> None:
        """Remove what an aborted run left, and write the daemon's settings."""
        if HOME.exists():
            self.remove()
        HOME.mkdir(mode=0o700, parents=True)
        (HOME / "port").write_text(str(self._port))
        (HOME / "pcloud.toml").write_text(self._settings())
        if self.servers_only:
            from demo import servers

            self.manifest.write_text(servers.MANIFEST)
            return
        # The same manifest, one word changed.
        text = (HERE / "wordpress.yaml").read_text()
        self.manifest.write_text(text.replace("infrastructure: lxc\n", f"infrastructure: {self.infrastructure}\n", 1))

    @property
    def manifest(self) -> Path:
        """The manifest that is applied."""
        return HOME / "wordpress.yaml"

    def _settings(self) -> str:
        if self.infrastructure == "libvirt":
            from demo import libvirtd

            where = libvirtd.uri(LIBVIRT)
            names = 'network = "pcloud-demo"\npool = "pcloud-demo"\nmemory = 768'
            return f'[infrastructures.libvirt]\nuri = "{where}"\n{names}\n'
        if self.infrastructure == "openstack":
            from demo import servers

            return servers.settings()
        return f'[infrastructures.lxc]\nbridge = "{BRIDGE}"\n'

    def pcloud(self, *words: str, check: bool = True) -> int:
        """Run a `pcloud` command as a user would, on this terminal; StageError when it fails."""
        print(f"\n\033[1m$ pcloud {' '.join(words)}\033[0m" if sys.stdout.isatty() else f"\n$ pcloud {' '.join(words)}")
        sys.stdout.flush()
        done = subprocess.run([str(BIN / "pcloud"), *words], env=self.environment, check=False)
        if check and done.returncode:
            raise StageError(f"pcloud {' '.join(words)} ended with exit status {done.returncode}")
        return done.returncode

    def client(self) -> Client:
        """Return a client of the daemon."""
        return Client(load())

    def engine_pids(self) -> list[int]:
        """Return the process ids of the engine processes."""
        found = []
        for lock in sorted((HOME / "run").glob("dped-*.lock")):
            text = lock.read_text().strip()
            if text.isdigit() and _is_ours(int(text)):
                found.append(int(text))
        return found

    def daemon_pid(self) -> int:
        """Return the daemon's process id."""
        return int((HOME / "run" / "cped.lock").read_text().split()[0])

    def remove(self) -> None:
        """Remove the deployable, end the daemon and its engines, and remove the state folder."""
        if not HOME.exists():
            return
        if (HOME / "token").exists():
            self.pcloud("up", "--detach", check=False)
            if any(each.name == NAME for each in self.client().deployables()):
                self.pcloud("delete", NAME, "--wait", "--yes", check=False)
            self.pcloud("down", check=False)
        wait_for("the end of the engine processes", lambda: not self.engine_pids(), 120)
        if LIBVIRT.exists():
            from demo import libvirtd

            libvirtd.stop(LIBVIRT)
            shutil.rmtree(LIBVIRT)
        shutil.rmtree(HOME)


def _is_ours(pid: int) -> bool:
    try:
        return str(HOME).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _remembered_port() -> int:
    try:
        return int((HOME / "port").read_text())
    except (OSError, ValueError):
        return 0


def _free_port() -> int:
    """Return a port below those that kernels give to the near ends of connections: none takes it before the daemon does."""
    for port in random.sample(range(20_000, 25_000), 1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise StageError("no port is free")


def wait_for(what: str, ready: object, seconds: float) -> float:
    """Ask again and again until `ready()` is true; return the time it was, or raise StageError after `seconds`."""
    assert callable(ready)
    end = time.time() + seconds
    while True:
        if ready():
            return time.time()
        if time.time() > end:
            raise StageError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.02)
