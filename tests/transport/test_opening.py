"""Transports are opened with their first guest, and weigh nothing before."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from pcloud.environment.transport import OperationResult, TransportError
from pcloud.transport.opening import open_transports
from pcloud.transport.ssh_connection import SshConnection
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
