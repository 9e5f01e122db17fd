"""Limits of single services follow the definition, without a restart."""

from __future__ import annotations

from msgspec.structs import replace

from pcloud.model.deployable import NO_LIMITS, Assembly, Deployable, ResourceLimits
from pcloud.policy.cib import resource_id
from tests.dpe.harness import Scenario, play, resource

HTTPD = resource_id("web/httpd")
SOME = ResourceLimits(memory=256, cpus=0.5, tasks=40)


def web(limits: ResourceLimits = NO_LIMITS, **changes: object) -> Deployable:
    services = (resource("httpd", limits=limits), resource("redis"))
    return Deployable(name="shop", assemblies=(replace(Assembly(name="web", resources=services), **changes),))


def told(s: Scenario) -> list[str]:
    return [event.reason for event in s.journal.events if event.type == "resource.limits"]


def acts(s: Scenario) -> list[str]:
    return s.world.actions("limit", "start", "stop", "boot")


def test_a_service_is_limited_before_it_starts() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        await s.settle(10)
        assert acts(s)[:1] == ["boot shop.web"]
        assert [what for what in acts(s) if what.endswith("httpd")] == [f"limit {HTTPD}", f"start {HTTPD}"]
        assert s.world.guests["shop.web"].service_limits == {HTTPD: SOME}
        assert told(s) == []

    play(web(SOME), story)


def test_limits_change_while_the_service_runs_and_nothing_is_restarted() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(web(SOME))
        await s.settle(20)
        s.configure(web(ResourceLimits(memory=512)))
        await s.settle(20)
        assert s.world.guests["shop.web"].service_limits == {HTTPD: ResourceLimits(memory=512)}
        s.configure(web())
        await s.settle(20)
        assert s.world.guests["shop.web"].service_limits == {HTTPD: NO_LIMITS}
        assert acts(s) == [f"limit {HTTPD}"] * 3
        assert told(s) == [
            "it may use 256 MiB of memory, 0.5 processors, 40 tasks now, without a restart",
            "it may use 512 MiB of memory now, without a restart",
            "it has no limits of ours any more, without a restart",
        ]
        assert s.engine.state.memory.limited == ()
        s.configure(web())
        await s.settle(100)
        assert acts(s) == [f"limit {HTTPD}"] * 3
        assert s.state == "running"

    play(web(), story)


def test_what_can_not_be_had_is_told_once_and_tried_again_and_nothing_fails() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.results[HTTPD, "limit"] = [1, 1]
        s.configure(web(SOME))
        await s.settle(50)
        assert told(s) == ["its limits stay as they were: exit code 1"]
        await s.settle(200)
        assert told(s)[1:] == ["it may use 256 MiB of memory, 0.5 processors, 40 tasks now, without a restart"]
        assert s.world.guests["shop.web"].service_limits == {HTTPD: SOME}
        assert s.state == "running"
        assert s.world.actions("stop") == []

    play(web(), story)


def test_a_service_whose_limits_can_not_be_had_starts_all_the_same_and_it_is_told() -> None:
    async def story(s: Scenario) -> None:
        s.world.results[HTTPD, "limit"] = [1] * 3
        await s.until("running")
        await s.settle(10)
        assert told(s) == ["its limits stay as they were: exit code 1"]
        assert s.resource_state("web", "httpd") == "running"

    play(web(SOME), story)


def test_limits_that_were_taken_out_while_no_engine_ran_are_taken_away() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.deployable = web()
        await s.crash()
        await s.until("running")
        await s.settle(10)
        assert s.world.guests["shop.web"].service_limits == {HTTPD: NO_LIMITS}
        assert acts(s) == [f"limit {HTTPD}"]
        assert s.engine.state.memory.limited == ()

    play(web(SOME), story)


def test_an_engine_that_dies_before_it_heard_that_a_service_is_limited_knows_it_may_be() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(web(SOME))
        while HTTPD not in s.world.guests["shop.web"].service_limits:
            await s.settle(0.001)
        s.deployable = web()
        await s.crash()
        await s.until("running")
        await s.settle(10)
        assert s.world.guests["shop.web"].service_limits == {HTTPD: NO_LIMITS}

    play(web(), story)


def test_a_guest_that_was_started_again_has_its_services_limited_again() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.kill_guest("shop.web")
        assert s.world.guests["shop.web"].service_limits == {}
        await s.settle(30)
        assert s.state == "running"
        assert s.world.guests["shop.web"].service_limits == {HTTPD: SOME}

    play(web(SOME), story)


def test_a_resource_that_leaves_leaves_its_limits_behind() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        (assembly,) = web().assemblies
        s.configure(replace(web(), assemblies=(replace(assembly, resources=(resource("redis"),)),)))
        await s.settle(20)
        assert s.world.guests["shop.web"].service_limits == {HTTPD: NO_LIMITS}
        assert s.engine.state.memory.limited == ()
        assert s.state == "running"

    play(web(SOME), story)


def test_a_service_without_limits_is_never_asked() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        await s.crash()
        await s.until("running")
        await s.settle(30)
        assert s.world.actions("limit") == []

    play(web(), story)
