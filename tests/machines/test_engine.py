"""The engine with guests that carry nothing of ours, watched through sshd, and with machines: the faults of the main job."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.infrastructure.libvirtd import Libvirtd, run_libvirtd
from tests.machines.stage import NAME, Stage, World, stage

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]


class LibvirtWorld(World):
    """Machines, emulated where there is no KVM."""

    infrastructure = "libvirt"
    slow = 4.0

    def __init__(self, libvirtd: Libvirtd) -> None:
        self.libvirtd = libvirtd

    def settings(self, home: Path) -> str:
        names = 'network = "pcmeng"\npool = "pcmeng"\nbridge = "virbrpcmeng"\nprefix = "pcme-"\nmemory = 320\n'
        return f'[infrastructures.libvirt]\nuri = "{self.libvirtd.uri}"\n{names}'

    def kill(self, home: Path, guest_id: str) -> None:
        os.kill(self.libvirtd.qemu(f"pcme-{guest_id}"), signal.SIGKILL)

    def hang(self, home: Path, guest_id: str) -> None:
        os.kill(self.libvirtd.qemu(f"pcme-{guest_id}"), signal.SIGSTOP)


@pytest.fixture(scope="module", params=["lxc-ssh", "libvirt-ssh", "libvirt-remote"])
def shop(request, tmp_path_factory):
    """A running deployable: infrastructure and transport by the parameter."""
    infrastructure, transport = request.param.split("-")
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as held:
        if infrastructure == "libvirt":
            pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
            world: World = LibvirtWorld(held.enter_context(run_libvirtd(tmp_path_factory.mktemp("libvirtd"))))
        else:
            if shutil.which("lxc-start") is None:
                pytest.skip("lxc is not installed")
            world = World()
        it = held.enter_context(stage(folder, world))
        it.apply(transport, "15m")
        it.transport = transport  # type: ignore[attr-defined]
        yield it


def main_process(shop: Stage, assembly: str) -> str:
    return shop.guest(assembly, "systemctl", "show", "-p", "MainPID", "--value", "nginx")


def test_nothing_of_ours_is_in_the_guest(shop):
    if shop.transport != "ssh":
        pytest.skip("of ssh")
    found = shop.guest("web", "sh", "-c", "ls -d /usr/lib/pcloud /usr/lib/ocf/resource.d/pcloud 2>/dev/null; true")
    assert found == ""
    assert "pcloud-remoted" not in shop.guest("web", "ps", "-e", "-o", "args")


def test_the_address_of_the_other_guest_is_in_the_service_environment(shop):
    status = shop.client.status(NAME)
    address = next(a.address for a in status.assemblies if a.name == "db")
    assert address
    # nginx writes its title over its environment: what systemd gave it is in the unit's environment file
    files = shop.guest("web", "systemctl", "show", "-p", "EnvironmentFiles", "--value", "nginx").split()
    assert f'db_host="{address}"' in shop.guest("web", "cat", files[0])


def test_service_killed(shop):
    cursor, before = shop.cursor(), main_process(shop, "db")
    shop.guest("db", "kill", "-9", before)
    failed = shop.event(cursor, "resource.state", "db", "front", "failed", seconds=8)
    assert failed.text("reason")
    shop.event(cursor, "resource.state", "db", "front", "running", seconds=30)
    shop.running()
    assert main_process(shop, "db") not in ("0", before)


def test_guest_killed(shop):
    cursor = shop.cursor()
    shop.world.kill(shop.home, f"{NAME}.web")
    shop.event(cursor, "assembly.state", "web", "", "failed", seconds=10)
    shop.event(cursor, "resource.state", "web", "front", "running")
    shop.running()


def test_guest_hung_is_suspected_confirmed_isolated_and_restarted(shop):
    cursor = shop.cursor()
    shop.world.hang(shop.home, f"{NAME}.web")
    shop.event(cursor, "isolation", "web", seconds=60)
    shop.event(cursor, "resource.state", "web", "front", "running", seconds=90)
    shop.running()
    said = str(shop.client.explain(NAME, assembly="web", limit=50))
    assert "hung" in said


def test_escalation(shop):
    boot = shop.guest("db", "stat", "-c", "%Y", "/proc/1")
    web = shop.guest("web", "cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat")
    start = shop.cursor()
    for number in (1, 2, 3):
        cursor = shop.cursor()
        shop.guest("web", "kill", "-9", main_process(shop, "web"))
        if number < 3:
            shop.event(cursor, "resource.state", "web", "front", "running", seconds=30)
            shop.running()
    shop.event(start, "escalation", "web", "front", seconds=30)
    shop.event(cursor, "assembly.state", "web", "", "running", seconds=90)
    shop.running()
    assert shop.guest("web", "cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat") != web
    assert shop.guest("db", "stat", "-c", "%Y", "/proc/1") == boot, "the other guest was left alone"


def test_engine_killed(shop):
    before = [main_process(shop, name) for name in ("db", "web")]
    cursor = shop.cursor()
    shop.kill_engines()
    shop.event(cursor, "resource.state", "web", "front", "running", seconds=60)
    shop.running()
    assert [main_process(shop, name) for name in ("db", "web")] == before, "nothing that runs was restarted"


def test_libvirtd_away(shop):
    """The infrastructure's API is down: no action on guests; the engine carries on when it is back."""
    if not isinstance(shop.world, LibvirtWorld):
        pytest.skip("of libvirt")
    libvirtd, names = shop.world.libvirtd, [f"pcme-{NAME}.{name}" for name in ("db", "web")]
    before = [main_process(shop, name) for name in ("db", "web")]
    machines = [libvirtd.qemu(name) for name in names]
    cursor = shop.cursor()
    libvirtd.kill()
    deadline = time.monotonic() + 20
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
    shop.until(lambda: shop.client.execute(NAME, "web", ["true"]).returncode == 0, 30)
    assert [main_process(shop, name) for name in ("db", "web")] == before
    assert [libvirtd.qemu(name) for name in names] == machines
