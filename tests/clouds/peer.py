"""A real OpenStack for the tests, run by `tests/peers/openstack.sh`. Nova has its FakeDriver: no guest is in a server."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "peers/openstack.sh"
FOLDER = Path(os.environ.get("PEER_DIR", "/var/cache/pcloud-test/openstack"))
NOVA, GLANCE, KEYSTONE = "http://127.0.0.1:18774", "http://127.0.0.1:19292", "http://127.0.0.1:15000"
CLOUD = """\
    auth: {{auth_url: "{OS_AUTH_URL}", username: "{OS_USERNAME}", password: "{OS_PASSWORD}", project_name: admin,
            user_domain_name: Default, project_domain_name: Default}}
    region_name: RegionOne
"""
"""Its administrator's entry of a clouds.yaml, without its name."""
MISSING = "there is no OpenStack here: `WITH_OPENSTACK=1 tools/setup-tests` installs one, as CI=true does"


def peer(*arguments: str) -> None:
    """Run the script; what it and the daemons say is in `tests.log`. It ends with us: of tests that were killed none goes on
    beside the next run's."""
    log = FOLDER / "tests.log"
    command = ["setpriv", "--pdeathsig", "KILL", str(SCRIPT), *arguments]
    with log.open("ab") as file:  # a pipe would be held open by the daemons
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False)
    assert done.returncode == 0, log.read_text(errors="replace")[-2000:]


def installed() -> bool:
    """Whether nothing of it is missing here."""
    return subprocess.run([str(SCRIPT), "installed"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Run it, and give the `OS_*` variables of its administrator. What an aborted run left is ended first; another run on
    this machine is waited for. With PEER_KEEP, for work on the tests, one that runs is used, and left running."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the daemons of an OpenStack")
    if not installed():
        pytest.skip(MISSING)
    keep = bool(os.environ.get("PEER_KEEP"))
    with (FOLDER / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not keep or not (FOLDER / "run/nova-api.pid").exists():
            (FOLDER / "tests.log").unlink(missing_ok=True)
            peer("start")
        else:
            peer("zones-stop")  # of a run that was killed
        words = (FOLDER / "openrc").read_text().split()
        try:
            yield dict(word.split("=", 1) for word in words if "=" in word)
        finally:
            if not keep:
                peer("stop")
