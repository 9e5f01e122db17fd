"""The agent as a process: its clients, strangers, end, size, and what it runs on."""

import ast
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcloud.agent.__main__ import UsageError, read_options
from pcloud.environment.transport import TransportError
from pcloud.transport.remote import RemoteTransport
from pcloud.wire import messages as m
from tests.certificates import authority, credentials
from tests.ports import free_port
from tests.remoted import AGENT as COMMAND
from tests.remoted import PYTHON, SOURCE, Daemon, wait_for
from tests.transport.client import connected, operation

AGENT = [*sorted((SOURCE / "pcloud" / "agent").glob("*.py")), *sorted((SOURCE / "pcloud" / "wire").glob("*.py"))]


@pytest.mark.parametrize("path", AGENT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_source_is_python_3_9(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    # Annotations may be newer than 3.9 because they are not evaluated.
    assert (
        any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
        or len(tree.body) < 3
    )


def test_it_imports_little_and_starts_fast():
    command = [
        PYTHON,
        "-S",
        "-c",
        "import sys, pcloud.agent.dispatch, pcloud.agent.__main__; print(*sys.modules)",
    ]
    loaded = subprocess.run(
        command, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "asyncio",
        "subprocess",
        "logging",
        "argparse",
        "pathlib",
        "threading",
        "uuid",
        "xml",
        "json",
        "typing",
        "re",
        "inspect",
    }
    assert not heavy & set(loaded), heavy & set(loaded)


def test_the_first_start_in_a_guest_holds_no_more_than_later_ones(tmp_path):
    """Its modules are compiled at that start, which would cost three quarters of a megabyte for good. What starting up needs
    is given back before it tells that it is ready."""
    tree = shutil.copytree(SOURCE / "pcloud", tmp_path / "pcloud", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "authkey").write_bytes(b"k" * 64)
    held = []
    for changed in (False, False, True):  # first, again, and after an upgrade
        for file in tree.rglob("*.py") if changed else ():
            os.utime(file, (1, 1))
        command = [*COMMAND[:-1], str(tree / "agent/boot.py"), "--address=127.0.0.1", f"--port={free_port()}"]
        command += [f"--authkey={tmp_path}/authkey", "--log-level=error"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / f"notify-{len(held)}"))
            manager.settimeout(60)
            environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
            process = subprocess.Popen(command, env=environment)
            try:
                assert manager.recv(100) == b"READY=1"
                # A process that begins anew keeps its id.
                assert process.poll() is None
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                held.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")))
            finally:
                process.terminate()
                assert process.wait(60) == 0
    assert max(held) < held[1] * 1.08, held


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port"],
        ["--port", "x"],
        ["--port=99999"],
        ["--nothing", "1"],
        ["extra"],
        ["--log-level", "loud"],
        ["--ca", "x"],
    ],
)
def test_bad_command_lines(arguments):
    with pytest.raises(UsageError):
        read_options(arguments)
    done = subprocess.run(
        [PYTHON, "-m", "pcloud.agent", *arguments],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--help" in done.stderr


def test_help_version_and_defaults():
    for option, text in (("--help", "--authkey FILE"), ("--version", "pcloud-remoted ")):
        done = subprocess.run(
            [PYTHON, "-m", "pcloud.agent", option],
            env={"PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert text in done.stdout
    options = read_options([])
    assert (options["address"], options["port"], options["authkey"]) == ("", "3121", "/etc/pacemaker/authkey")


def test_a_port_that_is_taken(agent):
    done = subprocess.run(
        [PYTHON, "-m", "pcloud.agent", "--address", "127.0.0.1", "--port", str(agent.port)],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "can not listen" in done.stderr


async def test_strangers_cost_nothing_but_their_connection(agent):
    strangers = []
    try:
        for payload in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70000, os.urandom(5000)):
            for _ in range(10):
                one = socket.create_connection(("127.0.0.1", agent.port))
                one.settimeout(5)
                try:
                    one.sendall(payload)
                except OSError:
                    pass  # refused while we were sending: as it should be
                strangers.append(one)
        async with connected(agent) as (connection, _):
            assert (await connection.execute(operation(agent, "start"))).rc == 0
    finally:
        for one in strangers:
            one.close()
    wait_for(lambda: _descriptors(agent) < 20, what="closing the strangers' connections")


def _descriptors(agent) -> int:
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


async def test_too_many_strangers_are_turned_away_and_clients_stay(agent):
    async with connected(agent) as (connection, _):
        strangers = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(100)]
        try:
            await connection.check(timeout=60)
            assert _descriptors(agent) < 100
        finally:
            for one in strangers:
                one.close()
        await connection.check(timeout=60)
    wait_for(lambda: _descriptors(agent) < 20, what="closing the strangers' connections")
    async with connected(agent):
        pass


async def test_a_new_client_is_announced_to_the_others(agent):
    async with connected(agent) as (one, _):
        seen = []
        usual = one._channel.on_payload
        one._channel.on_payload = lambda payload: (seen.append(m.parse(payload)), usual(payload))
        async with connected(agent):
            pass
        await one.check(timeout=60)
    assert "lrmd_rsc_new_client" in [message.get("lrmd_op") for message in seen]


async def test_a_thousand_connections_come_and_go(agent):
    transport = RemoteTransport()
    before = 0
    for round_number in range(20):
        async with connected(agent) as (connection, _):
            await connection.execute(operation(agent, "monitor", interval=600, resource=f"r{round_number % 3}"))
        if round_number == 5:
            before = _memory(agent)
    for _ in range(300):
        async with connected(agent):
            pass
    await transport.close()
    wait_for(lambda: _descriptors(agent) < 20, what="closing connections")
    assert _memory(agent) - before < 1500, "kB of memory were lost"


def _memory(agent) -> int:
    """What it wrote itself, in kB: unwritten pages of a library are private whenever nobody else has it loaded just now."""
    text = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Private_Dirty", "Swap:")))


def test_an_order_to_end_that_comes_as_soon_as_it_listens(tmp_path):
    """Whoever sees the port may send it."""
    program = """
import os, signal, sys
from pcloud.agent import __main__, server
usual = server.Server.listen
def listen(*words):
    port = usual(*words)
    os.kill(os.getpid(), signal.SIGTERM)
    return port
server.Server.listen = listen
sys.exit(__main__.main(sys.argv[1:]))
"""
    (tmp_path / "authkey").write_bytes(b"k" * 64)
    words = ["--address=127.0.0.1", f"--port={free_port()}", f"--authkey={tmp_path}/authkey"]
    command = [sys.executable, "-S", "-c", program, *words]
    done = subprocess.run(command, env={"PYTHONPATH": str(SOURCE)}, check=False, timeout=60)
    assert done.returncode == 0


async def test_an_order_to_end_leaves_services_running(agent):
    async with connected(agent) as (connection, recorder):
        await connection.execute(operation(agent, "start"))
        pid = agent.service_pid()
        agent.process.send_signal(signal.SIGTERM)
        await recorder.until(lambda r: r.lost)
        assert recorder.lost[0].code == "CLOSED"
    assert agent.process.wait(60) == 0
    os.kill(pid, 0)


async def test_an_order_to_end_asks_the_relay_first(agent):
    async with connected(agent, ipc_provider=True) as (_, recorder):
        agent.process.send_signal(signal.SIGTERM)  # answered by the transport: nothing will be stopped, go
        await recorder.until(lambda r: r.lost)
    assert agent.process.wait(60) == 0


async def test_it_waits_for_a_cluster_that_acknowledged(agent):
    async with connected(agent, ipc_provider=True) as (connection, recorder):
        asked = []

        def acknowledge(message):
            asked.append(message.get("lrmd_ipc_op"))
            connection._send(m.command(m.OP_IPC_FWD).set("lrmd_ipc_op", "shutdown_ack").set("lrmd_ipc_session", "0"))

        usual = connection._channel.on_payload

        def on_payload(payload):
            message = m.parse(payload)
            acknowledge(message) if message.tag == m.PROXY else usual(payload)

        connection._channel.on_payload = on_payload
        await connection.execute(operation(agent, "start"))
        agent.process.send_signal(signal.SIGTERM)
        assert (await connection.execute(operation(agent, "stop"))).rc == 0  # still served
        assert asked == ["shutdown_req"]
        with socket.socket() as probe:  # but nobody new
            assert probe.connect_ex(("127.0.0.1", agent.port)) != 0
        assert agent.process.poll() is None
        assert recorder.lost == []
    assert agent.process.wait(60) == 0


async def test_kill_9_and_restart(agent):
    async with connected(agent) as (connection, recorder):
        await connection.execute(operation(agent, "start"))
        pid = agent.service_pid()
        agent.process.kill()
        agent.process.wait()
        await recorder.until(lambda r: r.lost)
    agent.start()
    async with connected(agent) as (connection, recorder):
        assert (await connection.execute(operation(agent, "monitor"))).rc == 0
        assert agent.service_pid() == pid
        await connection.execute(operation(agent, "monitor", interval=60))
        agent.wait_watched(pid)
        os.kill(pid, signal.SIGKILL)
        await recorder.until(lambda r: r.results)
        assert recorder.results[0].signal == "exit"


async def test_exits_are_noticed_long_before_the_next_monitor(agent):
    async with connected(agent) as (connection, recorder):
        for number in range(5):
            await connection.execute(operation(agent, "start"))
            await connection.execute(operation(agent, "monitor", interval=3600))
            agent.wait_watched(agent.service_pid())
            os.kill(agent.service_pid(), signal.SIGKILL)
            await recorder.until(lambda r, n=number: len(r.results) > n)
            await connection.execute(operation(agent, "stop"))
    assert [result.rc for result in recorder.results] == [7] * 5
    assert {result.signal for result in recorder.results} == {"exit"}


@pytest.mark.parametrize("how", ["names", "pidfile"])
async def test_processes_are_found_by_name_or_pid_file(agent, how, tmp_path):
    """A service that the agent did not start itself."""
    name = f"pcs{secrets.token_hex(4)}"  # that no other process on this machine has
    (tmp_path / name).symlink_to("/bin/sleep")
    service = subprocess.Popen([tmp_path / name, "4242"], env={"PATH": os.environ["PATH"]})
    (agent.state / "pid").write_text(str(service.pid))
    changes = {"parameters": {"dir": str(agent.state)}}
    if how == "names":
        changes["processes"] = (name,)
    else:
        changes["parameters"]["pidfile"] = str(agent.state / "pid")
    async with connected(agent) as (connection, recorder):
        assert (await connection.execute(operation(agent, "monitor", interval=60, **changes))).rc == 0
        assert service.pid in agent.watched()
        service.kill()
        service.wait()
        await recorder.until(lambda r: r.results)
        assert (recorder.results[0].rc, recorder.results[0].signal) == (7, "exit")


async def test_processes_that_are_found_late(agent):
    """Nothing tells of the service's process when its monitor begins (as while it is just being executed): the agent looks
    for it again long before the interval, an hour, is over, and sees it end even if it did before it was found. What
    happens after the first look is done by the monitor itself, however slow this test is."""
    pid_file = agent.state / "late"
    changes = {"interval": 3600, "parameters": {"dir": str(agent.state), "pidfile": str(pid_file)}}
    async with connected(agent) as (connection, recorder):
        for found in (True, False):
            service = subprocess.Popen(["sleep", "4243"], env={"PATH": os.environ["PATH"]})
            (agent.state / "pid").write_text(str(service.pid))
            happens = f"echo {service.pid} > {pid_file}" if found else f"kill -9 {service.pid}"
            (agent.state / "then").write_text(happens)
            assert (await connection.execute(operation(agent, "monitor", **changes))).rc == 0
            if found:
                agent.wait_watched(service.pid)
                pid_file.unlink()
                service.kill()
            service.wait()
            await recorder.until(lambda r: r.results)
            result = recorder.results.pop()
            assert (result.rc, result.signal) == (7, "exit" if found else "interval")
            await connection.execute(operation(agent, "stop"))


async def test_a_resource_without_processes_is_left_alone_after_a_few_looks(agent):
    service = subprocess.Popen(["sleep", "4244"], env={"PATH": os.environ["PATH"]})
    (agent.state / "pid").write_text(str(service.pid))
    try:
        async with connected(agent) as (connection, _):
            assert (await connection.execute(operation(agent, "monitor", interval=3600))).rc == 0
            wait_for(lambda: agent.calls().count("monitor") == 4, 60, "the looks")
            begun = time.monotonic()
            wait_for(lambda: time.monotonic() - begun > 1, what="a second")
            assert agent.calls().count("monitor") == 4
    finally:
        service.kill()
        service.wait()


async def test_a_monitor_that_sees_nothing_after_an_exit_is_not_hammered(agent):
    """The named process ends again and again, and the service is well all the while."""
    (agent.state / "pid").write_text(str(os.getpid()))
    crashing = subprocess.Popen(["sh", "-c", "while :; do sleep 0.0517 & wait; done"])
    try:
        async with connected(agent) as (connection, recorder):
            monitor = operation(agent, "monitor", interval=0.5, processes=("sleep",))
            assert (await connection.execute(monitor)).rc == 0
            before = len(agent.calls())
            begun = time.monotonic()
            wait_for(lambda: time.monotonic() - begun > 3, what="three seconds")
            calls = len(agent.calls()) - before
            assert calls < 13 * (time.monotonic() - begun)  # some 20 exits a second
            assert recorder.results == []
    finally:
        (agent.state / "pid").unlink()
        crashing.kill()
        crashing.wait()


@pytest.mark.real
def test_as_process_1_it_reaps(tmp_path):
    """In a PID namespace of its own, as in a container without an init."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a PID namespace")
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    port = free_port()
    command = [
        "unshare",
        "-p",
        "-m",
        "--fork",
        "--mount-proc",
        "--kill-child",
        PYTHON,
        "-S",
        "-m",
        "pcloud.agent",
    ]
    command += ["--address", "127.0.0.1", "--port", str(port), "--authkey", str(key)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(SOURCE)}, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _accepts(port), what="listening")
        agent = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        # An orphan is made inside: a child of a shell that ends at once.
        inside = ["nsenter", "-t", str(agent), "-p", "-m", "sh", "-c", "(sleep 0.2 &) ; exit 0"]
        subprocess.run(inside, check=True)
        wait_for(lambda: _zombies(agent) == [] and _children(agent) == [], what="reaping")
        os.kill(agent, signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zombies(pid: int) -> list[int]:
    states = []
    for child in _children(pid):
        try:
            if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                states.append(child)
        except OSError:
            continue
    return states


async def test_certificates_instead_of_the_key(tmp_path):
    ours, others = authority(tmp_path / "ours", "guest", "engine"), authority(tmp_path / "others", "engine")
    daemon = Daemon("pcloud", tmp_path / "agent")
    for option, name in (("--ca", "ca.crt"), ("--certificate", "guest.crt"), ("--key", "guest.key")):
        daemon.options += [option, str(ours / name)]
    daemon.start()
    try:
        async with connected(daemon, credentials=credentials(ours, "engine")) as (connection, _):
            assert (await connection.execute(operation(daemon, "start"))).rc == 0
        # Neither a certificate of another authority nor the key.
        for settings in ({"credentials": credentials(others, "engine", ca=ours)}, {}):
            with pytest.raises(TransportError):
                async with connected(daemon, **settings):
                    pass
        async with connected(daemon, credentials=credentials(ours, "engine")) as (connection, _):
            assert (await connection.execute(operation(daemon, "stop"))).rc == 0
    finally:
        daemon.stop()
