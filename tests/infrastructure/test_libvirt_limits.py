"""Memory of a real machine changes while it runs, by its balloon; what can not waits for its next start."""

from __future__ import annotations

import subprocess

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import Bounded, Image, InfrastructureError
from pcloud.infrastructure import libvirt_limits
from tests.infrastructure.libvirtd import Libvirtd
from tests.infrastructure.machine import machine_image
from tests.infrastructure.test_libvirt import alive, delete_all, driver, spec

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def image() -> Image:
    return machine_image()


def memory(libvirtd: Libvirtd) -> int:
    """Return the MiB that the machine's balloon leaves it, as libvirt's own tool tells."""
    virsh = ["virsh", "-q", "-c", libvirtd.uri, "dominfo", "pct-shop.web"]
    lines = subprocess.run(virsh, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()
    (used,) = [line for line in lines if line.startswith("Used memory:")]
    return int(used.split()[2]) // 1024


async def test_a_machine_gives_memory_back_and_gets_it_again(
    libvirtd: Libvirtd, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_limits, "_PATIENCE", 600.0)  # emulated, on a machine that others use
    async with driver(libvirtd) as (infrastructure, _):
        limits = infrastructure.limits
        assert await limits.bound("shop.web", memory=128, cpus=1) == Bounded(), "there is no such guest"
        started = await infrastructure.start(spec(image, memory=320, cpus=1))
        await alive(infrastructure)
        assert await limits.bound("shop.web", memory=320, cpus=1) == Bounded()

        assert await limits.bound("shop.web", memory=256, cpus=1) == Bounded(changed=("256 MiB of memory",))
        assert memory(libvirtd) == 256
        assert await limits.bound("shop.web", memory=256, cpus=1) == Bounded()

        with pytest.raises(
            InfrastructureError, match=r"it uses \d+ MiB of memory now and can not be limited to 16 MiB"
        ):
            await limits.bound("shop.web", memory=16, cpus=1)
        assert memory(libvirtd) == 256

        assert await limits.bound("shop.web", memory=320, cpus=1) == Bounded(changed=("320 MiB of memory",))
        later = Bounded(later=("512 MiB of memory", "2 processors"))
        assert await limits.bound("shop.web", memory=512, cpus=2) == later
        assert await limits.bound("shop.web", memory=512, cpus=2) == Bounded(), "it is told once"
        assert memory(libvirtd) == 320
        assert (await infrastructure.inspect("shop.web")).boot_id == started.boot_id, "it was never restarted"
        await delete_all(libvirtd, infrastructure)
