"""Daemons that speak Pacemaker Remote, as real processes on loopback: ours, and Pacemaker's own from Debian's package.

Both get the same OCF agents (`test:service`) and init scripts from a temporary folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ports import free_port

SOURCE = Path(__file__).parent.parent / "src"
CACHE = Path("/var/cache/pcloud-test/pacemaker-remote")
PYTHON = os.environ.get("PCLOUD_AGENT_PYTHON") or (
    "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
)
"""The interpreter that guests have; another one for a run with `PCLOUD_AGENT_PYTHON`."""
AGENT = (PYTHON, "-I", "-S", "-OO", str(SOURCE / "pcloud/agent/boot.py"))
"""The agent, started as its systemd unit does it."""
QUICK = {"PCMK_dh_max_bits": "1024"}
"""Pacemaker's own daemon looks for a Diffie-Hellman prime at each start, which takes as long as it happens to: 0.3 s to 20 s
and more on a busy machine. No client of ours uses it."""

SERVICE = r"""#!/bin/sh
# A resource agent for tests. Parameters: dir (where it keeps its state), text.
# What a test puts into the file `then` is run once, by the next monitor that finds all well, before it says so.
dir="$OCF_RESKEY_dir"
echo "$1" >> "$dir/calls"
# On another host with the same folder the number is somebody else's.
here() { [ ! -e "$dir/host" ] || [ "$(readlink /proc/self/ns/pid)" = "$(cat "$dir/host")" ]; }
running() { [ -s "$dir/pid" ] && here && grep -q '^State:.[^Z]' "/proc/$(cat "$dir/pid")/status" 2>/dev/null; }
case "$1" in
start)
  if [ -e "$dir/fail-start" ]; then echo "ocf-exit-reason:told to fail" >&2; exit 1; fi
  running && exit 0
  setsid sleep 1000 </dev/null >/dev/null 2>&1 &
  readlink /proc/self/ns/pid > "$dir/host"
  echo $! > "$dir/pid"; exit 0 ;;
stop)
  running && kill "$(cat "$dir/pid")"
  rm -f "$dir/pid"; exit 0 ;;
monitor)
  if [ -e "$dir/hang" ]; then sleep 600 & echo $! > "$dir/hanging"; wait; fi
  if running; then
    if [ -e "$dir/then" ]; then mv "$dir/then" "$dir/now"; sh "$dir/now"; fi
    exit 0
  fi
  echo "ocf-exit-reason:no process" >&2; exit 7 ;;
validate-all) env > "$dir/env"; exit 0 ;;
notify) until [ -e "$dir/go" ]; do sleep 0.02; done; echo done >> "$dir/calls"; exit 0 ;;
reload) head -c 3000000 /dev/zero | tr '\0' x; exit 0 ;;
migrate_to) exit 77 ;;
migrate_from) kill -9 $$ ;;
meta-data) echo '<resource-agent name="service"/>'; exit 0 ;;
*) exit 3 ;;
esac
"""

SCRIPT = r"""#!/bin/sh
### BEGIN INIT INFO
# Provides:          thing
# Short-Description: a thing for tests
### END INIT INFO
dir="$(cat "$(dirname "$0")/dir")"
case "$1" in
start) setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! > "$dir/pid" ;;
stop) [ -s "$dir/pid" ] && kill "$(cat "$dir/pid")"; rm -f "$dir/pid"; exit 0 ;;
status) if [ -s "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; then exit 0; else exit 3; fi ;;
*) exit 2 ;;
esac
"""


def wait_for(condition: Callable[[], object], timeout: float = 60.0, what: str = "it") -> None:
    """Poll until the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout} s"
        time.sleep(0.01)


