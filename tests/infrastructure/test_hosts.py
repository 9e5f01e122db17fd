"""The driver of hosts that are there already, on containers that stand for physical machines, and their fence agent."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pcloud.environment.infrastructure import GuestSpec, Image, Infrastructure
from pcloud.images.identity import make_identity
from pcloud.infrastructure.hosts import HostsInfrastructure
from pcloud.infrastructure.hosts_settings import hosts_settings
from tests.infrastructure.contract import InfrastructureContract, MakeSpec
from tests.infrastructure.physical import PhysicalHost

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the containers that stand for hosts"),
    pytest.mark.skipif(shutil.which("lxc-start") is None, reason="lxc-start is not installed (package lxc)"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed (package openssh-client)"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, PhysicalHost]]:
    """Two physical hosts."""
    folder = tmp_path_factory.mktemp("hosts")
    made = {name: PhysicalHost(folder / name) for name in ("alpha", "beta")}
    try:
        for each in made.values():
            each.start()
        yield made
    finally:
        for each in made.values():
            each.stop()


def opened(machines: dict[str, PhysicalHost], state: Path) -> HostsInfrastructure:
    table = {"poll": 0.2, "host": {name: each.settings() for name, each in machines.items()}}
    return HostsInfrastructure(hosts_settings(table, str(state)))


@pytest.fixture
async def infrastructure(machines: dict[str, PhysicalHost], tmp_path: Path) -> AsyncIterator[HostsInfrastructure]:
    """A driver with a state folder of its own."""
    driver = opened(machines, tmp_path)
    yield driver
    for info in await driver.list_guests():
        await driver.delete(info.guest_id)
    await driver.close()


@pytest.fixture
def make_spec() -> MakeSpec:
    def make(name: str) -> GuestSpec:
        host = "beta" if name in ("later", "many1") else "alpha"
        return GuestSpec(
            guest_id=f"hosted.{name}",
            deployable="hosted",
            assembly=name,
            image=Image(name=host, digest=f"host-{host}"),
            identity=make_identity(name).identity,
            host=host,
            digest="1",
            start_timeout=300.0,
        )

    return make


class TestContract(InfrastructureContract):
    many = 2

    @pytest.fixture(autouse=True)
    def _known(self, machines: dict[str, PhysicalHost]) -> None:
        self.machines = machines

    async def kill(self, infrastructure: Infrastructure, guest_id: str) -> None:
        self.machines["alpha"].kill()

    async def freeze(self, infrastructure: Infrastructure, guest_id: str) -> None:
        self.machines["alpha"].freeze()

    def reopen(self, infrastructure: Infrastructure) -> Infrastructure:
        assert isinstance(infrastructure, HostsInfrastructure)
        return HostsInfrastructure(infrastructure._settings)
