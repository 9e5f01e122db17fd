"""Resource class `systemd` in a guest with full systemd: services, their exits, agent restarts."""

import asyncio
import socket
import time

import pytest

from pcloud.environment.transport import Operation, OperationStatus
from tests.agent.controller import Controller
from tests.guests import Guest
from tests.transport.client import connected

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

UNITS = {
    "thing.service": "[Service]\nExecStart=/bin/sleep infinity\nRestart=always\nRestartSec=100ms\n",
    "fails.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
    "slow.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 30\n",
    "lazy.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 0.7\n",
    "forking.service": "[Service]\nType=forking\nExecStart=/bin/sh -c 'setsid sleep 5000 &'\n",
    "printer.service": "[Service]\nExecStart=/bin/sh -c 'env > /run/new; mv /run/new /run/printed; exec sleep infinity'\n",
    "sticky.service": "[Service]\nTimeoutStopSec=2\n"
    "ExecStart=/bin/sh -c 'trap : TERM; touch /run/sticks; while :; do sleep 0.2; done'\n",
    "masked-one.service": "[Service]\nExecStart=/bin/sleep infinity\n",
}


class WithUnits(Guest):
    def prepare(self, upper):
        for name, text in UNITS.items():
            (upper / "etc/systemd/system" / name).write_text(text)


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    made = WithUnits(tmp_path_factory.mktemp("guest"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def operation(unit: str, action: str, **changes) -> Operation:
    values = {"resource": f"rsc_{unit}", "resource_class": "systemd", "type": unit, "action": action, "timeout": 60.0}
    return Operation(**{**values, **changes})


async def test_life_of_a_service(guest):
    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(operation("thing", "monitor"))).rc == 7
        started = await connection.execute(operation("thing", "start"))
        assert (started.rc, started.status, started.exit_reason) == (0, OperationStatus.DONE, "")
        assert guest.run("systemctl", "is-active", "thing").strip() == "active"
        assert (await connection.execute(operation("thing", "monitor", interval=3600))).rc == 0
        # Its own restart rule is off: only one master.
        assert guest.run("systemctl", "show", "-p", "Restart", "thing").strip() == "Restart=no"
        pid = guest.run("systemctl", "show", "-p", "MainPID", "--value", "thing").strip()
        guest.run("kill", "-9", pid)
        await recorder.until(lambda r: r.results)
        change = recorder.results[0]
        assert (change.rc, change.signal, change.exit_reason) == (7, "exit", "failed")
        assert (await connection.execute(operation("thing", "stop"))).rc == 0
        assert (await connection.execute(operation("thing", "start"))).rc == 0
        assert (await connection.execute(operation("thing", "monitor", interval=10))).rc == 0
        assert (await connection.execute(operation("thing", "stop"))).rc == 0
        assert (await connection.execute(operation("thing", "monitor"))).rc == 7
        await connection.forget("rsc_thing")
        async with asyncio.timeout(60):
            while guest.run("systemctl", "show", "-p", "Restart", "thing").strip() != "Restart=always":
                await asyncio.sleep(0.1)


async def test_a_service_that_runs_already_is_adopted(guest):
    guest.run("systemctl", "start", "thing")
    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(operation("thing", "monitor"))).rc == 0
        assert (await connection.execute(operation("thing", "monitor", interval=10))).rc == 0
        async with asyncio.timeout(60):
            while guest.run("systemctl", "show", "-p", "Restart", "thing").strip() != "Restart=no":
                await asyncio.sleep(0.1)
        guest.run("systemctl", "kill", "-s", "KILL", "thing")
        await recorder.until(lambda r: r.results)
        assert recorder.results[0].rc == 7
        await connection.execute(operation("thing", "stop"))
        await connection.forget("rsc_thing")


