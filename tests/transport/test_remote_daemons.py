"""The transport against our agent and against Pacemaker's own daemon: one behaviour."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from pcloud.environment.transport import ExitCode, OperationStatus, TransportError
from pcloud.transport.remote import RemoteTransport
from tests.transport.client import connected, endpoint, operation, thing


async def test_start_probe_monitor_stop(daemon):
    async with connected(daemon) as (connection, recorder):
        probe = await connection.execute(operation(daemon, "monitor"))
        assert (probe.rc, probe.status, probe.exit_reason) == (7, OperationStatus.DONE, "no process")
        assert probe.signal == "request"
        asked = int(time.time())  # the daemon tells whole seconds
        started = await connection.execute(operation(daemon, "start"))
        assert (started.rc, started.status, started.resource, started.action) == (0, 0, thing(daemon), "start")
        assert asked <= started.started <= time.time()
        assert (await connection.execute(operation(daemon, "monitor"))).rc == ExitCode.OK
        assert (await connection.execute(operation(daemon, "stop"))).rc == ExitCode.OK
        assert (await connection.execute(operation(daemon, "monitor"))).rc == ExitCode.NOT_RUNNING
        assert daemon.calls() == ["monitor", "start", "monitor", "stop", "monitor"]
        assert recorder.results == []


async def test_only_changes_of_a_recurring_monitor_travel(daemon):
    async with connected(daemon) as (connection, recorder):
        await connection.execute(operation(daemon, "start"))
        first = await connection.execute(operation(daemon, "monitor", interval=0.2))
        assert (first.rc, first.signal, first.interval) == (0, "request", 0.2)
        async with asyncio.timeout(60):
            while len(daemon.calls()) < 5:
                await asyncio.sleep(0.05)
        assert recorder.results == []
        if daemon.kind == "pcloud":
            daemon.wait_watched(daemon.service_pid())
        os.kill(daemon.service_pid(), signal.SIGKILL)
        await recorder.until(lambda r: r.results)
        change = recorder.results[0]
        assert (change.rc, change.interval, change.call_id, change.exit_reason) == (7, 0.2, first.call_id, "no process")
        assert change.signal == ("exit" if daemon.kind == "pcloud" else "interval")
        await connection.execute(operation(daemon, "start"))
        await recorder.until(lambda r: len(r.results) == 2)
        assert recorder.results[1].rc == 0


async def test_a_stop_ends_recurring_monitors_and_reports_no_change(daemon):
    async with connected(daemon) as (connection, recorder):
        await connection.execute(operation(daemon, "start"))
        await connection.execute(operation(daemon, "monitor", interval=0.1))
        await connection.execute(operation(daemon, "stop"))
        calls = daemon.calls()
        await asyncio.sleep(0.5)  # five of them would have run by now
        assert daemon.calls() == calls
        assert recorder.results == []


async def test_cancel_stops_the_repetition(daemon):
    async with connected(daemon) as (connection, recorder):
        await connection.execute(operation(daemon, "start"))
        await connection.execute(operation(daemon, "monitor", interval=0.1))
        await connection.cancel(thing(daemon), "monitor", 0.1)
        await connection.cancel(thing(daemon), "monitor", 0.1)  # unknown by now
        await connection.cancel("nothing", "monitor", 5)
        calls = daemon.calls()
        await asyncio.sleep(0.4)  # four of them would have run by now
        assert len(daemon.calls()) <= len(calls) + 1
        assert recorder.results == []
        again = await connection.execute(operation(daemon, "monitor", interval=0.1))
        assert again.rc == 0


async def test_asking_again_for_a_recurring_monitor_answers_at_once(daemon):
    async with connected(daemon) as (connection, recorder):
        await connection.execute(operation(daemon, "start"))
        await connection.execute(operation(daemon, "monitor", interval=3600))
        # One that waited for the next repetition would time out.
        assert (await connection.execute(operation(daemon, "monitor", interval=3600))).rc == 0
        assert recorder.results == []


async def test_a_new_connection_takes_recurring_monitors_over(daemon):
    async with connected(daemon) as (connection, _):
        await connection.execute(operation(daemon, "start"))
        await connection.execute(operation(daemon, "monitor", interval=0.3))
    async with connected(daemon) as (connection, recorder):
        assert (await connection.execute(operation(daemon, "monitor", interval=0.3))).rc == 0
        os.kill(daemon.service_pid(), signal.SIGKILL)
        await recorder.until(lambda r: r.results)
        assert recorder.results[0].rc == 7


async def test_failures_carry_code_and_reason(daemon):
    async with connected(daemon) as (connection, _):
        (daemon.state / "fail-start").touch()
        failed = await connection.execute(operation(daemon, "start"))
        assert (failed.rc, failed.status, failed.exit_reason) == (1, OperationStatus.DONE, "told to fail")
        odd = await connection.execute(operation(daemon, "migrate_to"))
        assert (odd.rc, odd.status) == (1, OperationStatus.DONE)
        killed = await connection.execute(operation(daemon, "migrate_from"))
        assert (killed.rc, killed.status) == (1, OperationStatus.ERROR)
        assert "illed" in killed.exit_reason
        unknown = await connection.execute(operation(daemon, "promote"))
        assert (unknown.rc, unknown.status) == (3, OperationStatus.DONE)


async def test_agents_that_are_not_there(daemon):
    async with connected(daemon) as (connection, _):
        for number, changes in enumerate(
            ({"type": "none"}, {"provider": "none"}, {"resource_class": "lsb", "type": "none"})
        ):
            result = await connection.execute(operation(daemon, "start", resource=f"r{number}", **changes))
            assert (result.rc, result.status) == (ExitCode.NOT_INSTALLED, OperationStatus.NOT_INSTALLED), changes
        result = await connection.execute(operation(daemon, "start", resource="r9", type="unrunnable"))
        assert (result.rc, result.status) == (ExitCode.INSUFFICIENT_PRIVILEGES, OperationStatus.DONE)


async def test_a_time_out_kills_the_whole_process_group(daemon, monkeypatch):
    monkeypatch.setattr("pcloud.transport.session.MARGIN", 3600.0)  # only the daemon can tell, who measures it
    async with connected(daemon) as (connection, _):
        (daemon.state / "hang").touch()
        hanging = daemon.state / "hanging"
        for seconds in (0.5, 5.0, 50.0):  # until it came as far as having a child
            async with asyncio.timeout(110):
                result = await connection.execute(operation(daemon, "monitor", timeout=seconds))
            assert (result.rc, result.status) == (1, OperationStatus.TIMEOUT)
            if hanging.exists() and hanging.read_text():
                break
        child = int(hanging.read_text())
        async with asyncio.timeout(60):
            while (status := _state(child)) not in ("", "Z"):
                assert status
                await asyncio.sleep(0.02)


async def begun(daemon, *actions: str) -> None:
    """Wait until just these were asked of `test:service`."""
    async with asyncio.timeout(60):
        while daemon.calls() != [*actions]:
            await asyncio.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


async def test_operations_of_one_resource_wait_for_each_other(daemon):
    async with connected(daemon) as (connection, _):
        first = asyncio.ensure_future(connection.execute(operation(daemon, "notify")))
        await begun(daemon, "notify")
        second = asyncio.ensure_future(connection.execute(operation(daemon, "start")))
        await asyncio.sleep(0)  # it is sent
        await connection.check(timeout=60)  # and taken, since this was
        await asyncio.sleep(0.3)  # it could begin, and may not
        (daemon.state / "go").touch()
        assert (await first).rc == 0
        assert (await second).queue_seconds > 0.1
        assert daemon.calls() == ["notify", "done", "start"]


async def test_operations_of_different_resources_run_together(daemon):
    async with connected(daemon) as (connection, _):
        under_way = [
            asyncio.ensure_future(connection.execute(operation(daemon, "notify", resource=f"r{number}")))
            for number in range(8)
        ]
        await begun(daemon, *["notify"] * 8)  # and none can end
        (daemon.state / "go").touch()
        assert [result.rc for result in await asyncio.gather(*under_way)] == [0] * 8


async def test_parameters_and_environment(daemon):
    values = {"dir": str(daemon.state), "text": "a \"b\" <c> & 'd'\n\te $HOME `x`", "OCF_CHECK_LEVEL": "10"}
    async with connected(daemon) as (connection, _):
        await connection.execute(operation(daemon, "validate-all", parameters=values))
    text = (daemon.state / "env").read_text()
    assert "OCF_RESKEY_text=a \"b\" <c> & 'd'\n\te $HOME `x`\n" in text
    for line in (
        "OCF_RESKEY_CRM_meta_interval=0",
        "OCF_RESKEY_CRM_meta_timeout=60000",
        "OCF_RESKEY_CRM_meta_name=validate-all",
        "OCF_CHECK_LEVEL=10",
        "OCF_RA_VERSION_MAJOR=1",
        f"OCF_RESOURCE_INSTANCE={thing(daemon)}",
        "OCF_RESOURCE_TYPE=service",
        "OCF_RESOURCE_PROVIDER=test",
        "OCF_EXIT_REASON_PREFIX=ocf-exit-reason:",
    ):
        assert line in text.splitlines(), line
    assert "\nOCF_ROOT=" in text


async def test_meta_data_and_much_output(daemon):
    async with connected(daemon) as (connection, _):
        result = await connection.execute(operation(daemon, "meta-data"))
        # Pacemaker 2.1.5 writes a line break in output as backslash and n.
        assert result.output.replace("\\n", "\n") == '<resource-agent name="service"/>\n'
        if daemon.kind == "pcloud":  # upstream keeps all of it, whatever it costs
            result = await connection.execute(operation(daemon, "reload"))
            assert (result.rc, len(result.output)) == (0, 256 * 1024)


async def test_init_scripts(daemon):
    async with connected(daemon) as (connection, _):
        for kind in ("lsb", "service"):
            changes = {"resource": f"init-{kind}", "resource_class": kind, "provider": "", "type": "thing"}
            assert (await connection.execute(operation(daemon, "monitor", **changes))).rc == 7
            assert (await connection.execute(operation(daemon, "start", **changes))).rc == 0
            assert (await connection.execute(operation(daemon, "monitor", **changes))).rc == 0
            assert (await connection.execute(operation(daemon, "stop", **changes))).rc == 0
            assert (await connection.execute(operation(daemon, "reload", **changes))).rc == 2
        meta = await connection.execute(
            operation(daemon, "meta-data", resource="x", resource_class="lsb", provider="", type="thing")
        )
        if daemon.kind == "pcloud":  # upstream's daemon runs the script, a cluster never asks it for this
            assert meta.rc == 0
            assert "a thing for tests" in meta.output


async def test_fence_devices_are_refused_as_upstream_does(agent):
    """Pacemaker's own daemon gives the same results, but blocks for 18 s each time in search of a fencer."""
    daemon = agent
    fence = {"resource": "fence", "resource_class": "stonith", "provider": "", "type": "fence_dummy"}
    async with connected(daemon) as (connection, _):
        probe = await connection.execute(operation(daemon, "monitor", **fence))
        assert (probe.rc, probe.status) == (7, OperationStatus.ERROR)
        start = await connection.execute(operation(daemon, "start", **fence))
        stop = await connection.execute(operation(daemon, "stop", **fence))
    assert (start.rc, start.status, start.exit_reason) == (1, OperationStatus.ERROR, "No connection to fencer")
    assert (stop.rc, stop.status) == (1, OperationStatus.ERROR)


