"""Escalation: N within P seconds, one level up, counting afresh; on the real engine in virtual time."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

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


def test_guest_that_does_not_start_backs_off() -> None:
    from pcloud.environment.infrastructure import InfrastructureError

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
