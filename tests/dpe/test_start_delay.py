"""A monitor that begins some time after its service: what is noticed when, and that nothing waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pcloud.model.deployable import Assembly, Dependency, Deployable
from pcloud.policy.observation import Tick
from tests.dpe.harness import Scenario, play, resource

DELAY = 30.0


def late(**changes: Any) -> Deployable:
    """A web server that is checked only after a while, and a proxy that starts after it."""
    settings = {"monitor_start_delay": DELAY, "monitor_interval": 10.0} | changes
    web = Assembly(name="web", resources=(resource("httpd", **settings),))
    proxy = Assembly(name="proxy", resources=(resource("haproxy"),), after=(Dependency(assembly="web"),))
    return Deployable(name="shop", assemblies=(web, proxy))


def starts(s: Scenario, action: str = "start") -> list[float]:
    return [time for time, what, subject in s.world.log if what == action and subject == "rsc_web_httpd"]


def failures(s: Scenario) -> list[float]:
    return [e.time for e in s.journal.events if (e.resource, e.state) == ("httpd", "failed")]


def monitors(s: Scenario) -> list[str]:
    return [what for _, what, subject in s.world.log if subject == "rsc_web_httpd" and what.startswith("monitor/")]


async def started(s: Scenario) -> float:
    """Wait until the web server runs; return since when (wall-clock time)."""
    async with asyncio.timeout(600):
        while s.engine.state.service("web/httpd").health != "running":
            await asyncio.sleep(0.01)
    return s.engine.state.service("web/httpd").since


def test_nothing_waits_for_the_delay() -> None:
    async def story(s: Scenario) -> None:
        since = await started(s)
        await s.until("running")
        await s.engine.idle()
        assert s.environment.clock.time() - since < DELAY
        actions = [a for record in s.journal.decisions for a in record["actions"] if a["action"] == "watch"]
        whys = {a["subject"]: a["why"] for a in actions if a["state"] == "done"}
        assert "30 s" in whys["web/httpd"]
        assert "start delay" not in whys["proxy/haproxy"]

    s = play(late(), story)
    assert monitors(s) == ["monitor/10"]


def test_a_failure_is_noticed_when_the_delay_is_over() -> None:
    async def story(s: Scenario) -> None:
        since = await started(s)
        s.world.kill_service("shop.web", "rsc_web_httpd", seen=False)
        await s.settle(DELAY - 1)
        assert failures(s) == []
        await s.settle(5)
        assert [round(time - since) for time in failures(s)] == [DELAY]
        assert len(starts(s)) == 2
        await s.settle(60)
        assert s.resource_state("web", "httpd") == "running"

    s = play(late(), story)
    assert len(failures(s)) == 1


def test_what_is_well_by_then_never_failed() -> None:
    """That is what it is for: a service whose start ends before it can be checked."""

    async def story(s: Scenario) -> None:
        await started(s)
        s.world.guests["shop.web"].services["rsc_web_httpd"] = False
        await s.settle(DELAY - 5)
        s.world.guests["shop.web"].services["rsc_web_httpd"] = True
        await s.settle(300)
        assert failures(s) == []
        assert len(starts(s)) == 1
        s.world.kill_service("shop.web", "rsc_web_httpd", seen=False)
        await s.settle(15)
        assert len(failures(s)) == 1, "from then on it is watched as any other"

    play(late(), story)


def test_a_check_that_hangs_has_its_whole_time_out_after_the_delay() -> None:
    async def story(s: Scenario) -> None:
        since = await started(s)
        s.world.hanging.add(("rsc_web_httpd", "monitor"))
        await s.settle(DELAY + 19)
        assert failures(s) == []
        s.world.hanging.clear()
        await s.settle(5)
        assert [round(time - since) for time in failures(s)] == [DELAY + 20]

    play(late(monitor_timeout=20.0), story)


def test_it_is_stopped_at_once() -> None:
    async def story(s: Scenario) -> None:
        since = await started(s)
        await s.until("running")
        s.configure(target="stopped")
        await s.until("stopped")
        assert s.environment.clock.time() - since < DELAY
        await s.settle(DELAY * 3)
        assert failures(s) == []
        assert s.state == "stopped"

    play(late(), story)


def test_another_interval_takes_effect_at_once() -> None:
    """The monitor that waits is cancelled: else both would run from then on."""

    async def story(s: Scenario) -> None:
        await started(s)
        await s.until("running")
        s.configure(late(monitor_interval=20.0))
        await s.settle(5)
        assert s.engine.state.service("web/httpd").monitored == 20.0
        await s.settle(120)
        assert len(s.world.guests["shop.web"].recurring) == 1
        assert len(starts(s)) == 1
        s.world.kill_service("shop.web", "rsc_web_httpd", seen=False)
        await s.settle(25)
        assert len(failures(s)) == 1

    s = play(late(), story)
    assert monitors(s)[:2] == ["monitor/10", "monitor/20"]


def test_another_delay_restarts_nothing() -> None:
    async def story(s: Scenario) -> None:
        await started(s)
        await s.until("running")
        s.configure(late(monitor_start_delay=5.0))
        await s.settle(5)
        assert starts(s, "stop") == []
        assert len(starts(s)) == 1

    s = play(late(), story)
    assert monitors(s) == ["monitor/10"], "of one that waits already the new delay counts from its next start on"


@pytest.mark.parametrize("after", [1.0, DELAY + 12])
def test_an_engine_that_takes_over_watches_it_again(after: float) -> None:
    async def story(s: Scenario) -> None:
        await started(s)
        await s.settle(after)
        await s.crash()
        await s.settle(DELAY + 15)
        assert len(starts(s)) == 1
        s.world.kill_service("shop.web", "rsc_web_httpd", seen=False)
        await s.settle(15)
        assert len(failures(s)) == 1
        assert len(starts(s)) == 2

    play(late(), story)


def test_a_link_that_breaks_meanwhile_is_no_failure_and_it_is_watched_again() -> None:
    async def story(s: Scenario) -> None:
        await started(s)
        await s.until("running")
        s.world.cut_off("shop.web")
        await s.settle(2)
        s.world.heal("shop.web")
        await s.settle(DELAY * 3)
        assert failures(s) == []
        assert len(starts(s)) == 1
        s.world.kill_service("shop.web", "rsc_web_httpd", seen=False)
        await s.settle(15)
        assert len(failures(s)) == 1

    play(late(), story)


def test_decisions_meanwhile_do_not_begin_it_twice() -> None:
    async def story(s: Scenario) -> None:
        await started(s)
        await s.until("running")
        for _ in range(5):
            s.engine.post(Tick())
            await s.settle(3)

    assert monitors(play(late(), story)) == ["monitor/10"]


def test_an_incident_is_over_only_after_the_first_check() -> None:
    async def story(s: Scenario) -> None:
        await started(s)
        await s.settle(DELAY + 30)
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(DELAY)
        assert not s.journal.told("incident")
        await s.settle(60)
        assert s.journal.told("incident", "recovered") == ["web/httpd"]

    play(late(), story)


def test_a_guest_whose_end_comes_first_takes_the_wait_with_it() -> None:
    async def story(s: Scenario) -> None:
        await started(s)
        await s.until("running")
        s.world.kill_guest("shop.web")
        await s.settle(20)
        assert s.resource_state("web", "httpd") == "running"
        await s.settle(DELAY * 3)
        assert failures(s) == []
        assert len(s.world.guests["shop.web"].recurring) == 1

    play(late(), story)


def test_a_deployable_without_it_asks_the_scheduler_what_it_always_asked() -> None:
    """A journal of before is replayed with the same documents."""
    from pcloud.policy import cib
    from pcloud.policy.state import Memory, initial

    plain = late(monitor_start_delay=0.0)
    assert b"start-delay" not in cib.render(initial(plain, Memory()), 1000.0)
    old = msgspec.json.decode(msgspec.json.encode(plain))
    del old["assemblies"][0]["resources"][0]["monitor_start_delay"]
    assert msgspec.convert(old, Deployable) == plain
    assert b'start-delay="30000ms"' in cib.render(initial(late(), Memory()), 1000.0)
