"""Debian packages of this checkout, and a Debian 12 host with systemd to install them on."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests import Guest

ROOT = Path(__file__).parents[2]

FETCH = """
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
mount -t proc proc "$4/proc"
cp /etc/resolv.conf "$4/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive
retry="-o Acquire::Retries=5 -o APT::Sandbox::User=root"
chroot "$4" apt-get -qq $retry -o APT::Update::Error-Mode=any update || exit 99
ours="/packages/pacemaker-cloud.deb /packages/pcloud-remoted.deb"
chroot "$4" apt-get -qq $retry install -y --no-install-recommends --download-only $ours
"""
"""Has apt choose, and fetch from Debian's mirror, what the packages need: the host that installs them has no network."""


class Packages:
    """What `make deb` makes."""

    def __init__(self, cloud: Path, agent: Path) -> None:
        self.cloud = cloud
        self.agent = agent


@pytest.fixture(scope="session")
def packages() -> Packages:
    """Build both; skip where Debian's tools for that are missing."""
    for program in ("dh", "dpkg-buildpackage", "pkg-config"):
        if not shutil.which(program):
            pytest.skip(f"needs the program {program} (packaging/test-packages.txt)")
    done = subprocess.run([ROOT / "tools" / "deb"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    cloud, agent = (ROOT / line for line in done.stdout.split())
    return Packages(cloud, agent)


class Host(Guest):
    """A host with both packages in /packages, and in apt's cache what they need; nothing of ours is installed."""

    unit = "multi-user.target"
    packages: Packages

    def install(self, upper: Path) -> None:
        """Put the packages there, and what apt says that they need."""
        place = upper / "packages"
        place.mkdir()
        shutil.copy(self.packages.cloud, place / "pacemaker-cloud.deb")
        shutil.copy(self.packages.agent, place / "pcloud-remoted.deb")
        merged, work = self.folder / "merged", self.folder / "work"
        merged.mkdir()
        work.mkdir()
        argv = ["unshare", "--mount", "sh", "-euc", FETCH, "sh", self.root(), upper, work, merged]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 99:
            pytest.skip(f"needs a Debian mirror: {done.stderr[-500:]}")
        assert done.returncode == 0, done.stderr

    def listens(self) -> bool:
        """There is no agent to wait for."""
        return True


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, packages: Packages) -> Iterator[Host]:
    """A running host."""
    made = Host(tmp_path_factory.mktemp("host"))
    made.packages = packages
    try:
        made.start()
        yield made
    finally:
        made.stop()
