"""Escalation: N within P seconds, one level up, counting afresh; on the real engine in virtual time."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from msgspec.structs import replace

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.environment.transport import TransportError
from pcloud.model.deployable import Assembly, Deployable, Escalation
from pcloud.policy.observation import Recover, Restart
from tests.dpe.harness import Scenario, play, resource, shop


def one(rule: Escalation, **changes: object) -> Deployable:
    web = Assembly(name="web", resources=(resource("httpd", escalation=rule),))
    return replace(Deployable(name="shop", assemblies=(web,)), **changes)


async def fail(s: Scenario, wait: float) -> None:
    s.world.kill_service("shop.web", "rsc_web_httpd")
    await s.settle(wait)


def test_two_restarts_then_one_escalation_then_counting_afresh() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        for _ in range(2):
            await fail(s, 2)
            assert s.world.actions("boot") == []
        await fail(s, 5)
        assert s.state == "running"
        assert s.world.actions("shutdown", "boot") == ["shutdown shop.web", "boot shop.web"]
        for _ in range(2):  # counting afresh
            await fail(s, 1)
        assert len(s.world.actions("boot")) == 1

    s = play(one(Escalation(failures=3, period=10)), story)
    assert [e.data["level"] for e in s.journal.events if e.type == "escalation"] == ["assembly"]


def test_a_failure_outside_the_period_does_not_escalate() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        for _ in range(6):
            await fail(s, 6)  # never three within ten seconds
        assert s.state == "running"

    s = play(one(Escalation(failures=3, period=10)), story)
    assert s.world.actions("boot") == []


def test_counters_survive_the_engine() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        await fail(s, 2)
        await fail(s, 2)
        await s.crash()
        await s.settle(1)
        await fail(s, 5)
        assert s.world.actions("boot") == ["boot shop.web"]

    play(one(Escalation(failures=3, period=30)), story)


def test_up_the_whole_ladder_to_one_final_notification_and_back_by_recover() -> None:
    deployable = one(Escalation(failures=1, period=60), escalation=Escalation(failures=2, period=600))
    deployable = replace(
        deployable, assemblies=(replace(deployable.assemblies[0], escalation=Escalation(failures=2, period=600)),)
    )

    async def story(s: Scenario) -> None:
        await s.until("running")
        for _ in range(8):
            if s.state == "failed":
                break
            await fail(s, 20)
        assert s.state == "failed"
        s.world.log.clear()
        await s.settle(1000)
        assert s.world.actions("boot", "start", "stop") == []
        s.engine.post(Recover())
        await s.until("running")

    s = play(deployable, story)
    assert len([e for e in s.journal.events if e.data.get("final")]) == 1
    assert [e.data["level"] for e in s.journal.events if e.type == "escalation"][:3] == [
        "assembly",
        "assembly",
        "deployable",
    ]


def test_relocation_where_another_place_exists() -> None:
    rule = Escalation(failures=1, period=600)
    deployable = one(rule, escalation=rule)
    deployable = replace(deployable, assemblies=(replace(deployable.assemblies[0], escalation=rule),))

    async def story(s: Scenario) -> None:
        await s.until("running")
        assert s.statuses[-1].assemblies[0].place == "a"
        await fail(s, 20)
        assert s.state == "running"
        assert s.statuses[-1].assemblies[0].place == "b"

    play(deployable, story, places=("a", "b"))


def never_starts() -> list[InfrastructureError]:
    return [InfrastructureError("no memory")] * 1000


def levels(s: Scenario) -> list[str]:
    return [e.data["level"] for e in s.journal.events if e.type == "escalation"]


def finals(s: Scenario) -> list[str]:
    return [e.reason for e in s.journal.events if e.data.get("final")]


@pytest.mark.parametrize("period", [2.0, 600.0])
def test_guest_that_never_starts_escalates_and_is_given_up_with_a_reason(period: float) -> None:
    """Also where the growing waits take longer than the period: failed starts in a row count together."""
    deployable = one(Escalation(failures=5, period=60), escalation=Escalation(failures=3, period=period))
    rule = Escalation(failures=3, period=period)
    deployable = replace(deployable, assemblies=(replace(deployable.assemblies[0], escalation=rule),))

    async def story(s: Scenario) -> None:
        s.world.start_errors["shop.web"] = never_starts()
        await s.until("failed", 3600)
        boots = len(s.world.actions("boot"))
        assert boots == 9
        await s.settle(3600)
        assert len(s.world.actions("boot")) == boots
        s.world.start_errors.clear()
        s.engine.post(Recover())
        await s.until("running")

    s = play(deployable, story)
    assert levels(s) == ["deployable"] * 3
    (final,) = finals(s)
    assert "no memory" in final
    assert "guest web" in final


def test_guest_that_never_starts_is_tried_elsewhere_and_then_given_up() -> None:
    rule = Escalation(failures=1, period=600)
    deployable = one(rule, escalation=rule)
    deployable = replace(deployable, assemblies=(replace(deployable.assemblies[0], escalation=rule),))

    async def story(s: Scenario) -> None:
        s.world.start_errors["shop.web"] = never_starts()
        await s.until("failed", 3600)

    s = play(deployable, story, places=("a", "b"))
    assert levels(s) == ["deployable", "place", "deployable"]
    assert len(finals(s)) == 1
    assert len(s.world.actions("boot")) == 2


def test_guest_that_starts_and_never_answers_is_given_up() -> None:
    """Each attempt takes as long as a guest may take to start: longer than the period."""
    rule = Escalation(failures=3, period=60)
    deployable = one(rule, escalation=rule)
    deployable = replace(
        deployable, assemblies=(replace(deployable.assemblies[0], escalation=rule, start_timeout=100.0),)
    )

    async def story(s: Scenario) -> None:
        async def nobody(*_: object, **__: object) -> None:
            await asyncio.sleep(5)
            raise TransportError("TIMEOUT", "no answer")

        s.environment.transports["remote"].connect = nobody  # type: ignore[method-assign]
        await s.until("failed", 3600)
        assert len(s.world.actions("boot")) == 9

    s = play(deployable, story)
    (final,) = finals(s)
    assert "no answer" in final


def test_service_whose_start_always_times_out_is_given_up() -> None:
    rule = Escalation(failures=3, period=60)
    deployable = one(rule, escalation=rule)
    web = deployable.assemblies[0]
    slow = replace(web.resources[0], start_timeout=90.0)
    deployable = replace(deployable, assemblies=(replace(web, escalation=rule, resources=(slow,)),))

    async def story(s: Scenario) -> None:
        s.world.hanging.add(("rsc_web_httpd", "start"))
        await s.until("failed", 24 * 3600)
        assert len(s.world.actions("start")) == 27

    assert len(finals(play(deployable, story))) == 1


def test_a_failed_start_long_after_another_one_counts_alone() -> None:
    rule = Escalation(failures=2, period=60)
    deployable = one(Escalation(failures=5, period=60))
    deployable = replace(deployable, assemblies=(replace(deployable.assemblies[0], escalation=rule),))

    async def story(s: Scenario) -> None:
        for _ in range(3):
            s.world.start_errors["shop.web"] = never_starts()[:1]
            if s.statuses and s.state == "running":
                s.world.kill_guest("shop.web")
                await s.settle(1)
                s.world.start_errors.clear()
            await s.until("running")
            await s.settle(200)

    # Three times a guest fails to start once (and twice of those it had died before: two failures within 60 s escalate).
    assert levels(play(deployable, story)) == ["deployable"] * 2


def test_guest_that_does_not_start_backs_off() -> None:
    async def story(s: Scenario) -> None:
        s.world.start_errors["shop.web"] = [InfrastructureError("no memory")] * 3
        await s.until("running")

    s = play(one(Escalation(failures=3, period=10)), story)
    boots = [when for when, action, _ in s.world.log if action == "boot"]
    assert [round(b - a) for a, b in itertools.pairwise(boots)] == [1, 2, 4]


def test_permanent_start_error_of_a_guest() -> None:
    from pcloud.environment.infrastructure import InfrastructureError

    async def story(s: Scenario) -> None:
        s.world.start_errors["shop.web"] = [InfrastructureError("no such image", permanent=True)] * 3
        await s.until("unrecoverable")
        await s.settle(600)
        assert s.world.actions("boot") == ["boot shop.web"]

    play(one(Escalation(failures=3, period=10)), story)


def test_a_restart_from_outside_takes_the_guest_and_its_dependents_services_in_order_and_counts() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        for _ in range(2):
            s.engine.post(Restart(assembly="db", why="the alarm went off"))
            await s.settle(3)
            assert s.state == "running"
        assert s.world.actions("boot", "shutdown") == ["shutdown shop.db", "boot shop.db"] * 2
        s.engine.post(Restart(assembly="db", why="the alarm went off"))  # the third: all of it
        await s.settle(10)
        s.engine.post(Restart(assembly="nobody", why="the alarm went off"))
        await s.settle(5)

    deployable = shop()
    rule = Escalation(failures=3, period=600)
    s = play(replace(deployable, assemblies=tuple(replace(a, escalation=rule) for a in deployable.assemblies)), story)
    assert [e.data["level"] for e in s.journal.events if e.type == "escalation"][-1] == "deployable"
    assert s.world.actions("boot")[2:] == ["boot shop.db", "boot shop.web"]
    starts = [e.resource for e in s.journal.events if e.type == "resource.state" and e.state == "running"]
    assert starts[:2] == ["mysqld", "httpd"]
    assert starts[2:4] == ["mysqld", "httpd"], "the dependent service is started again after its database"
