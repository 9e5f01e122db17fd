"""The engine process's host: what it answers the daemon, above all about the end of a deployable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from pcloud.dpe.injection import kill_command
from pcloud.model.deployable import Resource
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


# --- faults on demand


def drill(folder: Path, fault: str, assembly: str, resource: str = "") -> list[tuple[str, str]]:
    """Do a fault to the running shop, wait until it runs again; return what was told meanwhile."""
    told: list[tuple[str, str]] = []

    async def story(hosted: HostedWorld) -> None:
        hosted.load(shop())
        await hosted.state("shop", "running")
        begun = hosted.host._clock.time()
        answer = await hosted.command("shop", "inject", fault=fault, assembly=assembly, resource=resource)
        assert answer.error == "", answer
        assert assembly in answer.result
        await asyncio.sleep(30)
        await hosted.state("shop", "running")
        told.extend(one for one in hosted.told(begun) if one[1] != "recovered")  # the outcome comes when it comes

    tell(folder, story)
    return told


def test_a_killed_service_is_noticed_and_started_again(tmp_path: Path) -> None:
    told = drill(tmp_path, "service-killed", "web", "httpd")
    assert [state for subject, state in told if subject == "web/httpd"] == ["failed", "starting", "running"]
    assert not [one for one in told if one[0].startswith("db") and one[1] in ("failed", "starting")]


def test_a_killed_guest_is_noticed_and_started_again(tmp_path: Path) -> None:
    told = drill(tmp_path, "guest-killed", "db")
    states = [state for subject, state in told if subject == "db"]
    assert states[0] in ("suspect", "failed"), "whichever signal came first"
    assert "failed" in states
    assert [state for state in states if state in ("starting", "running")] == ["starting", "running"]
    assert ("web/httpd", "running") in told, "what depends on it is started again, too"


def test_a_torn_link_is_noticed_and_nothing_is_restarted(tmp_path: Path) -> None:
    told = drill(tmp_path, "link-cut", "web")
    assert [state for subject, state in told if subject == "web"] == ["suspect", "running"]
    assert "starting" not in {state for subject, state in told if subject}


def test_a_fault_that_can_not_be_done_is_refused(tmp_path: Path) -> None:
    async def story(hosted: HostedWorld) -> None:
        web = msgspec.structs.replace(
            shop().assemblies[1],
            resources=(msgspec.structs.replace(shop().assemblies[1].resources[0], resource_class="ocf"),),
        )
        hosted.load(msgspec.structs.replace(shop(), assemblies=(shop().assemblies[0], web)))
        await hosted.state("shop", "running")
        hosted.world.log.clear()
        for fault, assembly, resource, why in (
            ("service-killed", "web", "httpd", "name them as `processes`"),
            ("service-killed", "web", "none", "there is no resource"),
            ("link-cut", "none", "", "BAD_COMMAND"),
            ("meteor", "web", "", "there is no fault"),
        ):
            answer = await hosted.command("shop", "inject", fault=fault, assembly=assembly, resource=resource)
            assert why in answer.error, answer
        await asyncio.sleep(5)
        assert hosted.world.actions("start", "stop", "boot", "destroy") == []

    tell(tmp_path, story)


def test_the_process_answers_whether_it_works(tmp_path: Path) -> None:
    async def story(hosted: HostedWorld) -> None:
        assert (await hosted.command("", "ping")).error == ""

    tell(tmp_path, story)


@pytest.mark.parametrize(
    ("rclass", "processes", "argv"),
    [
        ("systemd", (), ["systemctl", "kill", "--signal=SIGKILL", "httpd.service"]),
        ("ocf", ("apache2", "a.b+c"), ["pkill", "-KILL", "-x", r"apache2|a\.b\+c"]),
        ("lsb", ("a-name-longer-than-15",), ["pkill", "-KILL", "-x", "a-name-longer-t"]),
    ],
)
def test_what_kills_a_service(rclass: str, processes: tuple[str, ...], argv: list[str]) -> None:
    assert kill_command(Resource(name="r", resource_class=rclass, type="httpd", processes=processes)) == argv
