"""Limits of guests and of services in them: from the manifest to the kernel, and nothing is restarted."""

from __future__ import annotations

import pytest

from pcloud.infrastructure import lxc_limits, lxc_process
from tests.e2e.stage import SHOP, Stage, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(lxc_limits.lacking()), reason=lxc_limits.lacking()),
]

MIB = 1 << 20
UNLIMITED = 1 << 62


def of_guest(stage: Stage, guest: str) -> int:
    """Return the bytes of memory that the kernel of this host allows a guest."""
    init = lxc_process.find_process(stage.guest_init(guest.replace("/", ".")))
    assert init is not None
    for group in lxc_process.cgroups(init):
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (group / name).exists():
                return _bytes((group / name).read_text())
    raise AssertionError(f"{guest} has no control group of memory")


def of_service(stage: Stage, guest: str, unit: str) -> tuple[int, str]:
    """Return the bytes of memory and the tasks that a guest's kernel allows a service."""

    def first(*files: str) -> str:
        return stage.guest(guest, "sh", "-c", f"cat {' '.join(files)} 2>/dev/null || true").split()[0]

    root, group = "/sys/fs/cgroup", f"system.slice/{unit}.service"
    memory = first(f"{root}/memory/{group}/memory.limit_in_bytes", f"{root}/{group}/memory.max")
    return _bytes(memory), first(f"{root}/pids/{group}/pids.max", f"{root}/{group}/pids.max")


def _bytes(text: str) -> int:
    return UNLIMITED if text.strip() == "max" else int(text)


def manifest(memory: str = "", limits: str = "") -> str:
    """Return the shop, its web server's guest and service limited."""
    text = SHOP.replace("  web:\n", f"  web:\n    memory: {memory}\n" if memory else "  web:\n")
    service = "        template: httpd\n"
    assert service in text
    return text.replace(service, f"{service}        limits: {limits}\n" if limits else service)


def test_limits_follow_the_manifest_while_everything_runs(shop: Stage) -> None:
    before, cursor = shop.processes(), shop.cursor()
    assert of_guest(shop, "shop/web") >= UNLIMITED
    tasks = of_service(shop, "shop/web", "apache2")[1]

    shop.apply(manifest("700M", "{memory: 300M, tasks: 90}"))
    until("the guest's limit", lambda: of_guest(shop, "shop/web") == 700 * MIB)
    until("the service's limits", lambda: of_service(shop, "shop/web", "apache2") == (300 * MIB, "90"))
    for kind in ("assembly.limits", "resource.limits"):
        until(f"{kind} is told", lambda kind=kind: any(e["type"].endswith(kind) for e in shop.events(cursor, "shop")))  # type: ignore[misc]

    shop.apply(manifest("800M", "{memory: 400M}"))
    until("the guest's other limit", lambda: of_guest(shop, "shop/web") == 800 * MIB)
    until("the service's other limits", lambda: of_service(shop, "shop/web", "apache2") == (400 * MIB, tasks))

    shop.apply(SHOP)
    until("the guest has no limit", lambda: of_guest(shop, "shop/web") >= UNLIMITED)
    until("the service has none of ours", lambda: of_service(shop, "shop/web", "apache2")[0] >= UNLIMITED)
    assert shop.processes() == before
    assert not [e for e in shop.events(cursor, "shop") if e["data"]["state"] in ("starting", "stopped", "failed")]


def test_limits_that_changed_while_no_engine_ran_are_followed_by_the_next(shop: Stage) -> None:
    """Killed with what was asked for a moment ago: wherever it was, what there is in the end is what shall be."""
    before = shop.processes()
    shop.pcloud("apply", "-f", shop.write("manifest.yaml", manifest("600M", "{memory: 200M}")))
    shop.kill_all()
    shop.pcloud("up", "--detach")
    until("the guest's limit", lambda: of_guest(shop, "shop/web") == 600 * MIB)
    until("the service's limit", lambda: of_service(shop, "shop/web", "apache2")[0] == 200 * MIB)
    shop.pcloud("apply", "-f", shop.write("manifest.yaml", SHOP))
    shop.kill_all()
    shop.pcloud("up", "--detach")
    until("the guest has no limit", lambda: of_guest(shop, "shop/web") >= UNLIMITED)
    until("the service has none of ours", lambda: of_service(shop, "shop/web", "apache2")[0] >= UNLIMITED)
    assert shop.processes() == before