async def test_failures(guest):
    async with connected(guest) as (connection, _):
        failed = await connection.execute(operation("fails", "start"))
        assert (failed.rc, failed.status) == (1, OperationStatus.DONE)
        assert "failed" in failed.exit_reason
        missing = await connection.execute(operation("no-such-unit", "start"))
        assert (missing.rc, missing.status) == (5, OperationStatus.NOT_INSTALLED)
        assert (await connection.execute(operation("no-such-unit", "stop"))).rc == 0
        assert (await connection.execute(operation("no-such-unit", "monitor"))).rc == 7
        odd = await connection.execute(operation("thing", "promote"))
        assert (odd.rc, odd.status) == (3, OperationStatus.ERROR)
        meta = await connection.execute(operation("thing", "meta-data"))
        assert meta.rc == 0
        assert "<resource-agent" in meta.output
        guest.run("systemctl", "mask", "--runtime", "masked-one")


async def test_slow_services(guest):
    async with connected(guest) as (connection, _):
        result = await connection.execute(operation("slow", "start", timeout=1.0))
        assert (result.rc, result.status) == (1, OperationStatus.TIMEOUT)
        assert (await connection.execute(operation("slow", "stop"))).rc == 0
        begun = time.monotonic()
        assert (await connection.execute(operation("lazy", "start"))).rc == 0
        assert time.monotonic() - begun > 0.6
        assert (await connection.execute(operation("sticky", "start"))).rc == 0
        async with asyncio.timeout(60):
            while guest.run("ls", "/run/sticks", check=False) == "":
                await asyncio.sleep(0.1)
        begun = time.monotonic()
        assert (await connection.execute(operation("sticky", "stop"))).rc == 0
        assert time.monotonic() - begun > 1


async def test_parameters_reach_the_service(guest):
    values = {"db_host": "10.0.0.7", "text": "a \"quoted\" $HOME `x` \\ 'y'", "CRM_meta_x": "no", "odd-name": "no"}
    async with connected(guest) as (connection, _):
        assert (await connection.execute(operation("printer", "start", parameters=values))).rc == 0
        async with asyncio.timeout(60):
            while "db_host" not in (printed := guest.run("cat", "/run/printed", check=False)):
                await asyncio.sleep(0.1)
        assert "db_host=10.0.0.7\n" in printed
        assert "text=a \"quoted\" $HOME `x` \\ 'y'\n" in printed
        assert "CRM_meta" not in printed
        assert "odd-name" not in printed
        assert guest.run("stat", "-c", "%a", "/run/pcloud/resources/rsc_printer.env").strip() == "600"
        # A changed value counts at the next start.
        assert (await connection.execute(operation("printer", "stop"))).rc == 0
        guest.run("rm", "/run/printed")
        changed = {**values, "db_host": "10.0.0.8"}
        assert (await connection.execute(operation("printer", "start", parameters=changed))).rc == 0
        async with asyncio.timeout(60):
            while "db_host=10.0.0.8\n" not in guest.run("cat", "/run/printed", check=False):
                await asyncio.sleep(0.1)
        await connection.execute(operation("printer", "stop"))


async def test_a_forking_service_without_pid_file(guest):
    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(operation("forking", "start"))).rc == 0
        assert (await connection.execute(operation("forking", "monitor", interval=30))).rc == 0
        guest.run("pkill", "-9", "-f", "sleep 5000")
        await recorder.until(lambda r: r.results)
        assert (recorder.results[0].rc, recorder.results[0].signal) == (7, "exit")
        await connection.execute(operation("forking", "stop"))


async def test_class_service_finds_the_unit(guest):
    async with connected(guest) as (connection, _):
        changes = {"resource": "rsc_any", "resource_class": "service"}
        assert (await connection.execute(operation("lazy", "stop", **changes))).rc == 0
        assert (await connection.execute(operation("lazy", "monitor", **changes))).rc == 7
        assert (await connection.execute(operation("lazy", "start", **changes))).rc == 0
        assert guest.run("systemctl", "is-active", "lazy").strip() == "active"
        assert (await connection.execute(operation("lazy", "stop", **changes))).rc == 0


