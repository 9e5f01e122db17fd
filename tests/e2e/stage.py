"""A daemon of the tests' own, driven by the commands a user types. Ended by id; what an aborted run left is removed first.

What is looked at again and again until it is so (states, events, processes in guests) is asked by the typed client, which
the commands are made of: a command is a process, and two cores have better things to do.

The state folder has a fixed name, so that the next run finds what an aborted one left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pcloud.client.api import Client
from pcloud.client.errors import Refused
from pcloud.client.settings import Settings
from pcloud.infrastructure.lxc_segments import Segments
from pcloud.model.errors import PcloudError
from tests.guests import BOOT
from tests.manifests import SHOP as SHOP
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:5]
"""Keeps the runs of two checkouts apart, and finds again what an aborted run of this one left."""


def missing() -> str:
    """Say what this machine lacks for guests; empty when nothing."""
    if os.geteuid():
        return "guests need root"
    absent = [name for name in ("lxc-start", "mmdebstrap", "ip") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


PATIENCE = 120.0
"""Seconds that anything may take at least: a busy machine is no failure, and speed is the bench's business."""


def until(what: str, happened: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Ask until it is true."""
    seconds = max(seconds, PATIENCE)
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)


def names(resource: str) -> set[str]:
    """What of a kind exists on this machine: `links`, `mounts`, `guests`."""
    if resource == "links":
        found = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
        return {each["ifname"] for each in found}
    if resource == "mounts":
        return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return {line for line in _command_lines() if "[lxc monitor]" in line}


def _command_lines() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(f"{entry.parent.name} {entry.read_bytes().replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:
            continue
    return found


def about(text: str) -> list[str]:
    """Return pid and command line of every other process whose command line holds a text."""
    return [line for line in _command_lines() if text in line and not line.startswith(f"{os.getpid()} ")]


class Stage:
    """The daemon and the commands."""

    def __init__(self, name: str) -> None:
        """`name`, seven letters at most, is no other stage's: several workers run tests."""
        self.home = Path("/var/tmp") / f"pcloud-e2e-{CHECKOUT}-{name}.home"  # no folder's name begins another's
        self.bridge = f"pce{CHECKOUT}{name}"
        self.files = Path(f"{self.home}-files")
        remembered = self.home / "port"
        port = int(remembered.read_text()) if remembered.exists() else free_port()
        self._port = port
        self._client: Client | None = None
        self.environment = {
            **{key: value for key, value in os.environ.items() if key in {"PATH", "LANG", "HOME"}},
            "PCLOUD_HOME": str(self.home),
            "PCLOUD_URL": f"http://127.0.0.1:{port}",
            "NO_PROXY": "127.0.0.1",
            "COLUMNS": "200",
        }

    def open(self, settings: str = "") -> None:
        """Start the daemon, after removing what an aborted run left."""
        if self.home.exists():
            self.close()
        self.home.mkdir(mode=0o700)
        self.files.mkdir(exist_ok=True)
        (self.home / "port").write_text(str(self._port))
        (self.home / "pcloud.toml").write_text(f'{settings}[infrastructures.lxc]\nbridge = "{self.bridge}"\n')
        self.pcloud("up", "--detach")

    def close(self) -> None:
        """Remove every deployable and guest, end the daemon and its engines, remove the folders."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if (self.home / "token").exists():
            self.run("up", "--detach")
            for each in self.json("get"):
                self.run("delete", each["name"], "--yes", "--force", "--wait", "--timeout", "300s")
            self.run("down")
        for line in about(str(self.home)):
            if "pcloud-cped" in line or "pcloud-dped" in line or "pcloud.dpe" in line:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    os.kill(int(line.split()[0]), signal.SIGKILL)
        for folder in (self.home / "infrastructure/lxc/guests").glob("*/config"):
            subprocess.run(
                ["lxc-stop", "-k", "-P", str(folder.parents[1]), "-n", folder.parent.name],
                capture_output=True,
                check=False,
            )
        state = self.home / "infrastructure/lxc"
        segments = Segments(state)
        for path in (state / "routers").glob("*.json"):
            segments.remove_router(path.stem)
        for path in (state / "networks").glob("*.json"):
            segments.remove_network(path.stem)
        shutil.rmtree(self.home)
        shutil.rmtree(self.files, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)

    # --- commands

    def run(self, *words: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        """Run `pcloud` and return what came of it."""
        log = self.files / f"{time.monotonic_ns()}.out"
        with log.open("w") as out, log.with_suffix(".err").open("w") as err:  # the daemon would hold pipes open
            done = subprocess.run(
                [BIN / "pcloud", *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                text=True, check=False, timeout=timeout, cwd=self.files,
            )  # fmt: skip
        done.stdout, done.stderr = log.read_text(), log.with_suffix(".err").read_text()
        return done

    def pcloud(self, *words: str, code: int = 0) -> str:
        """Run `pcloud`, which must end with an exit code, and return its output."""
        done = self.run(*words)
        assert done.returncode == code, f"pcloud {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """Run `pcloud … -o json` and return what it says."""
        return json.loads(self.pcloud(*words, "-o", "json"))

    def write(self, name: str, text: str) -> str:
        """Write a file beside the state folder and return its path."""
        (self.files / name).write_text(text)
        return str(self.files / name)

    def apply(self, text: str, *words: str) -> str:
        """Apply a manifest and wait until all of it runs."""
        return self.pcloud("apply", "-f", self.write("manifest.yaml", text), "--wait", "--timeout", "25m", *words)

    # --- looking

    @property
    def client(self) -> Client:
        """The typed client of the daemon."""
        if self._client is None:
            token = (self.home / "token").read_text().strip()
            self._client = Client(Settings(url=self.environment["PCLOUD_URL"], token=token, home=str(self.home)))
        return self._client

    def guest(self, subject: str, *argv: str) -> str:
        """Run a command in a guest."""
        deployable, _, assembly = subject.partition("/")
        done = self.client.execute(deployable, assembly, argv)
        assert done.returncode == 0, f"{argv} in {subject}: {done.returncode}\n{done.stdout!r}{done.stderr!r}"
        return done.stdout.decode().strip()

    def answers(self, subject: str) -> bool:
        """Tell whether a guest runs commands."""
        deployable, _, assembly = subject.partition("/")
        try:
            return self.client.execute(deployable, assembly, ["true"]).returncode == 0
        except PcloudError:
            return False

    def main_pid(self, subject: str, unit: str) -> str:
        """Return the main process of a unit in a guest."""
        return self.guest(subject, "systemctl", "show", "-p", "MainPID", "--value", unit)

    def processes(self, name: str = "shop") -> dict[str, str]:
        """Return what must not change when nothing is restarted."""
        found: dict[str, str] = {}
        for assembly, unit in (("db", "mariadb"), ("web", "apache2")):
            # A process id alone may be that of another boot's process, too.
            found[unit] = self.guest(
                f"{name}/{assembly}", "systemctl", "show", "-p", "MainPID,ExecMainStartTimestampMonotonic", unit
            )
            found[assembly] = self.guest(f"{name}/{assembly}", *BOOT)
        return found

    def deployables(self) -> list[dict[str, Any]]:
        """Return what there is."""
        return list(msgspec.to_builtins(self.client.deployables()))

    def status(self, name: str = "shop") -> Any:
        """Return the status."""
        return msgspec.to_builtins(self.client.status(name))

    def statuses(self, prefix: str = "") -> list[Any]:
        """Return the status of every deployable whose name begins so; those that go away in this moment are not there."""
        found = []
        for each in self.deployables():
            if each["name"].startswith(prefix):
                try:
                    found.append(self.status(each["name"]))
                except Refused as refused:
                    if refused.status != 404:
                        raise
        return found

    def running(self, name: str = "shop", seconds: float = 60) -> None:
        """Wait until all of a deployable runs."""
        until(f"{name} running", lambda: self.status(name)["state"] == "running", seconds)

    def page(self, name: str = "shop") -> str:
        """Fetch the page of the web guest."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.page_url(name), timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def page_url(self, name: str = "shop") -> str:
        """Return where the page of the web guest is."""
        address = next(each["address"] for each in self.status(name)["assemblies"] if each["name"] == "web")
        return f"http://{address}/"

    def cursor(self) -> int:
        """Return the number of the newest event."""
        return int(self.client.cursor())

    def events(self, after: int = 0, name: str = "") -> list[dict[str, Any]]:
        """Return the events after a number, oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.client.events({"deployable": name} if name else {}, after=str(after), limit=1000)
            found += [msgspec.to_builtins(event) for event in page.events]
            if len(page.events) < 1000:
                return found
            after = int(page.events[-1].id)

    def told(self, after: int, subject: str, state: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for an event after a number."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.extend(e for e in self.events(after) if e["subject"] == subject and e["data"]["state"] == state)
            return bool(found)

        until(f"{subject} {state}", look, seconds)
        return found[0]

    # --- breaking

    def daemon_pid(self) -> int:
        """Return the daemon's process."""
        return int((self.home / "run/cped.lock").read_text().split()[0])

    def engine_pids(self) -> set[int]:
        """Return the engine processes that live."""
        ours = {int(line.split()[0]) for line in about(str(self.home))}
        locks = [lock.read_text().strip() for lock in (self.home / "run").glob("dped-*.lock")]
        return {int(text) for text in locks if text.isdigit()} & ours

    def kill_all(self) -> None:
        """`kill -9` of the daemon and every engine at the same time."""
        for pid in (self.daemon_pid(), *self.engine_pids()):
            os.kill(pid, signal.SIGKILL)

    def guest_init(self, guest_id: str) -> int:
        """Return the process id of a guest's init on the host."""
        words = ["lxc-info", "-P", str(self.home / "infrastructure/lxc/guests"), "-n", guest_id, "-p", "-H"]
        return int(subprocess.run(words, capture_output=True, check=True).stdout)

    def reborn(self, subject: str, before: int) -> bool:
        """Tell whether a guest runs commands whose init was another one before. It may go down between two questions, and
        one that was killed a moment ago may still answer."""
        if not self.answers(subject):
            return False
        try:
            return self.guest_init(subject.replace("/", ".")) not in (0, before)
        except (subprocess.CalledProcessError, ValueError):
            return False

    def left(self) -> list[str]:
        """What of guests is left: processes, mounts, folders, links."""
        guests = [
            str(each) for each in (self.home / "infrastructure/lxc/guests").glob("*/") if (each / "config").exists()
        ]
        mounts = [each for each in names("mounts") if str(self.home) in each]
        return guests + mounts + list(about(f"{self.home}/infrastructure/lxc/guests"))


def tutorial_manifest(text: str) -> str:
    """Return the manifest in a document."""
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found, "the document has no manifest"
    return found.group(1)
