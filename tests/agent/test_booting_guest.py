"""The agent in a guest that has not booted yet: it can be reached, and operations wait."""

import asyncio

import msgspec
import pytest

from pcloud.environment.transport import Operation, TransportError
from pcloud.wire import messages
from tests.guests import UNIT, Guest, put_services
from tests.transport.client import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
GATE = (
    "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n"
    "[Service]\nType=oneshot\nTimeoutStartSec=infinity\n"
    "ExecStart=/bin/sh -c 'until [ -e /run/open ]; do sleep 0.1; done'\n"
)
"""Holds up the boot until a test lets it go on."""


class Booting(Guest):
    def prepare(self, upper):
        put_services(upper)
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


def journal(guest) -> str:
    """What systemd has told so far: it does not wait until that is written."""
    guest.run("journalctl", "--sync")
    return guest.run("journalctl", "-b", "_PID=1")


async def test_operations_come_after_the_boot_and_systemd_reads_nothing_twice(guest, monkeypatch):
    """The connection stands before: who is patient is answered when the boot is over, anybody else comes again."""
    assert guest.run("systemctl", "is-active", "sysinit.target", check=False).strip() == "inactive"
    with monkeypatch.context() as other:
        other.setattr(messages, "PATIENT", "lrmd_other")
        with pytest.raises(TransportError):
            async with connected(guest):
                pass
    patient = connected(guest)
    connecting = asyncio.create_task(patient.__aenter__())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(connecting), 1)
    guest.run("touch", "/run/open")
    connection, _ = await connecting
    try:
        thing = Operation(resource="t", resource_class="systemd", type="thing", action="start", timeout=90)
        script = Operation(resource="d", resource_class="lsb", type="daemon", action="start", timeout=90)
        assert guest.run("systemctl", "is-active", "basic.target").strip() == "active"
        assert (await connection.execute(thing)).rc == 0
        assert (await connection.execute(script)).rc == 0
        assert guest.run("systemctl", "show", "-p", "Restart", "thing").strip() == "Restart=no"
        assert "Reloading" not in journal(guest)
        # A unit that systemd had loaded before is read again.
        assert (await connection.execute(msgspec.structs.replace(thing, resource="e", type="enabled"))).rc == 0
        assert guest.run("systemctl", "show", "-p", "Restart", "enabled").strip() == "Restart=no"
        assert "Reloading" in journal(guest)
    finally:
        await patient.__aexit__(None, None, None)
    with monkeypatch.context() as other:  # now that it has booted, no patience is needed
        other.setattr(messages, "PATIENT", "lrmd_other")
        async with connected(guest):
            pass
