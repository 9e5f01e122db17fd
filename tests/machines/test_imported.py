"""An image made by others, from its import to its guest's recovery: real cloud-init in a real machine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest

from tests.infrastructure.libvirtd import run_libvirtd
from tests.infrastructure.machine import cloud_disk
from tests.machines.libvirt import LibvirtWorld
from tests.machines.stage import Stage, stage

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]
IMPORTED = """\
deployable: pctimported
infrastructure: @INFRASTRUCTURE@
assemblies:
  box:
    image: appliance
    transport: ssh
    memory: 384M
    saved_state: true
    timeouts: {start: 20m}
    resources:
      front: {template: nginx, monitor: 10s}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Stage]:
    """A daemon on a libvirtd, without a deployable."""
    pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")
    with (
        run_libvirtd(tmp_path_factory.mktemp("libvirtd")) as libvirtd,
        stage(tmp_path_factory.mktemp("imported"), LibvirtWorld(libvirtd)) as it,
    ):
        yield it


def test_an_imported_image(shop):
    """A disk made by others, taken over by its digest, boots by its own loader and gets its identity from cloud-init.
    Killed, it is restored from its saved state."""
    disk = cloud_disk()
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    words = ("--name", "appliance", "--like", "bookworm")
    shop.pcloud("image", "delete", "appliance", check=False)  # of a run that was cut off: the store outlives daemons
    refused = shop.pcloud("image", "import", str(disk), *words, "--digest", f"sha256:{'0' * 64}", check=False)
    assert refused.returncode != 0
    assert "DIGEST_MISMATCH" in refused.stdout
    shop.pcloud("image", "import", str(disk), *words, "--digest", f"sha256:{digest}")
    listed = shop.pcloud("image", "list").stdout
    assert any(line.split()[:3] == ["appliance", "x86_64", "ready"] for line in listed.splitlines()), listed
    shop.others.append("pctimported")
    shop.apply_text(IMPORTED, "25m")

    def inside(*argv: str) -> str:
        return shop.guest("box", *argv, deployable="pctimported")

    def main_process() -> str:
        return inside("systemctl", "show", "-p", "MainPID", "--value", "nginx")

    status = shop.client.status("pctimported")
    assert inside("hostname") == "box"
    assert status.assemblies[0].address in inside("ip", "-4", "-o", "addr", "show", "eth0")
    assert "cloud-init" in inside("ls", "/run")
    cursor, before = shop.cursor(), main_process()
    inside("kill", "-9", before)
    shop.event(cursor, "resource.state", "box", "front", "running", seconds=30, deployable="pctimported")
    assert main_process() not in ("0", before)
    boot, cursor = inside("cat", "/proc/sys/kernel/random/boot_id"), shop.cursor()
    killed = time.time()
    shop.world.kill(shop.home, "pctimported.box")
    shop.event(cursor, "assembly.state", "box", "", "failed", seconds=10, deployable="pctimported")
    shop.event(cursor, "resource.state", "box", "front", "running", deployable="pctimported")
    assert inside("cat", "/proc/sys/kernel/random/boot_id") == boot, "restored, not booted"
    assert float(inside("date", "+%s")) > killed - 1, "its clock was set: it stood still when its state was saved"
    used = shop.pcloud("image", "delete", "appliance", check=False)
    assert used.returncode != 0
    assert "JEOS_IN_USE" in used.stdout
    shop.pcloud("delete", "pctimported", "--wait", "--yes")
    shop.pcloud("image", "delete", "appliance")
