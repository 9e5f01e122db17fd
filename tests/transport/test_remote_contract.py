"""The contract of transports, for Pacemaker Remote: against our agent and against Pacemaker's own daemon."""

from __future__ import annotations

import os
import signal

import pytest

from pcloud.transport.remote import RemoteTransport
from pcloud.transport.settings import RemoteSettings
from tests.transport.client import endpoint, operation
from tests.transport.contract import TransportContract


class RemotePeer:
    """The contract's peer: a daemon that speaks Pacemaker Remote."""

    def __init__(self, daemon) -> None:
        self.daemon = daemon
        self.transport = RemoteTransport(RemoteSettings(poke_interval=3600.0))

    def impatient(self) -> None:
        self.transport = RemoteTransport(RemoteSettings(poke_interval=0.3, poke_timeout=1.0))

    async def connect(self, on_result, on_lost):
        return await self.transport.connect(endpoint(self.daemon), on_result=on_result, on_lost=on_lost, timeout=60.0)

    def operation(self, action: str, **changes):
        if action == "slow":
            (self.daemon.state / "hang").touch()
            action = "monitor"
        return operation(self.daemon, action, **changes)

    def kill_service(self) -> None:
        os.kill(self.daemon.service_pid(), signal.SIGKILL)

    def silence(self) -> None:
        os.kill(self.daemon.process.pid, signal.SIGSTOP)

    def drop(self) -> None:
        self.daemon.process.kill()


class TestContract(TransportContract):
    """What every transport must do."""

    @pytest.fixture
    async def peer(self, daemon):
        it = RemotePeer(daemon)
        yield it
        await it.transport.close()
        os.kill(daemon.process.pid, signal.SIGCONT)
