"""Why nothing happens: what is not being done, by rule, from the real engine's state in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pcloud.environment.scheduler import SchedulerError
from pcloud.model.deployable import Assembly, Deployable, Escalation
from pcloud.model.status import Standstill
from pcloud.policy.standstill import standstill
from pcloud.simulator.loop import run
from tests.dpe.harness import Scenario, play, resource, shop


def stands(s: Scenario) -> dict[tuple[str, str], Standstill]:
    found = standstill(s.engine.state, s.environment.clock.time(), s.engine.braked)
    return {(one.rule, one.subject): one for one in found}


def seen(
    do: Callable[[Scenario], Awaitable[None]], deployable: Deployable | None = None
) -> dict[tuple[str, str], Standstill]:
    """Return what stands still after a running deployable had something done to it."""
    found: dict[tuple[str, str], Standstill] = {}

    async def story(s: Scenario) -> None:
        await s.until("running")
        assert stands(s) == {}, "of what runs nothing stands still"
        await do(s)
        found.update(stands(s))

    play(deployable or shop(), story)
    return found


def test_paused_and_stopped() -> None:
    async def pause(s: Scenario) -> None:
        s.configure(paused=True)
        await s.until("paused")

    async def stop(s: Scenario) -> None:
        s.configure(target="stopped")
        await s.until("stopped")

    paused, stopped = seen(pause), seen(stop)
    assert [*paused] == [("PAUSED", "")]
    assert "pcloud resume shop" in paused["PAUSED", ""].next
    assert [*stopped] == [("STOPPED", "")]
    assert "pcloud start shop" in stopped["STOPPED", ""].next


def test_back_off_and_who_waits_for_it() -> None:
    async def fail(s: Scenario) -> None:
        s.world.results[("rsc_db_mysqld", "start")] = [1, 1]
        s.world.kill_service("shop.db", "rsc_db_mysqld")
        await s.settle(2.5)

    found = seen(fail)
    waits = found["BACK_OFF", "db/mysqld"]
    assert waits.until > 0
    assert "attempt 2 failed" in waits.text
    assert "db/mysqld" in found["ORDER", "web/httpd"].text


def test_one_signal_is_not_enough() -> None:
    async def cut(s: Scenario) -> None:
        s.world.cut_off("shop.web")
        await s.until("suspect")
        await s.settle(30)

    found = seen(cut)
    assert found["SECOND_SIGNAL", "web"].since > 0
    assert "second, independent one" in found["SECOND_SIGNAL", "web"].text
    assert ("GUEST", "web/httpd") not in found, "it may well run"


def test_a_guest_that_is_not_gone_holds_its_replacement_back() -> None:
    async def stuck(s: Scenario) -> None:
        s.world.stubborn.add("shop.web")
        s.world.freeze("shop.web")
        await s.settle(60)

    assert ("ISOLATION", "web") in seen(stuck)


def test_what_no_try_can_mend() -> None:
    async def missing(s: Scenario) -> None:
        s.world.results[("rsc_web_httpd", "start")] = [5]
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.until("unrecoverable")

    found = seen(missing)
    assert [*found] == [("UNRECOVERABLE", "web/httpd")]
    assert "pcloud recover shop --assembly web --resource httpd" in found["UNRECOVERABLE", "web/httpd"].next


def test_given_up_and_blocked() -> None:
    once = Escalation(failures=1, period=6000)
    web = Assembly(name="web", resources=(resource("httpd", escalation=once),), escalation=once)
    fragile = Deployable(name="shop", assemblies=(web,), escalation=once)

    async def give_up(s: Scenario) -> None:
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.until("failed")

    async def block(s: Scenario) -> None:
        async def broken(cib: bytes) -> bytes:
            raise SchedulerError("no answer")

        s.scheduler.schedule = broken  # type: ignore[method-assign]
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.until("blocked")

    assert ("GAVE_UP", "") in seen(give_up, fragile)
    assert "pcloud recover shop" in seen(block)["BLOCKED", ""].next


def test_the_infrastructure_is_away() -> None:
    async def down(s: Scenario) -> None:
        s.world.down = "connection refused"
        s.world.kill_guest("shop.web")
        await s.until("unknown")

    assert "connection refused" in seen(down)["INFRASTRUCTURE_DOWN", ""].text


def test_who_waits_for_the_storm_brake() -> None:
    held: list[set[str]] = []

    def braked(s: Scenario) -> set[str]:
        return {subject for rule, subject in stands(s) if rule == "STORM_BRAKE"}

    async def story(s: Scenario) -> None:
        async with asyncio.timeout(600):
            while not braked(s):
                await asyncio.sleep(0.01)
        held.append(braked(s))
        await s.until("running")
        held.append(braked(s))

    async def main() -> None:
        three = tuple(Assembly(name=name) for name in ("one", "three", "two"))
        s = Scenario(Deployable(name="shop", assemblies=three))
        s.environment.brake.resize(1)
        await s.run(story)

    run(main())
    assert [len(names) for names in held] == [2, 0], "one may start, two wait"
