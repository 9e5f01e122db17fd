"""The storm brake: how many guests are being started at once, which first, and the one event that tells of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcloud.dpe import messages
from pcloud.dpe.brake import share
from pcloud.simulator.loop import run
from pcloud.simulator.world import World
from tests.dpe.harness import shop
from tests.dpe.hosting import HostedWorld

Story = Callable[[list[HostedWorld]], Awaitable[None]]


def tell(folder: Path, engines: int, story: Story, *, users: bool = False) -> World:
    """Have several engine processes on one world."""
    world = World()

    async def main() -> None:
        hosts = [HostedWorld(folder, world, users=users) for _ in range(engines)]
        try:
            await story(hosts)
        finally:
            for each in hosts:
                await each.close()

    run(main())
    return world


def storms(hosted: HostedWorld) -> list[str]:
    events = [each.event for each in hosted.wire.received if isinstance(each, messages.Record)]
    return [event.reason for event in events if event is not None and event.type == "storm"]


def most_at_once(world: World) -> int:
    """Return how many guests were being started at one time: a start takes the world's boot time."""
    begun = [time for time, action, _ in world.log if action == "boot"]
    changes = sorted(
        [(round(time, 3), 1) for time in begun] + [(round(time + world.boot_seconds, 3), -1) for time in begun]
    )
    return max(itertools.accumulate(change for _, change in changes))


@given(total=st.integers(1, 100), engines=st.integers(1, 40))
def test_the_shares_are_what_is_set_and_none_is_nothing(total: int, engines: int) -> None:
    shares = [share(total, engines, index) for index in range(engines)]
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1
    assert sum(shares) == max(total, engines)


@pytest.mark.parametrize("users", [False, True])
def test_never_more_than_its_share_the_most_important_first_and_told_once(tmp_path: Path, users: bool) -> None:
    one = shop().assemblies[0]

    async def story(hosts: list[HostedWorld]) -> None:
        (hosted,) = hosts
        hosted.send(messages.Settings(starts_in_flight=2))
        for number in range(12):
            made = msgspec.structs.replace(
                shop(), name=f"d{number}", assemblies=(one,), constraints=(), priority=number % 5,
                username=f"user{number % 3}" if users else "",
            )  # fmt: skip
            hosted.load(made)
        for number in range(12):
            await hosted.state(f"d{number}", "running")
        await asyncio.sleep(600)
        (told,) = storms(hosted)
        assert "at most 2 start at once" in told

    world = tell(tmp_path, 1, story, users=users)
    assert most_at_once(world) == 2
    order = [int(guest[1:].partition(".")[0]) % 5 for _, action, guest in world.log if action == "boot"]
    assert len(order) == 12
    waited = order[2:]  # two found room at once
    assert waited == sorted(waited, reverse=True)


@pytest.mark.parametrize(("total", "engines"), [(8, 3), (5, 2), (3, 3)])
def test_several_engine_processes_start_no_more_than_is_set(tmp_path: Path, total: int, engines: int) -> None:
    async def story(hosts: list[HostedWorld]) -> None:
        for index, hosted in enumerate(hosts):
            hosted.send(messages.Settings(starts_in_flight=share(total, engines, index)))
            for number in range(10):
                hosted.load(msgspec.structs.replace(shop(), name=f"d{index}-{number}"))
        for index, hosted in enumerate(hosts):
            for number in range(10):
                await hosted.state(f"d{index}-{number}", "running")
            assert len(storms(hosted)) == 1

    world = tell(tmp_path, engines, story)
    assert most_at_once(world) == total
