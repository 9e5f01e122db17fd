"""What a command printed, where sshd tells its end before its output: every order in which it may do so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pcloud.transport.ssh_channel import CommandSession, run

Step = tuple[float, Callable[[CommandSession], object]]
STATUS, TEXT, END = (
    lambda session: session.exit_status_received(0),
    lambda session: session.data_received(b"late", None),
    lambda session: session.eof_received(),
)


class Guest:
    """The connection to a guest whose sshd tells things at those seconds; and the channel in it."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.closed = False

    async def create_session(
        self, factory: Callable[[], CommandSession], command: str, *, encoding: None
    ) -> tuple[Guest, CommandSession]:
        session, loop = factory(), asyncio.get_running_loop()
        for seconds, tell in self.steps:
            loop.call_later(seconds, tell, session)
        return self, session

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "steps",
    [
        [(0.0, TEXT), (0.0, END), (0.0, STATUS)],
        [(0.0, STATUS), (0.0, TEXT), (0.0, END)],
        # Where a command takes long, so does what comes after its end.
        [(0.6, STATUS), (1.0, TEXT), (1.0, END)],
    ],
    ids=["in order", "status first", "slow"],
)
async def test_output_that_comes_after_the_status_is_not_lost(steps: list[Step]) -> None:
    guest = Guest(*steps)
    end = await run(guest, "true", timeout=60)  # type: ignore[arg-type]
    assert (end.returncode, end.stdout, end.timed_out) == (0, b"late", False)
    assert guest.closed


async def test_a_pipe_that_a_daemon_keeps_is_not_waited_for() -> None:
    end = await run(Guest((0.0, TEXT), (0.0, STATUS)), "true", timeout=60)  # type: ignore[arg-type]
    assert (end.returncode, end.stdout, end.timed_out) == (0, b"late", False)
