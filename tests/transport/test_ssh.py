"""The ssh transport against a real sshd: operations, hostile peers, links that break."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest

from pcloud.environment.transport import Operation, OperationResult, OperationStatus, TransportError
from pcloud.transport.checks import checks
from pcloud.transport.settings import SshSettings
from pcloud.transport.ssh import SshTransport
from pcloud.transport.ssh_commands import RemoteExit
from pcloud.transport.ssh_connection import SshConnection
from tests.ports import free_port
from tests.transport.contract import TransportContract
from tests.transport.sshd import Sshd, running, start_sshd, until

pytestmark = pytest.mark.real
PATIENT = SshSettings(health_interval=3600.0, exit_poll=0.05)
IMPATIENT = SshSettings(health_interval=0.2, health_timeout=1.5, exit_poll=0.05)


class Guest:
    """A connection and everything it told."""

    def __init__(self) -> None:
        self.results: list[OperationResult] = []
        self.lost: list[TransportError] = []
        self.transport = SshTransport(PATIENT)
        self.connection: SshConnection

    async def connect(self, sshd: Sshd, timeout: float = 60.0, **changes: object) -> SshConnection:
        connection = await self.transport.connect(
            sshd.endpoint(**changes), on_result=self.results.append, on_lost=self.lost.append, timeout=timeout
        )
        assert isinstance(connection, SshConnection)
        self.connection = connection
        return connection


@pytest.fixture
def sshd(tmp_path):
    with start_sshd(tmp_path) as server:
        yield server


@pytest.fixture
async def guest():
    it = Guest()
    yield it
    await it.transport.close()


@pytest.fixture
async def impatient(guest):
    """A guest that is asked often whether it lives."""
    guest.transport = SshTransport(IMPATIENT)
    return guest


@contextlib.asynccontextmanager
async def link(port: int, passing: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    """Be between a client and a port: yields another port. `passing` gets what comes, in either direction, and returns what
    goes on."""
    proxies: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(16384):
                writer.write(await passing(data))

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxies.append(asyncio.current_task())
        upstream, upwriter = await asyncio.open_connection("127.0.0.1", port)
        pumps = [asyncio.create_task(pump(reader, upwriter)), asyncio.create_task(pump(upstream, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, upwriter):
                each.transport.abort()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in proxies:
            task.cancel()
        await asyncio.gather(*proxies, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted connections are closed in the loop's next turn


def fake(action: str, **changes: object) -> Operation:
    values: dict[str, object] = {
        "resource": "rsc_web_fake",
        "resource_class": "ocf",
        "provider": "pcloudtest",
        "type": "Fake",
        "action": action,
        "timeout": 60.0,
    }
    return Operation(**(values | changes))  # type: ignore[arg-type]


def lsb(action: str, **changes: object) -> Operation:
    return fake(action, resource_class="lsb", provider="", type="pcloud-test", **changes)


async def test_ocf_life_of_a_resource(sshd, guest):
    connection = await guest.connect(sshd)
    probe = await connection.execute(fake("monitor"))
    assert (probe.rc, probe.status, probe.exit_reason) == (7, OperationStatus.DONE, "no process")
    start = await connection.execute(fake("start"))
    # The agent's daemon keeps the pipe open for longer than the operation may take: it must not be waited for.
    assert (start.rc, start.output.strip(), start.signal) == (0, "started", "request")
    assert (await connection.execute(fake("monitor"))).rc == 0
    assert (await connection.execute(fake("stop"))).rc == 0
    assert (await connection.execute(fake("monitor"))).rc == 7
    assert sshd.calls() == [f"rsc_web_fake {action}" for action in ("monitor", "start", "monitor", "stop", "monitor")]


async def test_hostile_parameters_never_reach_a_shell(sshd, guest):
    connection = await guest.connect(sshd)
    nasty = f"a'b\"$(touch {sshd.state}/pwned)`touch {sshd.state}/pwned`;touch {sshd.state}/pwned\n&& x \\ *"
    parameters = {"nasty": nasty, "CRM_meta_x": "-- -e", "empty": ""}
    result = await connection.execute(fake("start", parameters=parameters))
    assert result.rc == 0
    environment = (sshd.state / "env").read_text()
    assert f"OCF_RESKEY_nasty={nasty}\n" in environment
    assert "OCF_RESKEY_CRM_meta_x=-- -e\n" in environment
    assert "OCF_RESKEY_empty=\n" in environment
    assert not (sshd.state / "pwned").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "../../../../bin/sh"},
        {"provider": "a/b"},
        {"provider": ""},
        {"type": "Fake; reboot"},
        {"resource": "a/b"},
        {"resource": "-x"},
        {"action": "start x"},
        {"parameters": {"a b": "x"}},
        {"parameters": {"a=b": "x"}},
        {"parameters": {"a": "x\0y"}},
        {"processes": ("a/b",)},
        {"resource_class": "stonith"},
        {"resource_class": "systemd", "type": "a b"},
    ],
)
async def test_bad_names_are_refused_unsent(sshd, guest, changes):
    connection = await guest.connect(sshd)
    result = await connection.execute(fake(**({"action": "start"} | changes)))
    assert (result.rc, result.status) == (1, OperationStatus.INVALID)
    assert sshd.calls() == []


async def test_exit_codes_reasons_and_signals(sshd, guest):
    connection = await guest.connect(sshd)
    failed = await connection.execute(fake("fail"))
    assert (failed.rc, failed.exit_reason) == (6, "it is broken")
    assert (await connection.execute(fake("unknown-action"))).rc == 3
    absent = await connection.execute(fake("monitor", type="Nothing"))
    assert (absent.rc, absent.status) == (5, OperationStatus.NOT_INSTALLED)
    same_code = await connection.execute(fake("absent"))
    assert (same_code.rc, same_code.status) == (127, OperationStatus.DONE), "only a missing agent counts as missing"
    refused = await connection.execute(fake("monitor", type="Unreadable"))
    assert (refused.rc, refused.status) == (4, OperationStatus.ERROR)
    assert (await connection.execute(fake("suicide"))).rc != 0


async def test_output_is_bounded_and_does_not_block(sshd, guest):
    connection = await guest.connect(sshd)
    result = await connection.execute(fake("noisy"))
    assert result.rc == 0
    assert len(result.output) == 64 * 1024


async def test_time_out_kills_the_process_group(sshd, guest):
    connection = await guest.connect(sshd)
    written = sshd.state / "child"
    for seconds in (0.5, 5.0, 50.0):  # until it came as far as having a child, which sleeps for ten minutes
        result = await connection.execute(fake("slow", timeout=seconds))
        assert (result.rc, result.status) == (1, OperationStatus.TIMEOUT)
        if written.exists() and written.read_text():
            break
    child = int(written.read_text())
    await until(lambda: not running(child))


@pytest.mark.parametrize(("code", "rc"), [(0, 0), (1, 7), (2, 7), (3, 7), (4, 1), (150, 5), (151, 4), (99, 1)])
async def test_lsb_status(sshd, guest, code, rc):
    (sshd.state / "lsb-status").write_text(str(code))
    connection = await guest.connect(sshd)
    assert (await connection.execute(lsb("monitor"))).rc == rc
    assert (
        await connection.execute(fake("monitor", resource_class="service", provider="", type="pcloud-test"))
    ).rc == rc


@pytest.mark.parametrize(("code", "rc"), [(0, 0), (5, 5), (6, 6), (7, 7), (8, 1), (120, 1)])
async def test_lsb_start(sshd, guest, code, rc):
    (sshd.state / "lsb-start").write_text(str(code))
    connection = await guest.connect(sshd)
    assert (await connection.execute(lsb("start"))).rc == rc


async def test_missing_init_script(sshd, guest):
    connection = await guest.connect(sshd)
    operation = fake("monitor", resource_class="service", provider="", type="nothing-there")
    result = await connection.execute(operation)
    assert (result.rc, result.status) == (5, OperationStatus.NOT_INSTALLED)


async def test_a_guest_that_does_not_say_what_a_service_is_has_not_said_that_there_is_none(sshd, guest, monkeypatch):
    """An answer that is lost, or late, is no reason to give a service up as not installed."""
    connection = await guest.connect(sshd)
    service = Operation(resource="s", resource_class="service", type="nothing-at-all", action="monitor", timeout=20.0)
    assert (await connection.execute(service)).rc == 5
    for silence in (RemoteExit(returncode=0), RemoteExit(timed_out=True)):

        async def silent(words, timeout, *, stdin=b"", silence=silence):
            return silence

        with monkeypatch.context() as patch:
            patch.setattr(connection, "_run", silent)
            assert (await connection.execute(service)).status is OperationStatus.TIMEOUT
    assert (await connection.execute(service)).rc == 5


async def test_recurring_monitor_reports_changes_only(sshd, guest):
    connection = await guest.connect(sshd)
    await connection.execute(fake("start"))
    first = await connection.execute(fake("monitor", interval=0.1))
    assert first.rc == 0
    seen = len(sshd.calls())
    await until(lambda: len(sshd.calls()) > seen + 3)
    assert guest.results == [], "no change, no report"
    os.kill(sshd.service(), signal.SIGKILL)
    await until(lambda: len(guest.results) == 1)
    assert (guest.results[0].rc, guest.results[0].interval, guest.results[0].signal) == (7, 0.1, "interval")
    seen = len(sshd.calls())
    await until(lambda: len(sshd.calls()) > seen + 3)
    assert len(guest.results) == 1, "the same failure is told once"
    await connection.execute(fake("start"))
    await until(lambda: len(guest.results) == 2)
    assert guest.results[1].rc == 0
    await connection.cancel("rsc_web_fake", "monitor", 0.1)
    await connection.cancel("rsc_web_fake", "monitor", 99.0)
    seen = sshd.calls()
    await asyncio.sleep(0.4)  # four of them would have run by now
    assert len(sshd.calls()) <= len(seen) + 1


async def test_exit_of_a_process_triggers_the_monitor_at_once(sshd, guest):
    connection = await guest.connect(sshd)
    await connection.execute(fake("start"))
    # the fake service's process is called sleep: give it a name that nothing else on this machine has
    os.kill(sshd.service(), signal.SIGKILL)
    name = f"pcsvc{os.getpid() % 100000}"
    binary = sshd.state / name
    binary.write_bytes(Path("/bin/sleep").read_bytes())
    binary.chmod(0o755)
    service = await asyncio.create_subprocess_exec(str(binary), "1000", start_new_session=True)
    (sshd.state / "pid").write_text(str(service.pid))
    first = await connection.execute(fake("monitor", interval=3600.0, processes=(name,)))
    assert first.rc == 0
    service.kill()
    await service.wait()
    await until(lambda: bool(guest.results))
    assert (guest.results[0].rc, guest.results[0].signal) == (7, "exit")


async def test_the_watch_leaves_nothing_behind(sshd, guest):
    connection = await guest.connect(sshd)
    await connection.execute(fake("start"))
    await connection._watch.watch("rsc_web_fake", [sshd.service()])
    from tests.transport.sshd import command_name, descendants

    def tails() -> list[int]:
        return [pid for pid in descendants(sshd.process.pid) if command_name(pid) == "tail"]

    await until(lambda: len(tails()) == 1)
    watching = tails()
    await connection.close()
    await until(lambda: not any(running(pid) for pid in watching))


async def test_operations_of_one_resource_run_in_sequence_and_others_do_not_wait(sshd, guest):
    connection = await guest.connect(sshd)
    gate = asyncio.create_task(connection.execute(fake("gate")))
    await until(lambda: "rsc_web_fake gate" in sshd.calls())
    waiting = asyncio.create_task(connection.execute(fake("monitor")))
    other = await connection.execute(fake("monitor", resource="rsc_other"))
    assert other.rc == 7
    assert not waiting.done()
    (sshd.state / "open").touch()
    assert (await gate).rc == 0
    assert (await waiting).rc == 7
    assert sshd.calls() == ["rsc_web_fake gate", "rsc_other monitor", "rsc_web_fake opened", "rsc_web_fake monitor"]


async def test_an_operation_that_outlived_its_connection_does_not_overlap(sshd, guest):
    connection = await guest.connect(sshd)
    task = asyncio.create_task(connection.execute(fake("gate")))
    await until(lambda: "rsc_web_fake gate" in sshd.calls())
    for pid in sshd.sessions():
        if "priv" not in str(pid):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(TransportError):
        await task
    second = Guest()
    again = await second.connect(sshd)
    waiting = asyncio.create_task(again.execute(fake("monitor")))
    await asyncio.sleep(0.5)  # it could begin, and may not
    (sshd.state / "open").touch()
    assert (await waiting).rc == 7
    assert sshd.calls() == ["rsc_web_fake gate", "rsc_web_fake opened", "rsc_web_fake monitor"]
    await second.transport.close()


async def test_many_more_operations_than_sessions(sshd, guest):
    connection = await guest.connect(sshd)
    results = await asyncio.gather(*(connection.execute(fake("monitor", resource=f"r{n}")) for n in range(40)))
    assert [result.rc for result in results] == [7] * 40


async def test_sshd_that_grants_one_session(tmp_path, guest):
    with start_sshd(tmp_path, extra="MaxSessions 1\n") as sshd:
        connection = await guest.connect(sshd)
        results = await asyncio.gather(*(connection.execute(fake("monitor", resource=f"r{n}")) for n in range(3)))
        assert [result.rc for result in results] == [7] * 3
        assert guest.lost == []


async def test_cancelled_caller_does_not_cancel_the_operation(sshd, guest):
    connection = await guest.connect(sshd)
    task = asyncio.create_task(connection.execute(fake("start")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: (sshd.state / "pid").exists())


async def test_run_without_a_shell(sshd, guest):
    connection = await guest.connect(sshd)
    result = await connection.run(["printf", "%s|", "a b", "$HOME", "c'd"], timeout=60)
    assert result.stdout == b"a b|$HOME|c'd|"
    echoed = await connection.run(["cat"], stdin=b"x" * 100_000, timeout=60)
    assert echoed.stdout == b"x" * 100_000
    with pytest.raises(TransportError) as caught:
        await connection.run(["sleep", "60"], timeout=0.3)
    assert caught.value.code == "TIMEOUT"


async def test_nothing_that_was_printed_is_lost_on_a_slow_link(sshd, guest):
    """sshd tells how a command ended before the last of what it printed."""
    slow = asyncio.Event()

    async def slowly(data: bytes) -> bytes:
        await asyncio.sleep(0.3 if slow.is_set() else 0)
        return data

    async with link(sshd.port, slowly) as port:
        connection = await guest.connect(sshd, port=port)
        slow.set()
        result = await connection.run(["head", "-c", "60000", "/dev/zero"], timeout=60)
        assert len(result.stdout) == 60000
        slow.clear()
        await connection.close()


# --- hostile peers


async def test_wrong_host_key(sshd, guest):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(TransportError) as caught:
        await guest.connect(sshd, host_key=other)
    assert caught.value.code == "HOST_KEY"


async def test_wrong_user_key_is_named_and_not_shown(sshd, guest):
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with pytest.raises(TransportError) as caught:
        await guest.connect(sshd, private_key=other)
    assert caught.value.code == "AUTHENTICATION"
    with pytest.raises(TransportError) as caught:
        await guest.connect(sshd, private_key="-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n")
    assert caught.value.code == "KEY"
    assert "SECRET" not in str(caught.value)


async def test_nobody_listens(sshd, guest):
    with pytest.raises(TransportError) as caught:
        await guest.connect(sshd, port=free_port())
    assert caught.value.code == "REFUSED"


async def test_banner_silence(sshd, guest):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(60):  # nothing else ends it
            with pytest.raises(TransportError) as caught:
                await guest.connect(sshd, timeout=0.5, port=silent.getsockname()[1])
        assert caught.value.code == "TIMEOUT"


async def test_a_peer_that_is_no_sshd(sshd, guest):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2000)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        with pytest.raises(TransportError) as caught:
            await guest.connect(sshd, timeout=60, port=server.sockets[0].getsockname()[1])
    assert caught.value.code in ("PROTOCOL", "REFUSED")


async def test_a_silent_handshake_does_not_hold_up_others(sshd):
    transport = SshTransport(SshSettings(handshakes=2))
    nothing = lambda *_: None  # noqa: E731
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        stuck = [
            asyncio.create_task(
                transport.connect(sshd.endpoint(port=port), on_result=nothing, on_lost=nothing, timeout=1.0)
            )
            for _ in range(2)
        ]
        await until(transport._handshakes.locked)
        connection = await transport.connect(sshd.endpoint(), on_result=nothing, on_lost=nothing, timeout=60.0)
        await connection.check(timeout=60)
        ended = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(error, TransportError) and error.code == "TIMEOUT" for error in ended)
    await transport.close()


async def test_others_of_the_resource_pass_one_that_waits_for_its_start_delay(sshd, guest):
    connection = await guest.connect(sshd)
    late = asyncio.create_task(connection.execute(fake("monitor", start_delay=3600.0)))
    await asyncio.sleep(0)  # it is on its way
    assert (await connection.execute(fake("start"))).rc == 0
    assert not late.done()
    late.cancel()
    await asyncio.wait([late])


# --- links that break


async def test_stopped_sshd_is_noticed_by_the_health_check(sshd, impatient):
    guest = impatient
    connection = await guest.connect(sshd)
    for pid in sshd.sessions():
        os.kill(pid, signal.SIGSTOP)
    await until(lambda: bool(guest.lost))
    assert guest.lost[0].code == "SILENT"
    with pytest.raises(TransportError):
        await connection.execute(fake("monitor"))
    with pytest.raises(TransportError):
        await connection.check(timeout=1)
    await asyncio.sleep(0.5)  # nothing more may come
    assert len(guest.lost) == 1


async def test_killed_sshd_is_noticed_at_once(sshd, guest):
    connection = await guest.connect(sshd)
    await connection.execute(fake("start"))
    await connection.execute(fake("monitor", interval=0.1))
    running_operation = asyncio.create_task(connection.execute(fake("slow", resource="other", timeout=30.0)))
    await until(lambda: "other slow" in sshd.calls())
    for pid in sshd.sessions():
        os.kill(pid, signal.SIGKILL)
    await until(lambda: bool(guest.lost))  # an hour before anybody would ask
    with pytest.raises(TransportError):
        await running_operation
    assert len(guest.lost) == 1
    assert running(sshd.service()), "the service goes on"


async def test_half_open_link(sshd, impatient):
    """The peer vanishes without a word: a proxy in between swallows everything, and no FIN or RST ever comes."""
    guest = impatient
    swallow = asyncio.Event()

    async def swallowing(data: bytes) -> bytes:
        return b"" if swallow.is_set() else data

    async with link(sshd.port, swallowing) as port:
        await guest.connect(sshd, port=port)
        swallow.set()
        await until(lambda: bool(guest.lost))
        assert guest.lost[0].code == "SILENT"


async def test_close_is_silent_and_final(sshd, guest):
    connection = await guest.connect(sshd)
    await connection.execute(fake("start"))
    await connection.execute(fake("monitor", interval=0.1))
    await connection.close()
    with pytest.raises(TransportError) as caught:
        await connection.execute(fake("monitor"))
    assert caught.value.code == "CLOSED"
    await asyncio.sleep(0.3)  # nothing may come
    assert guest.lost == []
    assert running(sshd.service())


async def test_our_own_agents_need_not_be_in_the_guest(sshd, guest):
    """`ocf:pcloud:configure` is sent along: the guest carries nothing of ours."""
    connection = await guest.connect(sshd)
    mark = sshd.state / "configured with"
    name = f"pct{os.getpid()}"
    configure = {
        "resource": f"cfg_web_{name}",
        "provider": "pcloud",
        "type": "configure",
        "parameters": {
            "resource": name,
            "executable_0": "sh",
            "executable_1": "-c",
            "executable_2": 'printf %s "$db_host" > "$0"',
            "executable_3": str(mark),
            "param_db_host": 'it\'s "10.0.0.7" $HOME',
        },
    }
    assert (await connection.execute(fake("monitor", **configure))).rc == 7
    start = await connection.execute(fake("start", **configure))
    assert (start.rc, start.exit_reason) == (0, "")
    assert mark.read_text() == 'it\'s "10.0.0.7" $HOME'
    assert (await connection.execute(fake("monitor", **configure))).rc == 0
    assert (await connection.execute(fake("stop", **configure))).rc == 0
    assert (await connection.execute(fake("monitor", **configure))).rc == 7
    Path(f"/run/pcloud/resources/{name}.env").unlink()


class SshPeer:
    """The contract's peer: a real sshd with the test agent."""

    def __init__(self, sshd: Sshd) -> None:
        self.sshd = sshd
        self.transport = SshTransport(PATIENT)

    def impatient(self) -> None:
        self.transport = SshTransport(IMPATIENT)

    async def connect(self, on_result, on_lost):
        return await self.transport.connect(self.sshd.endpoint(), on_result=on_result, on_lost=on_lost, timeout=60.0)

    def operation(self, action: str, **changes: object) -> Operation:
        return fake(action, **changes)

    def kill_service(self) -> None:
        os.kill(self.sshd.service(), signal.SIGKILL)

    def silence(self) -> None:
        for pid in self.sshd.sessions():
            os.kill(pid, signal.SIGSTOP)

    def drop(self) -> None:
        for pid in self.sshd.sessions():
            os.kill(pid, signal.SIGKILL)


class TestContract(TransportContract):
    """What every transport must do."""

    @pytest.fixture
    async def peer(self, sshd):
        it = SshPeer(sshd)
        yield it
        await it.transport.close()


def test_doctor_says_what_ssh_can_do(monkeypatch):
    states = {check.check: check.state for check in checks()}
    assert states["ssh"] == "ok"
    monkeypatch.setattr("pcloud.transport.checks.resource.getrlimit", lambda _: (256, 1024))
    (few,) = [check for check in checks() if check.check == "connections"]
    assert (few.state, bool(few.hint)) == ("warning", True)