async def test_a_resource_can_change_its_agent(daemon):
    async with connected(daemon) as (connection, _):
        assert (await connection.execute(operation(daemon, "meta-data"))).rc == 0
        assert (await connection.execute(operation(daemon, "start", type="none"))).rc == 5
        assert (await connection.execute(operation(daemon, "meta-data"))).rc == 0


async def test_forget_ends_repetition_and_a_later_operation_registers_anew(daemon):
    async with connected(daemon) as (connection, recorder):
        await connection.execute(operation(daemon, "start"))
        await connection.execute(operation(daemon, "monitor", interval=0.1))
        await connection.forget(thing(daemon))
        await connection.forget(thing(daemon))
        calls = daemon.calls()
        await asyncio.sleep(0.4)  # four of them would have run by now
        assert len(daemon.calls()) <= len(calls) + 1, "one may have been running"
        assert recorder.results == []
        assert (await connection.execute(operation(daemon, "monitor"))).rc == 0


async def test_a_second_engine_forgot_the_resource_meanwhile(daemon):
    async with connected(daemon) as (one, _), connected(daemon) as (other, _):
        await one.execute(operation(daemon, "start"))
        await other.forget(thing(daemon))
        assert (await one.execute(operation(daemon, "monitor"))).rc == 0


async def test_two_clients_do_not_mix_their_results(daemon):
    async with connected(daemon) as (one, first), connected(daemon) as (other, second):
        await one.execute(operation(daemon, "start"))
        await asyncio.gather(
            one.execute(operation(daemon, "monitor", interval=0.2)),
            other.execute(operation(daemon, "monitor", resource="b")),
        )
        os.kill(daemon.service_pid(), signal.SIGKILL)
        await first.until(lambda r: r.results)
        await asyncio.sleep(0.1)  # nothing may come
        assert second.results == []


