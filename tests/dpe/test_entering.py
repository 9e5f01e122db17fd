"""Commands in guests whose infrastructure has no way in of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pcloud.dpe.entering import run_by_ssh
from pcloud.dpe.messages import GuestMaterial
from pcloud.environment.infrastructure import ExecResult, GuestSpec, Identity, Image
from pcloud.environment.transport import Endpoint, TransportError
from pcloud.simulator.infrastructure import SimulatedInfrastructure
from pcloud.simulator.loop import run
from pcloud.simulator.world import World

IMAGE, IDENTITY = Image(name="bookworm", digest="1"), Identity(hostname="web")


class Shell:
    """A connection that runs commands."""

    closed = False

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> ExecResult:
        return ExecResult(returncode=0, stdout=" ".join(argv).encode())

    async def close(self) -> None:
        self.closed = True


class Sshd:
    """A transport to a guest whose sshd says no with these codes before it lets us in."""

    name = "ssh"

    def __init__(self, *codes: str) -> None:
        self.codes = list(codes)
        self.shell = Shell()

    async def connect(self, endpoint: Endpoint, **_: Any) -> Shell:
        if self.codes:
            raise TransportError(self.codes.pop(0), "no")
        return self.shell

    async def close(self) -> None:
        """Hold nothing."""


def ask(sshd: Sshd, timeout: float) -> ExecResult:
    async def main() -> ExecResult:
        infrastructure = SimulatedInfrastructure(World())
        await infrastructure.start(
            GuestSpec(guest_id="shop.web", deployable="shop", assembly="web", image=IMAGE, identity=IDENTITY)
        )
        material = GuestMaterial(image=IMAGE, identity=IDENTITY)
        return await run_by_ssh(infrastructure, sshd, "shop.web", material, ["uptime"], timeout=timeout)

    return run(main())


def test_a_guest_that_does_not_listen_yet_is_waited_for() -> None:
    sshd = Sshd(*["REFUSED"] * 20)
    assert ask(sshd, 60.0).stdout == b"uptime"
    assert sshd.shell.closed


@pytest.mark.parametrize(("code", "tries"), [("REFUSED", range(10, 100)), ("AUTHENTICATION", range(1, 2))])
def test_not_for_ever_and_not_for_other_reasons(code: str, tries: range) -> None:
    sshd = Sshd(*[code] * 1000)
    with pytest.raises(TransportError):
        ask(sshd, 10.0)
    assert 1000 - len(sshd.codes) in tries
