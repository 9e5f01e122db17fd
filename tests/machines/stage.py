"""A daemon of the tests' own and a small deployable, on any infrastructure, over any transport: the whole engine, real."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcloud.client.api import Client
from pcloud.client.records import CloudEvent
from pcloud.client.settings import Settings
from tests.ports import free_port

BIN = Path(sys.executable).parent
MANIFEST = """\
deployable: pctshop
infrastructure: @INFRASTRUCTURE@
assemblies:
  db:
    image: bookworm
    transport: ssh
    resources:
      front: {template: nginx, monitor: 10s}
    escalation: {failures: 9, period: 6h}
  web:
    image: bookworm
    after: [db]
    transport: remote
    resources:
      front:
        template: nginx
        monitor: 10s
        parameters: {db_host: {reference: db.ipaddress}}
        escalation: {failures: 3, period: 6h}
    escalation: {failures: 9, period: 6h}
  app:
    image: bookworm
    after: [db]
    transport: ssh
    resources:
      front:
        template: nginx
        monitor: 10s
        parameters: {db_host: {reference: db.ipaddress}}
        escalation: {failures: 3, period: 6h}
    escalation: {failures: 9, period: 6h}
"""
"""One deployable for both transports: `web` is watched by our agent, `app` by its sshd. Every fault is made in both."""
NAME = "pctshop"


class World:
    """What differs between infrastructures: how guests are broken from outside."""

    infrastructure = "lxc"
    slow = 1.0
    """How much longer everything may take."""

    def __init__(self) -> None:
        # Others' of the same name are in the way: of a run that was killed, too.
        self.bridge = f"pcm{os.getpid()}"

    def settings(self, home: Path) -> str:
        """The daemon's settings."""
        return f'[infrastructures.lxc]\nbridge = "{self.bridge}"\n'

    def kill(self, home: Path, guest_id: str) -> None:
        """End a guest as a crash would."""
        os.kill(self._init(home, guest_id), signal.SIGKILL)

    def hang(self, home: Path, guest_id: str) -> None:
        """Stop a guest's execution without ending it."""
        subprocess.run(["lxc-freeze", "-P", str(home / "infrastructure/lxc/guests"), "-n", guest_id], check=True)

    @staticmethod
    def _init(home: Path, guest_id: str) -> int:
        command = ["lxc-info", "-P", str(home / "infrastructure/lxc/guests"), "-n", guest_id, "-p", "-H"]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)


class Stage:
    """The daemon, a client of it, and the deployable."""

    def __init__(self, home: Path, world: World) -> None:
        self.home, self.world = home, world
        port = free_port()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PCLOUD_TOKEN")}
        self.environment |= {
            "PCLOUD_HOME": str(home),
            "PCLOUD_URL": f"http://127.0.0.1:{port}",
            "NO_PROXY": "127.0.0.1",
        }
        self.port = port
        self.client: Client
        self.others: list[str] = []
        """Deployables that a test made beside, to be deleted at the end."""

    def pcloud(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        log = self.home.parent / "command.log"
        with log.open("w") as file:  # a pipe would be held open by the daemon
            done = subprocess.run(
                [str(BIN / "pcloud"), *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                text=True, check=False,
            )  # fmt: skip
        done.stdout = log.read_text()
        assert not check or done.returncode == 0, done.stdout[-3000:]
        return done

    def up(self, *, check: bool = True) -> None:
        """Start the daemon, unless it runs."""
        self.pcloud("up", "--detach", "--timeout", "300s", check=check)

    def apply_text(self, text: str, timeout: str) -> None:
        """Apply a manifest, `@INFRASTRUCTURE@` in it being the one word that changes, and wait until all of it runs."""
        manifest = self.home.parent / "manifest.yaml"
        manifest.write_text(text.replace("@INFRASTRUCTURE@", self.world.infrastructure))
        self.pcloud("apply", "-f", str(manifest), "--wait", "--timeout", timeout)

    def guest(self, assembly: str, *argv: str, deployable: str = NAME) -> str:
        done = self.client.execute(deployable, assembly, argv)
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout.decode().strip()

    def cursor(self) -> str:
        return self.client.cursor()

    def event(
        self,
        cursor: str,
        kind: str,
        assembly: str,
        resource: str = "",
        state: str = "",
        seconds: float = 60,
        deployable: str = NAME,
    ) -> CloudEvent:
        """Wait for an event after a cursor."""

        def wanted(event: CloudEvent) -> bool:
            return (
                event.type.endswith(kind)
                and event.text("assembly") == assembly
                and event.text("resource") == resource
                and (not state or event.text("state") == state)
            )

        deadline = time.monotonic() + max(300, seconds * self.world.slow)
        while True:
            page = self.client.events({"deployable": deployable}, after=cursor, limit=1000)
            for event in page.events:
                if wanted(event):
                    return event
            seen = [
                (e.type, e.text("assembly"), e.text("resource"), e.text("state"), e.text("reason")) for e in page.events
            ]
            assert time.monotonic() < deadline, (kind, assembly, resource, state, seen)
            time.sleep(0.1)

    def kill_engines(self) -> None:
        """`kill -9` of every engine process."""
        for lock in (self.home / "run").glob("dped-*.lock"):
            kill(int(lock.read_text()))

    def kill_daemon(self) -> None:
        """`kill -9` of the daemon."""
        kill(int((self.home / "run/cped.lock").read_text().split()[0]))

    def running(self, seconds: float = 120) -> None:
        self.until(lambda: self.client.status(NAME).state.value == "running", seconds)

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + max(300, seconds * self.world.slow)
        while not condition():
            assert time.monotonic() < deadline, self.client.status(NAME)
            time.sleep(0.2)


def kill(pid: int) -> None:
    """`kill -9`; returns when the process is gone: until then it holds its locks, and its port."""
    gone = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        ended, _, _ = select.select([gone], [], [], 120)
        assert ended, f"{pid} does not end"
    finally:
        os.close(gone)


@contextlib.contextmanager
def stage(folder: Path, world: World) -> Iterator[Stage]:
    """Run a daemon; at the end the deployable, the daemon and its engines are gone."""
    if os.geteuid() != 0:
        pytest.skip("needs root: guests")
    for program in ("mmdebstrap", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    home = folder / "home"
    home.mkdir(mode=0o700)
    it = Stage(home, world)
    (home / "pcloud.toml").write_text(world.settings(home))
    it.up()
    try:
        token = (home / "token").read_text().strip()
        it.client = Client(Settings(url=it.environment["PCLOUD_URL"], token=token, home=str(home)))
        yield it
        it.client.close()
    finally:
        it.up(check=False)
        it.pcloud("delete", NAME, "--wait", "--yes", check=False)
        for other in it.others:
            it.pcloud("delete", other, "--wait", "--yes", "--force", check=False)
        it.pcloud("down", check=False)
