"""A real sshd on loopback with its own keys, port and mount namespace (its own agents and init scripts)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from pcloud.environment.transport import Endpoint, TransportError
from pcloud.transport.settings import SshSettings
from pcloud.transport.ssh import SshTransport
from pcloud.transport.ssh_connection import SshConnection
from tests.ports import free_port

AGENT = r"""#!/bin/sh
# A service that is a file with a process id; everything it was told is written down.
S=@STATE@; printf '%s %s\n' "$OCF_RESOURCE_INSTANCE" "$1" >> $S/calls
case $1 in
start) env > $S/env; setsid sleep 1000 & echo $! > $S/pid; echo started; exit 0 ;;
stop) [ -s $S/pid ] && kill -9 $(cat $S/pid) 2>/dev/null; rm -f $S/pid; exit 0 ;;
monitor) [ -s $S/pid ] && kill -0 $(cat $S/pid) 2>/dev/null && exit 0; echo "ocf-exit-reason:no process" >&2; exit 7 ;;
gate) until [ -e $S/open ]; do sleep 0.02; done; echo "$OCF_RESOURCE_INSTANCE opened" >> $S/calls; exit 0 ;;
slow) sleep 600 & echo $! > $S/child; sleep 600 ;;
noisy) head -c 5000000 /dev/zero | tr '\0' x; exit 0 ;;
fail) echo "ocf-exit-reason:first" >&2; echo "ocf-exit-reason:it is broken" >&2; exit 6 ;;
suicide) kill -SEGV $$ ;;
absent) exit 127 ;;
esac
exit 3
"""
INIT = """#!/bin/sh
case $1 in
status) exit $(cat @STATE@/lsb-status) ;;
start) exit $(cat @STATE@/lsb-start) ;;
esac
exit 0
"""


@dataclass
class Sshd:
    """A running sshd and what a client needs to reach it."""

    state: Path
    port: int
    process: subprocess.Popen[bytes]
    private_key: str
    host_key: str

    def endpoint(self, **changes: object) -> Endpoint:
        values: dict[str, object] = {
            "guest_id": "test.guest",
            "address": "127.0.0.1",
            "port": self.port,
            "private_key": self.private_key,
            "host_key": self.host_key,
        }
        return Endpoint(**(values | changes))  # type: ignore[arg-type]

    def sessions(self) -> list[int]:
        """Process ids of the sshd processes that carry connections."""
        return [pid for pid in descendants(self.process.pid) if command_name(pid) == "sshd" and pid != self.process.pid]

    def calls(self) -> list[str]:
        path = self.state / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def service(self) -> int:
        return int((self.state / "pid").read_text())


def command_name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def descendants(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            found += [int(child) for child in children]
            queue += [int(child) for child in children]
    return found


def running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail when it does not within these seconds, or five minutes if that is longer."""
    deadline = time.monotonic() + max(300.0, seconds)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def connected(
    endpoint: Endpoint, on_result: Callable[[object], None] = print, seconds: float = 600.0
) -> SshConnection:
    """Connect to the sshd of a guest that may be starting still, and be patient with it: an emulated one on a busy machine
    may take long for a health check. `on_result` is told of a lost connection, too."""
    deadline = time.monotonic() + seconds
    patient = SshSettings(health_timeout=120.0, keepalive_interval=60.0)
    while True:
        try:
            return await SshTransport(patient).connect(endpoint, on_result=on_result, on_lost=on_result, timeout=60)
        except TransportError as error:
            assert time.monotonic() < deadline, error
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def start_sshd(state: Path, *, extra: str = "") -> Iterator[Sshd]:
    """Run an sshd in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sshd, mount namespaces")
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists():
        pytest.skip("openssh-server is not installed")
    if not Path("/usr/lib/ocf/resource.d").is_dir():
        pytest.skip("resource-agents is not installed")
    Path("/run/sshd").mkdir(exist_ok=True)
    user, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host.write_private_key(state / "host")
    (state / "host").chmod(0o600)
    user.write_public_key(state / "authorized")
    for name, text in (
        ("ocf/pcloudtest/Fake", AGENT),
        ("init.d/pcloud-test", INIT),
        ("ocf/pcloudtest/Unreadable", "x"),
    ):
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@STATE@", str(state)))
        path.chmod(0o755)
    (state / "ocf/pcloudtest/Unreadable").chmod(0o644)
    port = free_port()
    (state / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {state}/host\nAuthorizedKeysFile {state}/authorized\nUsePAM no\n"
        f"PidFile none\nStrictModes no\nPermitRootLogin yes\nLogLevel VERBOSE\nSetEnv SHLVL=2\n{extra}"
    )
    script = (
        'mount --make-rprivate / && mount --bind "$1/ocf" /usr/lib/ocf/resource.d && mount --bind "$1/init.d" /etc/init.d '
        '&& exec "$2" -D -e -f "$1/config"'
    )
    log = (state / "log").open("wb")
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(state), sshd],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (state / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        public = user.export_private_key().decode()
        yield Sshd(state, port, process, public, host.export_public_key().decode())
    finally:
        own = [process.pid, *descendants(process.pid)]
        if (state / "pid").exists() and (text := (state / "pid").read_text().strip()):
            own.append(int(text))
        for pid in own:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        process.wait()
        log.close()
