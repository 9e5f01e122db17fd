"""Guests on another host's libvirt, by ssh: what dies there comes back, and what a broken link hides is left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from tests.infrastructure.otherhost import NAME as HOST
from tests.infrastructure.otherhost import SUBNET, OtherHost, run_other_host
from tests.machines.libvirt import LibvirtWorld
from tests.machines.stage import NAME, Stage, stage

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
PREFIX = "pcme-"
WATCHED = ("db", "web")
"""By its sshd, and by our agent."""
MANIFEST = """\
deployable: pctshop
infrastructure: @INFRASTRUCTURE@
assemblies:
  db:
    image: bookworm
    transport: ssh
    resources:
      front: {template: nginx, monitor: 10s}
  web:
    image: bookworm
    transport: remote
    resources:
      front:
        template: nginx
        monitor: 10s
        parameters: {db_host: {reference: db.ipaddress}}
"""
"""Without an order, so that both boot at once."""


class OtherHostWorld(LibvirtWorld):
    """Machines of another host."""

    def __init__(self, host: OtherHost) -> None:
        super().__init__(host)
        self.ways = f'uri = "{host.ssh}"\nstate = "{host.state}"\nsubnet = "{SUBNET}"\n'

    def settings(self, home: Path) -> str:
        return f'[infrastructures.libvirt]\n{self.ways}network = "pcmo"\npool = "pcmo"\nprefix = "{PREFIX}"\nmemory = 320\n'


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherHost]:
    with run_other_host(tmp_path_factory.mktemp("other")) as server:
        yield server


@pytest.fixture(scope="module")
def shop(host: OtherHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The running deployable."""
    with stage(tmp_path_factory.mktemp("otherhost"), OtherHostWorld(host)) as it:
        it.apply_text(MANIFEST, "15m")
        yield it


def processes(shop: Stage, host: OtherHost) -> dict[str, tuple[int, str]]:
    """The QEMU of each guest, and the boot and the service in it."""
    show = "cat /proc/sys/kernel/random/boot_id; systemctl show -p MainPID --value nginx"
    return {name: (host.qemu(f"{PREFIX}{NAME}.{name}"), shop.guest(name, "sh", "-c", show)) for name in WATCHED}


def test_a_guest_of_another_host_dies_and_comes_back(shop: Stage, host: OtherHost) -> None:
    assert set(host.names("list")) == {f"{PREFIX}{NAME}.{name}" for name in WATCHED}
    assert {one.place for one in shop.client.status(NAME).assemblies} == {HOST}
    before, cursor = processes(shop, host), shop.cursor()
    shop.world.kill(shop.home, f"{NAME}.web")
    shop.event(cursor, "isolation", "web", "", "stopped")
    shop.event(cursor, "resource.state", "web", "front", "running", seconds=90)
    shop.running()
    after = processes(shop, host)
    assert after["db"] == before["db"], "the other guest was left alone"
    assert after["web"][0] != before["web"][0]
    assert after["web"][1].split()[0] != before["web"][1].split()[0], "it was booted"


def test_a_link_that_is_silent_for_a_while(shop: Stage, host: OtherHost) -> None:
    """Nothing arrives, in either direction, and nobody says so: neither libvirt nor a guest answers. That is no death."""
    before, cursor = processes(shop, host), shop.cursor()
    with host.silent():
        for name in WATCHED:
            shop.event(cursor, "assembly.state", name, "", "suspect", seconds=60)
        shop.event(cursor, "infrastructure", "", "", "unknown", seconds=60)
        shop.until(lambda: shop.client.status(NAME).state.value == "unknown", 60)
        until = time.monotonic() + 5  # long enough for tries to reach it
        while time.monotonic() < until:
            assert [host.qemu(f"{PREFIX}{NAME}.{name}") for name in WATCHED] == [before[name][0] for name in WATCHED]
            assert shop.client.status(NAME).state.value == "unknown"
            time.sleep(1)
    shop.event(cursor, "infrastructure", "", "", "starting", seconds=90)
    for name in WATCHED:
        shop.event(cursor, "assembly.state", name, "", "running", seconds=60)
    shop.running()
    assert processes(shop, host) == before, "nothing that runs was restarted"
    told = shop.client.events({"deployable": NAME}, after=cursor, limit=1000).events
    seen = [(e.type.rpartition("-cloud.")[2], e.text("assembly"), e.text("state")) for e in told]
    assert [state for kind, _, state in seen if kind == "infrastructure"] == ["unknown", "starting"], seen
    states = {(name, state) for kind, name, state in seen if kind == "assembly.state"}
    assert states == {(name, state) for name in WATCHED for state in ("suspect", "running")}, seen
    assert {state for kind, _, state in seen if kind == "resource.state"} <= {"running"}, seen
    assert not {kind for kind, _, _ in seen} & {"isolation", "escalation"}, seen

    # It carries on: what fails now is mended
    cursor = shop.cursor()
    shop.guest("db", "kill", "-9", before["db"][1].split()[1])
    shop.event(cursor, "resource.state", "db", "front", "running", seconds=60)
    shop.running()
