"""The agent in a guest that has not booted yet: reached early, programs held back, services in systemd's order."""

import asyncio

import pytest

from pcloud.environment.transport import Operation, OperationStatus
from tests.guests import UNIT, Guest, put_services
from tests.transport.client import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
GATE = (
    "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n"
    "[Service]\nType=oneshot\nTimeoutStartSec=infinity\n"
    "ExecStart=/bin/sh -c 'until [ -e /run/open ]; do sleep 0.1; done'\n"
)
"""Holds up the boot until a test lets it go on."""


class Booting(Guest):
    def prepare(self, upper):
        put_services(upper)
        script = upper / "etc/init.d/daemon"
        script.write_text(script.read_text().replace("case", 'echo "$1" >> /run/calls\ncase', 1))
        (upper / "etc/systemd/system/gate.service").write_text(GATE)
        wants = upper / "etc/systemd/system/sysinit.target.wants"
        wants.mkdir()
        (wants / "gate.service").symlink_to("/etc/systemd/system/gate.service")
        (upper / "etc/systemd/system/enabled.service").write_text(UNIT)
        multi_user = upper / "etc/systemd/system/multi-user.target.wants/enabled.service"
        multi_user.symlink_to("/etc/systemd/system/enabled.service")


@pytest.fixture
def guest(tmp_path):
    made = Booting(tmp_path)
    try:
        made.start()  # returns when the agent listens
        yield made
    finally:
        made.stop()


def daemon(action: str, **changes) -> Operation:
    return Operation(resource="d", resource_class="lsb", type="daemon", action=action, timeout=90, **changes)


async def test_programs_wait_for_the_boot_and_systemd_reads_nothing_twice(guest):
    thing = Operation(resource="t", resource_class="systemd", type="thing", action="start", timeout=90)
    assert guest.run("systemctl", "is-active", "sysinit.target", check=False).strip() == "inactive"
    async with connected(guest) as (connection, _):
        repeated = Operation(
            resource="e", resource_class="lsb", type="daemon", action="monitor", interval=3600, timeout=90
        )
        started, unit, dropped = [
            asyncio.create_task(connection.execute(each)) for each in (daemon("start"), thing, repeated)
        ]
        # Answers are possible meanwhile: a unit that does not run is told at once.
        seen = await connection.execute(
            Operation(resource="u", resource_class="systemd", type="thing", action="monitor")
        )
        assert seen.rc == 7
        # What is taken back is not run later.
        await connection.cancel("e", "monitor", 3600)
        assert (await dropped).status is OperationStatus.CANCELLED
        assert guest.run("cat", "/run/calls", check=False) == ""
        assert not started.done()
        assert not unit.done()
        guest.run("touch", "/run/open")
        assert (await started).rc == 0
        assert (await unit).rc == 0
        assert (await connection.execute(daemon("monitor"))).rc == 0
    assert guest.run("cat", "/run/calls").split() == ["start", "status"]
    assert guest.run("systemctl", "show", "-p", "Restart", "thing").strip() == "Restart=no"
    assert "Reloading" not in guest.run("journalctl", "-b", "_PID=1")


async def test_a_unit_that_the_boot_knows_already_is_read_again_after_it(guest):
    """It is in systemd's memory without the drop-in; to read everything anew in the middle of a boot is not safe."""
    name = "enabled"
    started = Operation(resource="t", resource_class="systemd", type=name, action="start", timeout=90)
    async with connected(guest) as (connection, _):
        task = asyncio.create_task(connection.execute(started))
        async with asyncio.timeout(60):
            while not guest.run("ls", f"/run/systemd/system/{name}.service.d", check=False):
                await asyncio.sleep(0.1)
        assert "Reloading" not in guest.run("journalctl", "-b", "_PID=1")
        assert not task.done()
        guest.run("touch", "/run/open")
        assert (await task).rc == 0
    assert "Reloading" in guest.run("journalctl", "-b", "_PID=1")
    assert guest.run("systemctl", "show", "-p", "Restart", name).strip() == "Restart=no"
    assert guest.run("systemctl", "show", "-p", "NRestarts", name).strip() == "NRestarts=0"
