"""How a guest that boots is waited for, in virtual time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pcloud.dpe.links import Links
from pcloud.environment.transport import Endpoint, TransportError
from pcloud.simulator.loop import run


class Booting:
    """A transport whose agent listens from a moment on, and refuses before."""

    def __init__(self, ready: float) -> None:
        self.ready = ready
        self.attempts = 0

    async def connect(self, endpoint: Endpoint, **_: Any) -> object:
        self.attempts += 1
        if asyncio.get_running_loop().time() < self.ready:
            raise TransportError("REFUSED", "nobody listens")
        return object()


async def waited(ready: float, timeout: float) -> tuple[float, int]:
    """Connect to a guest whose agent listens `ready` seconds from now; return seconds and attempts."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    transport = Booting(begun + ready)
    environment = cast(Any, SimpleNamespace(transports={"remote": transport}))
    links = Links(environment, lambda seen: None, lambda assembly, result: None)
    await links.connect("web", "remote", lambda: Endpoint(guest_id="d.web", address="a", port=1, key=b""), timeout)
    return loop.time() - begun, transport.attempts


@pytest.mark.parametrize("ready", [0.0, 0.3, 1.0, 1.35, 8.0, 40.0])
def test_noticing_adds_little_to_the_boot(ready: float) -> None:
    took, attempts = run(waited(ready, 120))
    assert ready <= took <= ready + max(0.1 * ready, 0.02) + 1e-6
    assert attempts < 100


def test_a_guest_that_never_answers_is_given_up_in_time() -> None:
    with pytest.raises(TransportError, match="nobody listens"):
        run(waited(1000, 30))
