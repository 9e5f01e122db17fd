"""The same manifest on containers and on machines, watched by our agent and by sshd: the faults of the main job.

One deployable for each infrastructure holds both transports, and each fault is made in two guests at once, so that as few
machines are booted as can be: an emulated one takes 15 s.
"""

from __future__ import annotations

import contextlib
import shutil
import time

import pytest

from pcloud.model.errors import PcloudError
from tests.infrastructure.libvirtd import run_libvirtd
from tests.machines.libvirt import LibvirtWorld
from tests.machines.stage import MANIFEST, NAME, Stage, World, stage

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]
WATCHED = ("web", "app")
"""By our agent, and by sshd."""


@pytest.fixture(scope="module", params=["lxc", "libvirt"])
def shop(request, tmp_path_factory):
    """The running deployable on that infrastructure."""
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as held:
        if request.param == "libvirt":
            pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
            world: World = LibvirtWorld(held.enter_context(run_libvirtd(tmp_path_factory.mktemp("libvirtd"))))
        else:
            if shutil.which("lxc-start") is None:
                pytest.skip("lxc is not installed")
            world = World()
        it = held.enter_context(stage(folder, world))
        it.apply_text(MANIFEST, "25m")
        yield it


def main_process(shop: Stage, assembly: str) -> str:
    return shop.guest(assembly, "systemctl", "show", "-p", "MainPID", "--value", "nginx")


def boot_of(shop: Stage, assembly: str) -> str:
    return shop.guest(assembly, "cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat")


def test_nothing_of_ours_is_in_a_guest_watched_by_ssh(shop):
    found = shop.guest("app", "sh", "-c", "ls -d /usr/lib/pcloud /usr/lib/ocf/resource.d/pcloud 2>/dev/null; true")
    assert found == ""
    assert "pcloud" not in shop.guest("app", "ps", "-e", "-o", "args")
    assert shop.guest("web", "systemctl", "is-active", "pcloud-remoted") == "active"


def test_the_address_of_the_other_guest_is_in_the_service_environment(shop):
    status = shop.client.status(NAME)
    address = next(a.address for a in status.assemblies if a.name == "db")
    assert address
    for name in WATCHED:
        # nginx writes its title over its environment: what systemd gave it is in the unit's environment file
        files = shop.guest(name, "systemctl", "show", "-p", "EnvironmentFiles", "--value", "nginx").split()
        assert f'db_host="{address}"' in shop.guest(name, "cat", files[0])


def test_service_killed(shop):
    cursor, before = shop.cursor(), {name: main_process(shop, name) for name in WATCHED}
    for name in WATCHED:
        shop.guest(name, "kill", "-9", before[name])
    for name in WATCHED:
        failed = shop.event(cursor, "resource.state", name, "front", "failed", seconds=8)
        assert failed.text("reason")
        shop.event(cursor, "resource.state", name, "front", "running", seconds=30)
    shop.running()
    for name in WATCHED:
        assert main_process(shop, name) not in ("0", before[name])


def test_guest_killed(shop):
    cursor = shop.cursor()
    for name in WATCHED:
        shop.world.kill(shop.home, f"{NAME}.{name}")
    # The infrastructure's word or the silent link, confirmed by the infrastructure, whichever comes first: gone for certain.
    for name in WATCHED:
        shop.event(cursor, "isolation", name, "", "stopped", seconds=10)
    for name in WATCHED:
        shop.event(cursor, "resource.state", name, "front", "running")
    shop.running()


def test_guest_hung_is_suspected_confirmed_isolated_and_restarted(shop):
    cursor = shop.cursor()
    for name in WATCHED:
        shop.world.hang(shop.home, f"{NAME}.{name}")
    for name in WATCHED:
        shop.event(cursor, "assembly.state", name, "", "suspect", seconds=60)
        shop.event(cursor, "isolation", name, seconds=60)
    for name in WATCHED:
        shop.event(cursor, "resource.state", name, "front", "running", seconds=90)
    shop.running()
    for name in WATCHED:
        assert "hung" in str(shop.client.explain(NAME, assembly=name, limit=50))


def test_escalation(shop):
    other = boot_of(shop, "db").split()[0]
    boots = {name: boot_of(shop, name) for name in WATCHED}
    start = shop.cursor()
    while True:
        # failures of tests before this one still count; the third within the period escalates
        counted = {one.name: one.resources[0].failures for one in shop.client.status(NAME).assemblies}
        last = all(counted[name] >= 2 for name in WATCHED)
        cursor = shop.cursor()
        again = [name for name in WATCHED if last or counted[name] < 2]
        for name in again:
            shop.guest(name, "kill", "-9", main_process(shop, name))
        if last:
            break
        for name in again:
            shop.event(cursor, "resource.state", name, "front", "running", seconds=30)
        shop.running()
    for name in WATCHED:
        shop.event(start, "escalation", name, "front", seconds=30)
    for name in WATCHED:
        shop.event(cursor, "assembly.state", name, "", "running", seconds=90)
    shop.running()
    for name in WATCHED:
        assert boot_of(shop, name) != boots[name]
    assert boot_of(shop, "db").split()[0] == other, "the other guest was left alone"


def test_engine_killed(shop):
    before = [main_process(shop, name) for name in ("db", *WATCHED)]
    cursor = shop.cursor()
    shop.kill_engines()
    for name in WATCHED:
        shop.event(cursor, "resource.state", name, "front", "running", seconds=60)
    shop.running()
    assert [main_process(shop, name) for name in ("db", *WATCHED)] == before, "nothing that runs was restarted"


def test_libvirtd_away(shop):
    """The infrastructure's API is down: no action on guests; the engine carries on when it is back."""
    if not isinstance(shop.world, LibvirtWorld):
        pytest.skip("of libvirt")
    libvirtd, guests = shop.world.libvirtd, ("db", *WATCHED)
    names = [f"pcme-{NAME}.{name}" for name in guests]
    before = [main_process(shop, name) for name in guests]
    machines = [libvirtd.qemu(name) for name in names]
    cursor = shop.cursor()
    libvirtd.kill()
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        assert [libvirtd.qemu(name) for name in names] == machines
        time.sleep(0.5)
    libvirtd.start()
    shop.running()
    page = shop.client.events({"deployable": NAME}, after=cursor, limit=1000)
    changed = [
        e for e in page.events if e.type.endswith("assembly.state") and e.text("state") in ("failed", "starting")
    ]
    assert changed == []

    def answers(name: str) -> bool:
        with contextlib.suppress(PcloudError):  # libvirtd finds each machine's agent again, one after the other
            return shop.client.execute(NAME, name, ["true"]).returncode == 0
        return False

    shop.until(lambda: all(answers(name) for name in guests), 60)
    assert [main_process(shop, name) for name in guests] == before
    assert [libvirtd.qemu(name) for name in names] == machines
