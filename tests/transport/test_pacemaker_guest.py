"""A guest with full systemd and Debian's own pacemaker-remoted: OCF, systemd and LSB resources through our transport."""

import asyncio
import time

import pytest

from pcloud.environment.transport import Operation
from tests.guests import PacemakerGuest
from tests.transport.client import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SCRIPT = r"""#!/bin/sh
case "$1" in
start) setsid sleep 7777 >/dev/null 2>&1 & echo $! > /run/daemon.pid ;;
stop) kill $(cat /run/daemon.pid); rm /run/daemon.pid ;;
status) [ -s /run/daemon.pid ] && kill -0 $(cat /run/daemon.pid) 2>/dev/null || exit 3 ;;
esac
"""


class WithServices(PacemakerGuest):
    def prepare(self, upper):
        (upper / "etc/systemd/system/thing.service").write_text(
            "[Service]\nExecStart=/bin/sleep infinity\nRestart=always\n"
        )
        (upper / "etc/init.d").mkdir()
        (upper / "etc/init.d/daemon").write_text(SCRIPT)
        (upper / "etc/init.d/daemon").chmod(0o755)


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    made = WithServices(tmp_path_factory.mktemp("guest"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("kind", "agent", "kill"),
    [
        ("ocf", "Dummy", "rm -f /run/resource-agents/Dummy-r-ocf.state /run/Dummy-r-ocf.state"),
        ("systemd", "thing", "systemctl kill -s KILL thing"),
        ("lsb", "daemon", "kill -9 $(cat /run/daemon.pid)"),
    ],
)
async def test_life_of_a_resource(guest, kind, agent, kill):
    def operation(action: str, interval: float = 0.0) -> Operation:
        provider = "heartbeat" if kind == "ocf" else ""
        return Operation(
            resource=f"r-{kind}", resource_class=kind, provider=provider, type=agent, action=action, interval=interval
        )

    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(operation("monitor"))).rc == 7
        assert (await connection.execute(operation("start"))).rc == 0
        assert (await connection.execute(operation("monitor", 1.0))).rc == 0
        guest.run("sh", "-c", kill)
        begun = time.monotonic()
        await recorder.until(lambda r: r.results, 10)
        assert recorder.results[0].rc == 7, recorder.results
        assert recorder.results[0].signal == "interval"
        assert time.monotonic() - begun < 5
        await connection.execute(operation("stop"))
        assert (await connection.execute(operation("start"))).rc == 0
        assert (await connection.execute(operation("stop"))).rc == 0
        assert (await connection.execute(operation("monitor"))).rc == 7


async def test_the_daemon_killed_and_services_go_on(guest):
    thing = {"resource": "r-systemd", "resource_class": "systemd", "type": "thing"}
    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(Operation(action="start", **thing))).rc == 0
        guest.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "pacemaker_remote")
        await recorder.until(lambda r: r.lost, 10)
    async with asyncio.timeout(30):
        while not guest.listens():
            await asyncio.sleep(0.2)
    async with connected(guest) as (connection, _):
        assert (await connection.execute(Operation(action="monitor", **thing))).rc == 0
        assert (await connection.execute(Operation(action="stop", **thing))).rc == 0
