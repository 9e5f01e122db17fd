"""What a restored guest must be told, by an agent that answers late: no libvirt is asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import ExecResult, InfrastructureError
from pcloud.infrastructure.libvirt_saved import SavedStates

DONE = ExecResult(returncode=0)


class Connection:
    """A libvirtd whose guest's agent answers, each in its turn, what a test says."""

    def __init__(self, *answers: object, active: bool = True) -> None:
        self.answers = list(answers)
        self.active = active

    async def call(self, function: Callable[[Any], Any]) -> bool:
        return self.active

    async def raw(self, function: Callable[[Any], Any], *, timeout: float) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def states(connection: Connection) -> SavedStates:
    return SavedStates(connection, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "late",
    [
        [TimeoutError()],  # it did not take the command in time
        [InfrastructureError("the agent is not connected")],
        [7, TimeoutError()],  # it took it, and did not say how it ended
    ],
    ids=["silent", "absent", "busy"],
)
async def test_a_restored_guest_whose_agent_is_late_is_asked_again(late, caplog):
    connection = Connection(*late, 8, None, DONE)
    with caplog.at_level(logging.WARNING):
        await states(connection)._freshen("shop.web")
    assert connection.answers == []
    assert caplog.records == []


async def test_one_that_ended_meanwhile_is_not_waited_for(caplog):
    connection = Connection(active=False)
    with caplog.at_level(logging.WARNING):
        await states(connection)._freshen("shop.web")
    assert caplog.records == []
