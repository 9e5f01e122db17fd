"""A place that a guest was moved away from may be used again after a while: when, and that nothing moves for it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pcloud.dpe.wakening import RECHECK, Wakener
from pcloud.environment.infrastructure import InfrastructureError
from pcloud.model.deployable import Assembly, Deployable, Escalation, ResourceState
from pcloud.model.status import DeployableStatus
from pcloud.policy import failures
from pcloud.policy.fold import fold
from pcloud.policy.observation import Tick
from pcloud.policy.state import Memory, initial
from pcloud.simulator.loop import VirtualClock, run
from pcloud.simulator.replay import replay
from tests.dpe.harness import Scenario, play, resource

ONCE = Escalation(failures=1, period=600)
PERIOD = 3600.0


def touchy(period: float = PERIOD, failures: int = 1) -> Deployable:
    """A guest of which any failure goes up the whole ladder, to be counted for that long."""
    web = Assembly(name="web", resources=(resource("httpd", escalation=ONCE),), escalation=ONCE)
    return Deployable(name="shop", assemblies=(web,), escalation=Escalation(failures=failures, period=period))


def place(s: Scenario) -> str:
    return s.world.guests["shop.web"].place


def fail(s: Scenario) -> None:
    s.world.kill_service("shop.web", "rsc_web_httpd")


def shunned(s: Scenario) -> tuple[str, ...]:
    return s.engine.state.memory.excluded.get("web", ())


def rules(s: Scenario, rule: str) -> list[str]:
    return [r["text"] for record in s.journal.decisions for r in record["rules"] if r["rule"] == rule]


async def moved(s: Scenario) -> str:
    """Have it run, fail, and run elsewhere; return where it was."""
    await s.until("running")
    home = place(s)
    fail(s)
    await s.settle(60)
    assert s.state == "running"
    assert place(s) != home
    assert shunned(s) == (home,)
    return home


def left_at(s: Scenario) -> float:
    return next(iter(s.engine.state.memory.excluded_at["web"].values()))


async def until_after(s: Scenario, moment: float) -> None:
    await s.settle(moment - s.environment.clock.time())


def test_it_is_allowed_again_after_the_period_and_nothing_moves() -> None:
    async def story(s: Scenario) -> None:
        home = await moved(s)
        elsewhere, since = place(s), left_at(s)
        s.world.log.clear()
        await until_after(s, since + PERIOD - 1)
        assert shunned(s) == (home,)
        await until_after(s, since + PERIOD + 1)
        assert shunned(s) == ()
        assert s.engine.state.memory.excluded_at == {}
        await s.settle(PERIOD)
        assert place(s) == elsewhere
        assert s.world.actions("boot", "shutdown", "destroy", "start", "stop") == []

    s = play(touchy(), story, places=("a", "b"))
    (allowed,) = rules(s, "PLACE_ALLOWED")
    assert "3600 s ago" in allowed
    assert "not moved for it" in allowed
    assert "for 3600 s, or until `recover`" in rules(s, "RELOCATE")[0]


def test_what_fails_after_that_may_go_back() -> None:
    async def story(s: Scenario) -> None:
        home = await moved(s)
        await s.settle(PERIOD)
        fail(s)
        await s.settle(60)
        assert s.state == "running"
        assert place(s) == home

    play(touchy(), story, places=("a", "b"))


def test_what_fails_before_is_given_up_for_good() -> None:
    """The time that passes does not take back a verdict: that is for the operator."""

    async def story(s: Scenario) -> None:
        await moved(s)
        await s.settle(PERIOD - 200)
        fail(s)
        await s.settle(60)
        assert s.state == "failed"
        s.world.log.clear()
        await s.settle(PERIOD * 3)
        assert s.state == "failed"
        assert s.world.actions("boot", "start") == []

    s = play(touchy(), story, places=("a", "b"))
    assert rules(s, "PLACE_ALLOWED") == []
    assert len([event for event in s.journal.events if event.data.get("final")]) == 1


def test_a_guest_that_dies_or_is_off_as_it_expires_starts_where_it_is() -> None:
    async def story(s: Scenario) -> None:
        await moved(s)
        elsewhere = place(s)
        s.configure(target="stopped")
        await s.until("stopped")
        await s.settle(PERIOD)
        assert shunned(s) == ()
        s.configure()
        await s.until("running")
        assert place(s) == elsewhere
        s.world.kill_guest("shop.web")
        await s.settle(60)
        assert s.state == "running"

    lenient = touchy()
    web = replace(lenient.assemblies[0], escalation=Escalation(failures=3, period=600))
    httpd = replace(web.resources[0], escalation=ONCE)

    async def with_a_lenient_guest(s: Scenario) -> None:
        await s.until("running")
        home = place(s)
        for _ in range(3):
            fail(s)
            await s.settle(60)
        assert place(s) != home
        elsewhere = place(s)
        await s.settle(PERIOD)
        assert shunned(s) == ()
        s.world.kill_guest("shop.web")
        await s.settle(60)
        assert s.state == "running"
        assert place(s) == elsewhere

    play(touchy(), story, places=("a", "b", "c"))
    lenient = replace(lenient, assemblies=(replace(web, resources=(httpd,)),))
    play(lenient, with_a_lenient_guest, places=("a", "b"))


@pytest.mark.parametrize("crashes", [1, 4])
def test_an_engine_that_is_killed_counts_on(crashes: int) -> None:
    async def story(s: Scenario) -> None:
        home = await moved(s)
        elsewhere, since = place(s), left_at(s)
        for _ in range(crashes):
            await s.settle((PERIOD - 600) / crashes)
            await s.crash()
            await s.until("running")
        assert left_at(s) == since
        s.world.log.clear()
        await until_after(s, since + PERIOD - 1)
        assert shunned(s) == (home,)
        await until_after(s, since + PERIOD + 1)
        assert shunned(s) == ()
        await s.crash()
        await s.settle(60)
        assert shunned(s) == ()
        assert place(s) == elsewhere
        assert s.world.actions("boot", "shutdown", "destroy", "start", "stop") == []

    play(touchy(), story, places=("a", "b"))


def test_an_engine_that_was_away_as_it_expired_allows_it_at_once() -> None:
    memory = Memory(excluded={"web": ("a",)}, excluded_at={"web": {"a": 1000.0}})
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=Memory)
    outcome = fold(initial(touchy(), kept), Tick(), 1000.0 + PERIOD)
    assert outcome.state.memory.excluded == {}
    assert [rule.rule for rule in outcome.rules] == ["PLACE_ALLOWED"]


def test_what_a_former_version_left_counts_from_now() -> None:
    old = msgspec.to_builtins(Memory(excluded={"web": ("a", "b")}))
    del old["excluded_at"]
    state = initial(touchy(), msgspec.convert(old, Memory))
    state = fold(state, Tick(), 5000.0).state
    assert state.memory.excluded == {"web": ("a", "b")}
    assert state.memory.excluded_at == {"web": {"a": 5000.0, "b": 5000.0}}
    assert failures.next_wake(state, 5000.0) == 5000.0 + PERIOD
    state = fold(state, Tick(), 5000.0 + PERIOD - 1).state
    assert state.memory.excluded == {"web": ("a", "b")}
    assert fold(state, Tick(), 5000.0 + PERIOD).state.memory.excluded == {}


def test_each_place_has_its_own_time() -> None:
    async def story(s: Scenario) -> None:
        first = await moved(s)
        second = place(s)
        await s.settle(1000)
        fail(s)
        await s.settle(60)
        assert s.state == "running"
        assert set(shunned(s)) == {first, second}
        since = s.engine.state.memory.excluded_at["web"]
        await until_after(s, since[first] + PERIOD + 1)
        assert shunned(s) == (second,)
        await until_after(s, since[second] + PERIOD + 1)
        assert shunned(s) == ()

    play(touchy(), story, places=("a", "b", "c"))


def test_a_changed_period_counts_at_once() -> None:
    async def story(s: Scenario) -> None:
        await moved(s)
        await s.settle(600)
        s.configure(touchy(period=300))
        await s.settle(1)
        assert shunned(s) == ()

    play(touchy(), story, places=("a", "b"))


@pytest.mark.parametrize("places", [("a", "b"), ("a", "b", "c")])
def test_what_starts_nowhere_is_given_up_however_long_its_tries_take(places: tuple[str, ...]) -> None:
    """One try takes longer than the period: by the clock alone there would always be a place left to try."""

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.start_errors["shop.web"] = [InfrastructureError("no memory")] * 500
        s.world.kill_guest("shop.web")
        await s.settle(6 * 3600)
        assert s.state == "failed"

    s = play(touchy(period=3.0, failures=3), story, places=places)
    assert len(rules(s, "RELOCATE")) == len(places) - 1
    assert rules(s, "PLACE_ALLOWED") == []
    assert len([event for event in s.journal.events if event.data.get("final")]) == 1


def test_a_service_that_never_starts_is_given_up_as_well() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.results["rsc_web_httpd", "start"] = [1] * 2000
        fail(s)
        await s.settle(12 * 3600)
        assert s.state == "failed"

    s = play(touchy(period=3.0, failures=3), story, places=("a", "b", "c"))
    assert len(rules(s, "RELOCATE")) == 2


def test_an_infrastructure_that_could_not_move_it_is_asked_again_after_the_period() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        home = place(s)
        s.world.immovable = True
        fail(s)
        await s.settle(60)
        assert place(s) == home
        assert shunned(s) == tuple({"a", "b"} - {home})
        s.world.log.clear()
        await s.settle(PERIOD)
        assert shunned(s) == ()
        assert s.world.actions("boot") == []
        s.world.immovable = False
        fail(s)
        await s.settle(60)
        assert place(s) != home

    play(touchy(), story, places=("a", "b"))


def test_decisions_about_it_are_replayed() -> None:
    async def story(s: Scenario) -> None:
        await moved(s)
        await s.settle(PERIOD)
        fail(s)
        await s.settle(60)

    records = json.loads(json.dumps(play(touchy(), story, places=("a", "b")).journal.decisions))
    assert any(r["rule"] == "PLACE_ALLOWED" for record in records for r in record["rules"])
    verdicts = replay(records)
    assert {v.result for v in verdicts} <= {"same", "nothing recorded"}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([("a", "b"), ("a", "b", "c")]),
    st.lists(st.sampled_from([5.0, 40.0, 250.0, 500.0, 601.0, 1300.0]), min_size=1, max_size=12),
    st.booleans(),
)
def test_no_place_is_left_twice_within_the_period_and_nothing_moves_without_a_failure(
    zones: tuple[str, ...], waits: list[float], crash: bool
) -> None:
    period = 600.0

    async def story(s: Scenario) -> None:
        await s.until("running")
        boots, left, home = len(s.world.actions("boot")), dict[str, float](), place(s)
        for wait in waits:
            await s.settle(wait)
            if crash:
                await s.crash()
                await s.settle(5)
            assert (len(s.world.actions("boot")), place(s)) == (boots, home), "it was moved without a failure"
            now = s.environment.clock.time()
            fail(s)
            await s.settle(20)
            if s.state == "failed":
                assert all(now - at < period + 20 for at in left.values()), "there was a place left to try"
                assert len(left) == len(zones) - 1
                return
            assert s.state == "running"
            assert now - left.get(home, -period) >= period, f"{home} was left twice"
            left[home] = now
            left = {zone: at for zone, at in left.items() if now - at < period + 20}
            boots, home = len(s.world.actions("boot")), place(s)

    play(touchy(period=period), story, places=zones)


def test_a_place_that_returns_in_hours_is_no_reason_to_look_later() -> None:
    """A deployable that has not settled is looked at every minute, and when a place returns, whatever comes first."""

    async def woken(period: float, published: DeployableStatus | None) -> float:
        loop = asyncio.get_running_loop()
        memory = Memory(excluded={"web": ("a",)}, excluded_at={"web": {"a": VirtualClock().time()}})
        began, state, posted = loop.time(), initial(touchy(period=period), memory), asyncio.Event()
        environment: Any = SimpleNamespace(clock=VirtualClock())
        nobody: Any = None
        wakener = Wakener(environment, nobody, nobody, lambda _: posted.set(), lambda: state)
        wakener.arm(state, published)
        await posted.wait()
        return round(loop.time() - began)

    running = DeployableStatus(name="shop", state=ResourceState.RUNNING)
    assert run(woken(PERIOD, None)) == RECHECK
    assert run(woken(10.0, None)) == 10
    assert run(woken(PERIOD, running)) == PERIOD
