"""The executor alone: what a monitor saw is told by a stand-in for the agents, exits are those of real processes."""

import subprocess
import time

import pytest

from pcloud.agent.commands import Command
from pcloud.agent.executor import Executor
from pcloud.agent.loop import Loop
from pcloud.agent.operation import NOT_RUNNING, OK, Result

HOUR = 3_600_000
"""Milliseconds."""


class Agents:
    """Stands in for the runner: operations that wait for their results, and the processes that a search finds."""

    def __init__(self) -> None:
        self.begun = []
        self.processes = []

    def run(self, _resource, _command, done) -> None:
        self.begun.append(done)

    def find_processes(self, _resource, _parameters, found) -> None:
        found(list(self.processes))


@pytest.fixture
def processes():
    """Starts processes; all have ended afterwards."""
    started = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "4246"]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


class World:
    """An executor with one resource, whose monitor has an interval of an hour."""

    def __init__(self) -> None:
        self.loop, self.agents = Loop(), Agents()
        self.told = []
        self.executor = Executor(
            self.loop, lambda command, result, _deleted: self.told.append((result.rc, command.signal))
        )
        self.executor._runner = self.agents
        self.executor.register("r", "ocf", "test", "service", 0)
        self.resource = self.executor.resources["r"]

    def until(self, condition) -> None:
        """Run the loop until the condition holds."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            self.loop.later(0.05, lambda: None)
            self.loop.once()

    def answer(self, rc: int) -> None:
        """Wait until an agent runs, and let it end."""
        self.until(lambda: self.agents.begun)
        self.agents.begun.pop(0)(Result(rc))


def test_a_service_that_was_back_before_anybody_looked_is_watched_again(processes):
    """Two processes end, one while the monitor that the other's end triggered still runs. That one sees the service down;
    the next look, which is as hurried, sees it up again: its new process is watched from then on."""
    world = World()
    first, second = processes(), processes()
    world.agents.processes = [first.pid, second.pid]
    world.executor.execute(Command("r", "monitor", HOUR, 20_000, {}))
    world.answer(OK)
    first.kill()
    world.until(lambda: world.agents.begun)
    second.kill()
    world.until(lambda: not world.resource.watch)
    world.answer(NOT_RUNNING)
    third = processes()
    world.agents.processes = [third.pid]
    world.answer(OK)
    assert world.told == [(OK, ""), (NOT_RUNNING, "exit"), (OK, "exit")]
    world.answer(OK)
    assert world.resource.watch
    third.kill()
    world.answer(NOT_RUNNING)
    assert world.told[-1] == (NOT_RUNNING, "exit")


def test_a_process_that_ends_before_it_is_found_is_missed_soon():
    """No process is found when the monitor begins (as while one is just being executed), and it ends before the next search:
    that is long before the interval is over."""
    world = World()
    world.executor.execute(Command("r", "monitor", HOUR, 20_000, {}))
    world.answer(OK)
    world.answer(NOT_RUNNING)
    assert world.told == [(OK, ""), (NOT_RUNNING, "")]


def test_a_process_that_is_found_late_is_watched(processes):
    world = World()
    world.executor.execute(Command("r", "monitor", HOUR, 20_000, {}))
    world.answer(OK)
    process = processes()
    world.agents.processes = [process.pid]
    world.answer(OK)
    process.kill()
    world.answer(NOT_RUNNING)
    assert world.told[-1] == (NOT_RUNNING, "exit")