async def test_the_caller_may_give_up_and_the_operation_goes_on(daemon):
    async with connected(daemon) as (connection, _):
        task = asyncio.ensure_future(connection.execute(operation(daemon, "notify")))
        await begun(daemon, "notify")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (daemon.state / "go").touch()
        await connection.execute(operation(daemon, "meta-data"))
        assert daemon.calls()[:2] == ["notify", "done"]


async def test_check_and_lost_connection(daemon):
    async with connected(daemon) as (connection, recorder):
        await connection.check(timeout=60)
        waiting = asyncio.ensure_future(connection.execute(operation(daemon, "notify")))
        await begun(daemon, "notify")
        daemon.process.kill()
        await recorder.until(lambda r: r.lost)
        with pytest.raises(TransportError) as raised:
            await waiting
        assert raised.value.code in ("CLOSED", "BROKEN")
        for call in (
            connection.execute(operation(daemon, "start")),
            connection.check(timeout=1),
            connection.cancel("a", "b", 1),
            connection.forget("a"),
        ):
            with pytest.raises(TransportError):
                await call
        await connection.close()
    assert len(recorder.lost) == 1


async def test_a_stopped_daemon_is_noticed(daemon):
    async with connected(daemon, poke_interval=0.3, poke_timeout=3600.0) as (connection, recorder):
        for _ in range(3):  # asked whenever it is silent, it answers each time
            heard = connection._heard
            async with asyncio.timeout(60):
                while connection._heard == heard:
                    await asyncio.sleep(0.02)
        assert recorder.lost == []
    async with connected(daemon, poke_interval=0.3, poke_timeout=0.6) as (_, recorder):
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            await recorder.until(lambda r: r.lost)
            assert recorder.lost[0].code == "NO_ANSWER"
        finally:
            daemon.process.send_signal(signal.SIGCONT)


