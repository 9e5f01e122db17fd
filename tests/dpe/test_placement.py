"""Where guests run: spread over the places, moved by escalation, and an infrastructure that does not move them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from pcloud.model.deployable import Assembly, Deployable, Escalation
from pcloud.policy.observation import Recover
from tests.dpe.harness import Scenario, play, resource, shop

ONCE = Escalation(failures=1, period=600)
"""The first failure goes one level up."""


def touchy(*names: str) -> Deployable:
    """Guests of which any failure of a service goes up the whole ladder."""
    assemblies = tuple(
        Assembly(name=name, resources=(resource("httpd", escalation=ONCE),), escalation=ONCE) for name in names
    )
    return Deployable(name="shop", assemblies=assemblies, escalation=ONCE)


def many(number: int) -> Deployable:
    names = [f"web{i}" for i in range(number)]
    return Deployable(name="shop", assemblies=tuple(Assembly(name=n, resources=(resource("httpd"),)) for n in names))


def places(s: Scenario) -> dict[str, str]:
    """Where guests really are, and as it is told."""
    real = {guest_id.partition(".")[2]: guest.place for guest_id, guest in s.world.guests.items()}
    assert {a.name: a.place for a in s.statuses[-1].assemblies} == real
    return real


def fail(s: Scenario, name: str = "web") -> None:
    s.world.kill_service(f"shop.{name}", f"rsc_{name}_httpd")


def told(s: Scenario, level: str) -> list[str]:
    return [event.reason for event in s.journal.events if event.data.get("level") == level]


@pytest.mark.parametrize(("number", "expected"), [(1, [1]), (3, [1, 1, 1]), (7, [2, 2, 3])])
def test_guests_are_spread_over_the_places(number: int, expected: list[int]) -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        assert sorted(Counter(places(s).values()).values()) == expected

    play(many(number), story, places=("a", "b", "c"))


def test_they_are_spread_too_where_one_waits_for_another() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        assert sorted(places(s).values()) == ["a", "b"]

    play(shop(), story, places=("a", "b"))


def test_a_guest_that_dies_comes_back_where_it_was() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        before = places(s)
        s.world.kill_guest("shop.web1")
        await s.settle(30)
        assert s.state == "running"
        assert places(s) == before

    play(many(4), story, places=("a", "b", "c"))


def test_what_was_off_as_the_engine_died_is_started_where_its_disk_is() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        for guest in s.world.guests.values():  # as a former version, or a person, made them
            guest.place = "c"
        s.configure(target="stopped")
        await s.until("stopped")
        addresses = {name: guest.address for name, guest in s.world.guests.items()}
        await s.crash()
        await s.until("running")
        assert set(places(s).values()) == {"c"}
        assert {name: guest.address for name, guest in s.world.guests.items()} == addresses, "none was made anew"

    play(many(3), story, places=("a", "b", "c"))


def test_an_engine_that_takes_over_moves_nothing() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        for guest in s.world.guests.values():
            guest.place = "c"
        s.world.log.clear()
        await s.crash()
        await s.settle(120)
        assert s.world.actions("boot", "shutdown", "destroy", "stop", "start") == []
        assert set(places(s).values()) == {"c"}

    play(many(3), story, places=("a", "b", "c"))


def test_a_guest_is_moved_to_the_place_with_the_fewest_others() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        before = places(s)
        load = Counter(before.values())
        moved = next(name for name, place in before.items() if load[place] == 1)
        fuller, other = (place for place in ("a", "b", "c") if place != before[moved])
        # Two of them are made to be together elsewhere, so that the third place is the emptiest.
        for name, guest in s.world.guests.items():
            if name.endswith(tuple(before)) and not name.endswith(f".{moved}"):
                guest.place = fuller
                guest.boots += 1
                s.world.tell(guest, "moved by a person")
        await s.settle(30)
        fail(s, moved)
        await s.settle(60)
        assert s.state == "running"
        assert places(s) == {name: other if name == moved else fuller for name in before}
        assert any(f"moved away from {before[moved]}" in reason for reason in told(s, "place"))

    play(touchy("x", "y", "z"), story, places=("a", "b", "c"))


def test_a_guest_that_can_not_be_moved_goes_on_where_it_is_and_is_given_up_in_the_end() -> None:
    """The infrastructure starts it where it was, whatever it is asked for: what it says of the place is what counts."""

    async def story(s: Scenario) -> None:
        await s.until("running")
        home = places(s)["web"]
        s.world.immovable = True
        s.world.log.clear()
        fail(s)
        await s.settle(120)
        assert s.state == "running"
        assert len(s.world.actions("boot")) == 1
        assert places(s)["web"] == home
        fail(s)
        await s.settle(120)
        assert s.state == "running", "the third place was tried, too"
        assert len(s.world.actions("boot")) == 2
        fail(s)
        await s.settle(120)
        assert s.state == "failed"
        assert len(s.world.actions("boot")) == 2
        s.world.immovable = False
        s.engine.post(Recover())
        await s.until("running")

    s = play(touchy("web"), story, places=("a", "b", "c"))
    refused = [reason for reason in told(s, "place") if "was not moved" in reason]
    assert len(refused) == 2
    assert len([event for event in s.journal.events if event.data.get("final")]) == 1


def test_an_infrastructure_that_tells_another_place_than_it_said_at_the_start_makes_no_loop() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        home = places(s)["web"]
        start = s.environment.infrastructure.start

        async def liar(spec):
            info = await start(spec)
            s.world.guests[spec.guest_id].place = home
            return info

        s.environment.infrastructure.start = liar  # type: ignore[method-assign]
        s.world.log.clear()
        fail(s)
        await s.settle(60)
        for _ in range(3):
            s.world.tell(s.world.guests["shop.web"], "seen")
            await s.settle(60)
        assert s.state == "running"
        assert len(s.world.actions("boot")) == 1
        assert places(s)["web"] == home

    play(touchy("web"), story, places=("a", "b"))


def test_a_crash_between_the_start_elsewhere_and_its_answer_makes_no_loop() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.immovable = True
        s.world.log.clear()
        fail(s)
        async with asyncio.timeout(600):
            while not s.world.actions("boot"):
                await s.settle(0.01)
        await s.crash()
        await s.settle(3600)
        assert s.state == "running"
        assert len(s.world.actions("boot")) <= 2

    play(touchy("web"), story, places=("a", "b"))


def test_guests_that_are_to_be_kept_apart_are_wherever_they_go() -> None:
    """Of six guests on three places three exclude each other; one of them is moved, with nowhere to be alone, and back."""

    async def story(s: Scenario) -> None:
        await s.until("running")
        before = places(s)
        assert {before[name] for name in group} == {"a", "b", "c"}
        fail(s, "x4")
        await s.settle(60)
        assert s.state == "running"
        moved = places(s)
        assert moved["x4"] != before["x4"]
        assert {name: place for name, place in moved.items() if name != "x4"} == {
            name: place for name, place in before.items() if name != "x4"
        }
        s.engine.post(Recover())  # its place is allowed again
        await s.settle(1)
        fail(s, "x4")
        await s.settle(60)
        after = places(s)
        assert {after[name] for name in group} == {"a", "b", "c"}

    group = ("x0", "x2", "x4")
    six = touchy(*(f"x{i}" for i in range(6)))
    six = replace(six, assemblies=tuple(replace(a, apart="r" if a.name in group else "") for a in six.assemblies))
    play(six, story, places=("a", "b", "c"))


def test_the_place_is_explained() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        fail(s, "web0")
        await s.settle(60)

    three = many(3)
    web0 = replace(three.assemblies[0], resources=(resource("httpd", escalation=ONCE),), escalation=ONCE)
    three = replace(three, assemblies=(web0, *three.assemblies[1:]), escalation=ONCE)
    s = play(three, story, places=("a", "b", "c"))
    starts = [
        action["why"] for record in s.journal.decisions for action in record["actions"]
        if action["action"] == "start guest" and action["subject"] == "web0" and action["state"] == "done"
    ]  # fmt: skip
    assert "of the deployable's other guests" in starts[0]
    assert "moved away from" in starts[-1]


def test_nothing_is_said_of_places_where_there_is_one() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")

    s = play(many(1), story)
    text = str(s.journal.decisions)
    assert "place" not in text
    assert "here" not in text


def test_a_guest_that_was_removed_leaves_no_exclusion() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        fail(s, "web")
        await s.settle(60)
        assert "web" in s.engine.state.memory.excluded
        s.configure(touchy("other"))
        await s.until("running")
        await s.settle(30)
        assert "shop.web" not in s.world.guests
        assert s.engine.state.memory.excluded == {}

    play(touchy("web", "other"), story, places=("a", "b"))
