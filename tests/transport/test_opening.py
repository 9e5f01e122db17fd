"""Transports are opened with their first guest, and weigh nothing before."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from pcloud.cpe.settings import load
from pcloud.environment.transport import Endpoint, OperationResult, Transport, TransportError
from pcloud.model.errors import InvalidDocument
from pcloud.transport.opening import configure, open_transports
from pcloud.transport.settings import RemoteSettings, SshSettings, TransportSettings
from pcloud.transport.ssh_connection import SshConnection
from tests.certificates import authority
from tests.remoted import Daemon
from tests.transport.sshd import start_sshd


def test_an_engine_process_starts_without_what_only_some_guests_need() -> None:
    heavy = {"asyncssh", "cryptography", "lxml", "sqlalchemy"}
    ask = f"import sys, pcloud.dpe.main; print(*({heavy} & sys.modules.keys()))"
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert asked.stdout.split() == []


async def test_an_unused_transport_closes() -> None:
    transports = open_transports()
    assert {"remote", "ssh"} <= transports.keys()
    assert [each.name for each in transports.values()] == list(transports)
    for each in transports.values():
        await each.close()


@pytest.mark.real
async def test_first_connections_at_once_share_one_transport(tmp_path) -> None:
    transport = open_transports()["ssh"]
    results: list[OperationResult] = []
    lost: list[TransportError] = []
    with start_sshd(tmp_path) as sshd:
        connections = await asyncio.gather(
            *(
                transport.connect(sshd.endpoint(), on_result=results.append, on_lost=lost.append, timeout=60)
                for _ in range(3)
            )
        )
        assert all(isinstance(each, SshConnection) for each in connections)
        for each in connections:
            await each.check(timeout=60)
        await transport.close()
        for each in connections:
            with pytest.raises(TransportError):
                await each.check(timeout=5)
    assert lost == []


def test_wrong_settings_are_named(tmp_path) -> None:
    file = tmp_path / "pcloud.toml"
    file.write_text(
        "[transports.remote]\nca = 'ca.pem'\npoke_rate = 0\n"
        "[transports.ssh]\nsessions = 0\nexit_poll = -1\nhealth_interval = 0\n"
    )
    with pytest.raises(InvalidDocument) as told:
        load(file, {})
    assert [problem.path for problem in told.value.problems] == [
        "transports.remote.poke_rate",
        "transports.remote.certificate",
        "transports.remote.key",
        "transports.ssh.health_interval",
        "transports.ssh.sessions",
        "transports.ssh.exit_poll",
    ]
    file.write_text("[transports.ssh]\nport = 22\n")
    with pytest.raises(InvalidDocument, match="there is no setting `port`"):
        load(file, {})


@pytest.mark.real
async def test_guests_behind_ssh_are_watched_as_set(tmp_path) -> None:
    """A health check every hour does not notice that sshd's session hangs; keep-alives of the protocol, as set, do."""
    transports = open_transports()
    configure(transports, TransportSettings(ssh=SshSettings(health_interval=3600, keepalive_interval=3)))
    lost: asyncio.Queue[TransportError] = asyncio.Queue()
    with start_sshd(tmp_path) as sshd:
        connection = await transports["ssh"].connect(
            sshd.endpoint(), on_result=lambda _: None, on_lost=lost.put_nowait, timeout=60
        )
        await connection.check(timeout=60)
        stopped = sshd.sessions()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            told = await asyncio.wait_for(lost.get(), 120)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert told.code == "CONNECTION_LOST"
    await transports["ssh"].close()


@pytest.mark.real
async def test_guests_with_certificates(tmp_path) -> None:
    """Our agent and our engine prove themselves by X.509, as set; a certificate of another authority does not."""
    ours, others = authority(tmp_path / "ours", "guest", "engine"), authority(tmp_path / "others", "engine")
    agent = Daemon("pcloud", tmp_path / "agent")
    agent.options = [
        "--ca", str(ours / "ca.crt"), "--certificate", str(ours / "guest.crt"), "--key", str(ours / "guest.key"),
    ]  # fmt: skip
    endpoint = Endpoint(guest_id="guest", address="127.0.0.1", port=agent.port, key=agent.key)
    nothing = {"on_result": lambda _: None, "on_lost": lambda _: None, "timeout": 60.0}

    def opened(folder, ca) -> Transport:
        transports = open_transports()
        files = {"ca": str(ca), "certificate": str(folder / "engine.crt"), "key": str(folder / "engine.key")}
        configure(transports, TransportSettings(remote=RemoteSettings(**files)))
        return transports["remote"]

    agent.start()
    try:
        transport = opened(ours, ours / "ca.crt")
        connection = await transport.connect(endpoint, **nothing)
        await connection.check(timeout=60)
        await transport.close()
        for refused in (
            opened(others, ours / "ca.crt"),
            opened(ours, tmp_path / "absent"),
            open_transports()["remote"],
        ):
            with pytest.raises(TransportError):
                await refused.connect(endpoint, **nothing)
            await refused.close()
    finally:
        agent.stop()
