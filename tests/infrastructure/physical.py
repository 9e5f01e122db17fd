"""A "physical host" for the tests: a container with systemd and sshd that nothing of ours made, and a fence agent for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pcloud.images.identity import make_identity
from tests.guests import PACKAGES, UNIT, Guest, base
from tests.infrastructure.machine import rootfs

AGENT = Path(__file__).with_name("fence_container")
AGENT_PORT = 3121
PASSWORD = "correct horse"
"""The one the fence agent takes; it must never be seen anywhere."""


NEEDED = (
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the containers that stand for hosts"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed (package openssh-client)"),
)
"""Marks of tests with such hosts."""


class PhysicalHost(Guest):
    """A host that is there already: sshd, a unit `thing`, and nothing of ours."""

    unit = "ssh"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.port = 22
        self.identity = make_identity(self.name)
        self.fail, self.hold, self.log = folder / "fail", folder / "hold", folder / "actions"

    def root(self) -> Path:
        """Return a Debian with sshd."""
        return rootfs()

    def install(self, upper: Path) -> None:
        """Put the keys and the service into the host's own layer."""
        for path, content, mode in (
            ("etc/ssh/ssh_host_ed25519_key", self.identity.identity.host_private_key, 0o600),
            ("root/.ssh/authorized_keys", self.identity.identity.authorized_key + "\n", 0o600),
            ("etc/systemd/system/thing.service", UNIT.replace("Restart=always\n", ""), 0o644),
        ):
            file = upper / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            file.chmod(mode)
        (upper / "root").chmod(0o700)

    def settings(self) -> dict[str, Any]:
        """Return what the configuration says of the host, with its secrets in files."""
        key, password = self.folder / "key", self.folder / "password"
        for path, content in ((key, self.identity.private_key), (password, f"{PASSWORD}\n")):
            path.touch(0o600)
            path.write_text(content)
        return {
            "address": self.address,
            "key_file": str(key),
            "host_key": self.identity.host_key,
            "silence": 1.5,
            "fence": {
                "agent": str(AGENT),
                "parameters": {
                    "plug": self.name,
                    "folder": str(self.folder),
                    "gateway": self.host_address,
                    "fail": str(self.fail),
                    "hold": str(self.hold),
                    "log": str(self.log),
                },
                "secrets": {"password": str(password)},
                "timeout": 120.0,
                "status_timeout": 60.0,
            },
        }

    def is_on(self) -> bool:
        """Tell whether it is switched on, running or frozen."""
        return self.state() != "STOPPED"

    def state(self) -> str:
        """Return what LXC says of it."""
        return self._lxc("lxc-info", "-s", "-H").strip()

    def kill(self) -> None:
        """Cut its power."""
        self._lxc("lxc-stop", "-k")

    def freeze(self) -> None:
        """Have nothing in it execute any more."""
        self._lxc("lxc-freeze")

    def switch_on(self) -> None:
        """Switch it on by its own device, as a person would."""
        given = {**self.settings()["fence"]["parameters"], "password": PASSWORD, "action": "on"}
        lines = "".join(f"{key}={value}\n" for key, value in given.items())
        subprocess.run([str(AGENT)], input=lines, text=True, check=True, timeout=300)

    def actions(self) -> list[str]:
        """Return what the fence device was asked to do, `status` left aside."""
        return self.log.read_text().split() if self.log.exists() else []

    def _lxc(self, program: str, *words: str) -> str:
        command = [program, "-P", str(self.folder), "-n", self.name, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout

    def answers(self) -> None:
        """Wait until commands run in it."""
        deadline = time.monotonic() + 300
        while self.run("true", check=False) != "" or not self.listens():
            assert time.monotonic() < deadline, "the host does not answer"
            time.sleep(0.1)


class WatchedHost(PhysicalHost):
    """A host with our agent, installed by others, beside its sshd."""

    def root(self) -> Path:
        """Return a Debian with sshd and what the agent needs."""
        return base("rootfs-host", f"{PACKAGES},openssh-server")

    def install(self, upper: Path) -> None:
        """Put the agent in, too."""
        super().install(upper)
        Guest.install(self, upper)

    def settings(self) -> dict[str, Any]:
        """Return what the configuration says of it, with the agent's key."""
        key = self.folder / "agent-key"
        key.touch(0o600)
        key.write_bytes(self.key)
        return {**super().settings(), "agent_key_file": str(key)}

    def has_connection(self) -> bool:
        """Tell whether somebody is connected to its agent."""
        return self.run("ss", "-Htn", "state", "established", f"( sport = :{AGENT_PORT} )") != ""
