"""The engine process's host: what it answers the daemon, above all about the end of a deployable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from pcloud.simulator.loop import run
from tests.dpe.harness import shop
from tests.dpe.hosting import HostedWorld

Story = Callable[[HostedWorld], Awaitable[None]]


def tell(folder: Path, story: Story) -> HostedWorld:
    async def main() -> HostedWorld:
        hosted = HostedWorld(folder)
        try:
            await story(hosted)
        finally:
            await hosted.close()
        return hosted

    return run(main())


def test_a_delete_of_what_is_not_loaded_is_refused_not_called_done(tmp_path: Path) -> None:
    async def story(hosted: HostedWorld) -> None:
        answer = await hosted.unload("shop", delete=True)
        assert answer.error.startswith("NOT_LOADED: ")
        assert (await hosted.unload("shop", delete=False)).error == ""  # to let go of nothing is no fault

    tell(tmp_path, story)


def test_a_delete_while_the_driver_can_not_be_opened_is_refused_and_carried_through_later(tmp_path: Path) -> None:
    async def story(hosted: HostedWorld) -> None:
        hosted.load(shop())
        await hosted.state("shop", "running")
        await hosted.crash()
        hosted.refuse = "no permission"
        hosted.load(shop(), target="stopped")
        assert (await hosted.unload("shop", delete=True)).error.startswith("NOT_LOADED: ")
        assert len(hosted.world.guests) == 2
        hosted.refuse = ""
        hosted.load(shop(), target="stopped")
        assert (await hosted.unload("shop", delete=True)).error == ""
        assert hosted.world.guests == {}

    tell(tmp_path, story)


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_moment_of_a_delete_leaves_nothing(tmp_path: Path, part: int) -> None:
    """Every hundredth of a second of it, and twice in a row."""

    def kill_after(moment: float) -> None:
        async def story(hosted: HostedWorld) -> None:
            hosted.load(shop())
            await hosted.state("shop", "running")
            for again in (moment, moment / 2):
                asking = asyncio.ensure_future(hosted.unload("shop", delete=True))
                await asyncio.sleep(again)
                asking.cancel()
                await hosted.crash()
                hosted.load(shop(), target="stopped")
            assert (await hosted.unload("shop", delete=True)).error == ""
            assert hosted.world.guests == {}

        tell(tmp_path, story)

    for number in range(part, 80, 4):
        kill_after(number / 100)


def test_an_assembly_that_was_leaving_goes_too(tmp_path: Path) -> None:
    """Killed while it removed an assembly that the document no longer has, then told to delete the rest."""

    async def story(hosted: HostedWorld) -> None:
        hosted.load(shop())
        await hosted.state("shop", "running")
        small = msgspec.structs.replace(shop(), assemblies=shop().assemblies[:1])
        hosted.load(small)
        await asyncio.sleep(0.05)
        await hosted.crash()
        hosted.load(small, target="stopped")
        assert (await hosted.unload("shop", delete=True)).error == ""
        assert hosted.world.guests == {}

    tell(tmp_path, story)


def test_asked_twice_for_the_same_delete(tmp_path: Path) -> None:
    async def story(hosted: HostedWorld) -> None:
        hosted.load(shop())
        await hosted.state("shop", "running")
        first, second = await asyncio.gather(
            hosted.unload("shop", delete=True), hosted.unload("shop", delete=True), return_exceptions=True
        )
        assert not isinstance(first, BaseException)
        assert not isinstance(second, BaseException)
        assert {first.error, second.error} <= {"", "NOT_LOADED: shop is not loaded here"}
        assert hosted.world.guests == {}

    tell(tmp_path, story)