async def test_check_of_a_stopped_daemon(daemon):
    async with connected(daemon) as (connection, recorder):
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(TransportError) as raised:
                await connection.check(timeout=0.3)
            assert raised.value.code == "NO_ANSWER"
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        await connection.check(timeout=60)
        assert recorder.lost == []


async def test_a_wrong_key_is_refused(daemon):
    transport = RemoteTransport()
    with pytest.raises(TransportError) as raised:
        await transport.connect(
            endpoint(daemon, key=b"x" * 4096), on_result=lambda _: None, on_lost=lambda _: None, timeout=60
        )
    assert raised.value.code in ("TLS", "CLOSED", "BROKEN")
    async with connected(daemon):
        pass


async def test_nobody_listens_and_nobody_answers(daemon):
    transport = RemoteTransport()
    nothing = {"on_result": lambda _: None, "on_lost": lambda _: None}
    with pytest.raises(TransportError) as raised:
        await transport.connect(endpoint(daemon, port=1), timeout=60, **nothing)
    assert raised.value.code == "REFUSED"
    with pytest.raises(TransportError) as raised:
        await transport.connect(endpoint(daemon, address="no.such.host.invalid"), timeout=600, **nothing)
    assert raised.value.code == "UNREACHABLE"
    with pytest.raises(TransportError) as raised:
        await transport.connect(endpoint(daemon, key=b""), timeout=60, **nothing)
    assert raised.value.code == "TLS"
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):  # nothing else ends it
            with pytest.raises(TransportError) as raised:
                await transport.connect(endpoint(daemon), timeout=0.5, **nothing)
        assert raised.value.code == "TIMEOUT"
    finally:
        daemon.process.send_signal(signal.SIGCONT)
