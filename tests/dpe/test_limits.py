"""Memory and cores of guests that run follow the definition, without a restart."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pcloud.environment.infrastructure import Capability
from pcloud.model.deployable import Deployable
from pcloud.simulator.infrastructure import SimulatedInfrastructure
from tests.dpe.harness import Scenario, play, shop


def limited(**changes: Any) -> Deployable:
    """The shop whose web server's guest has these limits."""
    db, web = shop().assemblies
    return replace(shop(), assemblies=(db, replace(web, **changes)))


def told(s: Scenario) -> list[str]:
    return [event.reason for event in s.journal.events if event.type == "assembly.limits"]


def test_a_running_guest_gets_what_its_changed_definition_says_and_nothing_is_restarted() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(limited(memory=256, cpus=0.5))
        await s.settle(10)
        assert s.world.actions() == ["limit shop.web"]
        assert s.world.guests["shop.web"].bounds == (256, 0.5)
        assert told(s) == ["it has 256 MiB of memory and 0.5 processors now, without a restart"]
        s.configure(limited())
        await s.settle(10)
        assert s.world.guests["shop.web"].bounds == (0, 0.0)
        assert s.world.actions() == ["limit shop.web"] * 2
        assert s.state == "running"

    play(shop(), story)


def test_a_guest_that_is_right_is_not_touched_and_none_is_asked_twice() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        assert s.world.actions("limit") == []
        asked: list[str] = []
        infrastructure = s.environment.infrastructure
        assert isinstance(infrastructure, SimulatedInfrastructure)
        bound = infrastructure.bound

        async def watched(guest_id: str, *, memory: int, cpus: float) -> Any:
            asked.append(guest_id)
            return await bound(guest_id, memory=memory, cpus=cpus)

        infrastructure.bound = watched  # type: ignore[method-assign]
        s.configure(limited(memory=256))
        s.configure(limited(memory=256), revision=2)
        await s.settle(300)
        assert asked == []

    play(limited(memory=256), story)


def test_a_limit_below_what_is_used_is_told_once_and_comes_when_there_is_room() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.used["shop.web"] = 300
        s.configure(limited(memory=256, cpus=0.5))
        await s.settle(200)
        assert s.world.guests["shop.web"].bounds == (0, 0.0)
        refused = "its limits stay as they were: it uses 300 MiB of memory now and can not be limited to 256 MiB"
        assert told(s) == [refused]
        assert s.world.actions() == []
        assert s.state == "running"
        s.world.used["shop.web"] = 100
        await s.settle(70)
        assert s.world.guests["shop.web"].bounds == (256, 0.5)
        assert len(told(s)) == 2

    play(shop(), story)


def test_an_engine_that_takes_over_brings_what_its_forerunner_did_not() -> None:
    """Killed before, between and after: what the guest has is compared to what it shall have."""

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.deployable = limited(memory=256)
        await s.crash()
        await s.until("running")
        await s.settle(10)
        assert s.world.guests["shop.web"].bounds == (256, 0.0)
        s.deployable = limited()
        await s.crash()
        await s.until("running")
        await s.settle(10)
        assert s.world.guests["shop.web"].bounds == (0, 0.0)
        assert s.world.actions("boot", "limit") == ["boot shop.db", "boot shop.web", "limit shop.web", "limit shop.web"]

    play(shop(), story)


def test_a_guest_that_was_being_started_with_the_former_limits_gets_the_newest() -> None:
    async def story(s: Scenario) -> None:
        await s.settle(0.2)
        assert "shop.web" in s.world.guests
        assert not s.world.guests["shop.web"].running
        s.configure(limited(memory=256))
        await s.until("running")
        await s.settle(5)
        assert s.world.guests["shop.web"].bounds == (256, 0.0)

    play(shop(), story)


def test_a_guest_that_was_restarted_behind_our_back_is_asked_again() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.guests["shop.web"].bounds = (0, 0.0)
        s.world.kill_guest("shop.web")
        await s.settle(20)
        assert s.state == "running"
        assert s.world.guests["shop.web"].bounds == (256, 0.0)

    play(limited(memory=256), story)


def test_a_paused_deployable_is_left_alone() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(limited(memory=256), paused=True)
        await s.settle(100)
        assert s.world.guests["shop.web"].bounds == (0, 0.0)
        s.configure(limited(memory=256), paused=False)
        await s.settle(5)
        assert s.world.guests["shop.web"].bounds == (256, 0.0)

    play(shop(), story)


def test_while_the_infrastructure_is_away_limits_wait_for_it() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.down = "its API is away"
        s.configure(limited(memory=256))
        await s.settle(100)
        assert s.world.guests["shop.web"].bounds == (0, 0.0)
        s.world.down = ""
        await s.settle(20)
        assert s.world.guests["shop.web"].bounds == (256, 0.0)
        assert s.state == "running"

    play(shop(), story)


@pytest.mark.parametrize(
    ("capabilities", "when"),
    [({Capability.RESIZE}, "from the guest's next start on"), (set(), "when the guest is made anew")],
)
def test_what_can_not_be_changed_while_it_runs_is_told(capabilities: set[Capability], when: str) -> None:
    async def story(s: Scenario) -> None:
        assert isinstance(s.environment.infrastructure, SimulatedInfrastructure)
        s.environment.infrastructure.capabilities = frozenset(capabilities)
        s.configure()
        await s.until("running")
        s.configure(limited(memory=256))
        await s.settle(10)
        name = s.deployable.infrastructure
        assert told(s) == [f"other memory or processors take effect {when}: {name} can not change them while it runs"]
        assert s.world.guests["shop.web"].bounds == (0, 0.0)

    play(shop(), story)