class Daemon:
    """A running daemon and its folders."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.port = free_port()
        self.key = secrets.token_bytes(4096)
        folder.mkdir(exist_ok=True)
        self.key_file = folder / "authkey"
        self.key_file.write_bytes(self.key)
        self.ocf_root = folder / "ocf"
        self.init = folder / "init.d"
        self.state = folder / "state"
        agents = self.ocf_root / "resource.d" / "test"
        for path in (agents, self.init, self.state):
            path.mkdir(parents=True)
        for path, text in ((agents / "service", SERVICE), (self.init / "thing", SCRIPT)):
            path.write_text(text)
            path.chmod(0o755)
        (agents / "unrunnable").write_text("#!/bin/sh\n")
        (self.init / "dir").write_text(str(self.state))
        self.log = folder / "log"
        self.log_level = "debug"
        self.command: tuple[str, ...] = AGENT
        """What starts our agent."""
        self.options: list[str] = []
        """Further options of our agent."""
        self.prefix: list[str] = []
        """What runs our agent somewhere else, such as `nsenter …`."""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start the daemon and wait until it listens."""
        with self.log.open("ab") as log:
            if self.kind == "pcloud":
                environment = {
                    **os.environ,
                    "OCF_ROOT": str(self.ocf_root),
                    "PCLOUD_LSB_ROOT": str(self.init),
                }
                command = [*self.prefix, *self.command, "--address", "127.0.0.1", "--port", str(self.port)]
                command += ["--authkey", str(self.key_file), "--log-level", self.log_level, *self.options]
            else:
                environment = {
                    **os.environ,
                    "PCMK_remote_address": "127.0.0.1",
                    "PCMK_remote_port": str(self.port),
                    "PCMK_authkey_location": str(self.key_file),
                    **QUICK,
                    "PCMK_logfile": "none",
                }
                command = ["unshare", "-m", "-i", "--propagation", "private", "sh", "-c", _ISOLATE, "sh"]
                command += [str(self.ocf_root / "resource.d"), str(self.init), str(real_daemon())]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            wait_for(self._listens, 300, f"{self.kind} listening")

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text(errors="replace")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Kill the daemon and what its agents started."""
        (self.state / "go").touch()  # for those that wait
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for name in ("pid", "hanging"):
            path = self.state / name
            if path.exists() and path.read_text().strip():
                subprocess.run(["kill", "-9", path.read_text().strip()], check=False, stderr=subprocess.DEVNULL)

    def service_pid(self) -> int:
        """Process id of the service that `test:service` or `thing` runs."""
        return int((self.state / "pid").read_text())

    def calls(self) -> list[str]:
        """The actions that were asked of `test:service`."""
        path = self.state / "calls"
        return path.read_text().split() if path.exists() else []

    def watched(self) -> set[int]:
        """Processes of whose end our agent is told by the kernel: it holds a pidfd of each."""
        assert self.process is not None
        lines: list[str] = []
        for file in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in this moment
                lines += file.read_text().splitlines()
        return {int(line.split()[1]) for line in lines if line.startswith("Pid:")}

    def wait_watched(self, pid: int) -> None:
        """Return once our agent watches a process. It can not tell whose one is that is just being executed, and looks
        again later."""
        wait_for(lambda: pid in self.watched(), what=f"process {pid} watched")


# Its own mounts and IPC names: the daemon publishes sockets under fixed names, of which a machine has one set.
_ISOLATE = """
for d in /run /var/lib/pacemaker /var/log/pacemaker /etc/libqb; do mkdir -p $d && mount -t tmpfs tmpfs $d || exit 1; done
touch /etc/libqb/force-filesystem-sockets
mkdir -p /run/crm /run/resource-agents /run/lock /var/lib/pacemaker/cores
mount --bind "$1" /usr/lib/ocf/resource.d && mount --bind "$2" /etc/init.d || exit 1
exec "$3"
"""


def _unpack() -> None:
    """Get the package and what is in it; skip where it can not be had."""
    done = subprocess.run(["apt-get", "download", "pacemaker-remote"], cwd=CACHE, capture_output=True, check=False)
    packages = sorted(CACHE.glob("pacemaker-remote_*.deb"))
    if done.returncode or not packages:
        pytest.skip("needs the Debian package pacemaker-remote, which could not be downloaded")
    fresh = CACHE / "root.new"
    shutil.rmtree(fresh, ignore_errors=True)
    subprocess.run(["dpkg", "-x", str(packages[-1]), str(fresh)], check=True)
    fresh.rename(CACHE / "root")


def real_daemon() -> Path:
    """Return Pacemaker's own daemon, unpacked (never installed: the package conflicts with pacemaker); skip where it
    can not be had."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the real pacemaker-remoted runs in namespaces")
    path = CACHE / "root/usr/sbin/pacemaker-remoted"
    if not path.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            pytest.skip("needs Debian's apt-get to fetch pacemaker-remote")
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _unpack()
    if not Path("/usr/lib/ocf/resource.d").is_dir():
        pytest.skip("needs the Debian package resource-agents")
    missing = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout.count("not found")
    if missing:
        pytest.skip("needs the libraries of the Debian packages pacemaker and libpacemaker1")
    return path