async def test_a_killed_agent_comes_back_and_services_go_on(guest):
    async with connected(guest) as (connection, recorder):
        assert (await connection.execute(operation("thing", "start"))).rc == 0
        pid = guest.run("systemctl", "show", "-p", "MainPID", "--value", "thing").strip()
        ocf = Operation(resource="ocf", resource_class="lsb", type="daemon", action="start", timeout=60)
        guest.run(
            "sh",
            "-c",
            "cd /etc/init.d; printf '#!/bin/sh\\nsetsid sleep 7777 >/dev/null 2>&1 &\\n' > daemon; chmod +x daemon",
        )
        assert (await connection.execute(ocf)).rc == 0
        async with asyncio.timeout(60):  # its process may not be executed yet when the script has ended
            while not (sleeper := guest.run("pgrep", "-f", "sleep 7777", check=False).strip()):
                await asyncio.sleep(0.1)
        agent = guest.run("systemctl", "show", "-p", "MainPID", "--value", "pcloud-remoted").strip()
        guest.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "pcloud-remoted")
        await recorder.until(lambda r: r.lost)
    async with asyncio.timeout(60):  # a connection ends before systemd knows that its process has
        while guest.run("systemctl", "show", "-p", "MainPID", "--value", "pcloud-remoted").strip() in ("0", agent):
            await asyncio.sleep(0.1)
        while not guest.listens():
            await asyncio.sleep(0.1)
    async with connected(guest) as (connection, _):
        assert (await connection.execute(operation("thing", "monitor"))).rc == 0
        assert guest.run("systemctl", "show", "-p", "MainPID", "--value", "thing").strip() == pid
        assert guest.run("pgrep", "-f", "sleep 7777").strip() == sleeper
        await connection.execute(operation("thing", "stop"))
    guest.run("systemctl", "restart", "pcloud-remoted")
    assert guest.run("pgrep", "-f", "sleep 7777").strip() == sleeper


async def test_systemd_reexecuted_and_reloaded_meanwhile(guest):
    async with connected(guest) as (connection, _):
        assert (await connection.execute(operation("thing", "start"))).rc == 0
        guest.run("systemctl", "daemon-reexec")
        async with asyncio.timeout(60):
            while (await connection.execute(operation("thing", "monitor"))).rc != 0:
                await asyncio.sleep(0.2)
        assert (await connection.execute(operation("thing", "stop"))).rc == 0


def test_an_orderly_stop_of_the_agent_with_a_cluster_connected(guest):
    """The cluster stops what runs here first: systemd must not have a service wait for the agent that waits for it."""
    cluster = Controller(socket.create_connection((guest.address, guest.port), 60), guest.key)
    try:
        assert cluster.execute("rsc_thing", "systemd", "thing", "start").get("lrmd_exec_rc") == "0"
        before = guest.run("systemctl", "show", "-p", "MainPID", "--value", "pcloud-remoted").strip()
        guest.run("systemctl", "--no-block", "restart", "pcloud-remoted")
        cluster.wait("shutdown_req")
        cluster.forward("shutdown_ack")
        stopped = cluster.execute("rsc_thing", "systemd", "thing", "stop")
        assert (stopped.get("lrmd_exec_rc"), stopped.get("lrmd_exec_op_status")) == ("0", "0"), stopped.attributes
        # It did not wait for the agent to end, which waits for it.
        assert guest.run("systemctl", "show", "-p", "MainPID", "--value", "pcloud-remoted").strip() == before
    finally:
        cluster.end.close()
    deadline = time.monotonic() + 60
    while guest.run("systemctl", "show", "-p", "MainPID", "--value", "pcloud-remoted").strip() in ("0", before):
        assert time.monotonic() < deadline, "the agent did not end when the cluster had gone"
        time.sleep(0.1)
    while not guest.listens():
        assert time.monotonic() < deadline, "the new agent does not listen"
        time.sleep(0.1)
