"""A running deployable is changed: only what changed is touched."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from pcloud.model.deployable import Assembly, Parameter
from tests.dpe.harness import Scenario, play, resource, shop
from tests.dpe.trial import Trial, attempt


def test_applying_the_same_touches_nothing() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(shop())
        await s.settle(10)
        assert s.world.log == []

    play(shop(), story)


def test_a_new_assembly_is_started_and_a_removed_one_is_stopped_and_deleted() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        cache = Assembly(name="cache", resources=(resource("redis"),))
        s.configure(replace(shop(), assemblies=(*shop().assemblies, cache)))
        await s.settle(10)
        assert s.world.actions("boot", "start", "stop") == ["boot shop.cache", "start rsc_cache_redis"]
        s.world.log.clear()
        s.configure(shop())
        await s.settle(10)
        assert s.world.actions("stop", "shutdown", "delete", "boot") == [
            "stop rsc_cache_redis", "shutdown shop.cache", "delete shop.cache",
        ]  # fmt: skip
        assert s.state == "running"
        assert set(s.engine.state.guests) == {"db", "web"}

    play(shop(), story)


def test_resources_come_and_go_without_touching_their_neighbours() -> None:
    db, web = shop().assemblies
    more = replace(web, resources=(*web.resources, resource("memcached")))

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(replace(shop(), assemblies=(db, more)))
        await s.settle(10)
        assert s.world.actions("start", "stop", "boot") == ["start rsc_web_memcached"]
        s.configure(shop())
        await s.settle(10)
        assert s.world.actions("start", "stop", "boot") == ["start rsc_web_memcached", "stop rsc_web_memcached"]
        assert "web/memcached" not in s.engine.state.services

    play(shop(), story)


@pytest.mark.parametrize("moment", [0.0, 0.02])
@pytest.mark.parametrize("fails", [False, True])
def test_a_resource_removed_while_it_is_being_started_does_not_run_on(moment: float, fails: bool) -> None:
    """Nothing was known of it but that it did not run; and a start that failed may have left something running."""
    db, web = shop().assemblies
    more = replace(web, resources=(*web.resources, resource("memcached")))

    async def story(s: Trial) -> None:
        await s.until("running")
        s.world.results["rsc_web_memcached", "start"] = [1] if fails else []
        s.configure(replace(shop(), assemblies=(db, more)))
        async with asyncio.timeout(60):
            while "start rsc_web_memcached" not in s.world.actions("start"):
                await asyncio.sleep(0.001)
        await s.settle(moment)
        s.configure(shop())
        await s.settle(60)
        s.violations += s.world_differs()
        assert s.state == "running"
        assert "web/memcached" not in s.engine.state.services
        assert "web/memcached" not in s.engine.state.memory.started
        assert s.engine.state.leaving_resources == {}

    trial = attempt(shop(), story)
    assert trial.violations == []
    assert trial.world.actions("stop", "boot")[2:] == ([] if fails else ["stop rsc_web_memcached"])


@pytest.mark.parametrize("first", ["silence", "change"])
def test_a_resource_removed_while_its_start_is_lost_with_the_connection_does_not_run_on(first: str) -> None:
    """In the guest the start goes on to its end, though nobody hears of it."""
    db, web = shop().assemblies
    more = replace(web, resources=(*web.resources, resource("memcached")))

    async def story(s: Trial) -> None:
        await s.until("running")
        s.configure(replace(shop(), assemblies=(db, more)))
        async with asyncio.timeout(60):
            while "start rsc_web_memcached" not in s.world.actions("start"):
                await asyncio.sleep(0.001)
        if first == "change":
            s.configure(shop())
            await s.settle(0.02)
        s.world.cut_off("shop.web")
        if first == "silence":
            await s.settle(0.02)
            s.configure(shop())
        await s.settle(5)
        assert s.world.guests["shop.web"].services["rsc_web_memcached"], "it went on"
        s.world.heal("shop.web")
        await s.settle(60)
        s.violations += s.world_differs()
        assert s.state == "running"
        assert s.engine.state.leaving_resources == {}

    trial = attempt(shop(), story)
    assert trial.violations == []
    assert trial.world.actions("stop", "boot")[2:] == ["stop rsc_web_memcached"]


def test_a_changed_parameter_reconfigures_and_restarts_only_its_service() -> None:
    db, web = shop().assemblies
    httpd = replace(web.resources[0], parameters=(*web.resources[0].parameters, Parameter(name="port", value="81")))

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(replace(shop(), assemblies=(db, replace(web, resources=(httpd,)))))
        await s.settle(10)
        assert s.state == "running"

    s = play(shop(), story)
    assert s.world.actions("start", "stop", "boot") == [
        "stop rsc_web_httpd", "stop cfg_web_httpd", "start cfg_web_httpd", "start rsc_web_httpd",
    ]  # fmt: skip


def test_a_changed_monitor_interval_restarts_nothing() -> None:
    db, web = shop().assemblies
    httpd = replace(web.resources[0], monitor_interval=3.0)

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(replace(shop(), assemblies=(db, replace(web, resources=(httpd,)))))
        await s.settle(10)

    s = play(shop(), story)
    assert s.world.actions() == ["monitor/3 rsc_web_httpd"]


def test_a_changed_image_and_the_first_parameter_of_a_service_in_one_change() -> None:
    """Nothing is known of the configure step that the service has from now on, and nothing need be."""
    httpd = resource("httpd")
    web = Assembly(name="web", resources=(httpd,))
    deployable = replace(shop(), assemblies=(web,))
    new = replace(web, image="trixie", resources=(replace(httpd, parameters=(Parameter(name="port", value="81"),)),))

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(replace(deployable, assemblies=(new,)))
        await s.settle(10)
        assert s.state == "running"
        assert s.world.actions("boot") == ["boot shop.web"]
        assert s.world.actions("start") == ["start cfg_web_httpd", "start rsc_web_httpd"]

    play(deployable, story)


def test_a_changed_image_makes_only_that_guest_anew() -> None:
    db, web = shop().assemblies

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(replace(shop(), assemblies=(db, replace(web, image="trixie"))))
        await s.settle(10)
        assert s.state == "running"
        assert s.world.actions("boot") == ["boot shop.web"]

    play(shop(), story)


def test_what_runs_before_a_change_is_never_told_as_its_outcome() -> None:
    """Whoever waits for a change sees `running` only of a status that is of that change, with all of it in force."""
    db, web = shop().assemblies
    httpd = replace(web.resources[0], parameters=(*web.resources[0].parameters, Parameter(name="port", value="81")))

    async def story(s: Scenario) -> None:
        await s.until("running")
        changes = (replace(web, image="trixie"), replace(web, image="trixie", resources=(httpd,)))
        for revision, changed in enumerate(changes, 2):
            s.statuses.clear()
            s.world.log.clear()
            s.configure(replace(shop(), assemblies=(db, changed)), revision=revision)
            await s.settle(10)
            first = next(number for number, each in enumerate(s.statuses) if each.revision == revision)
            told = [each.state.value for each in s.statuses[first:]]
            assert told[0] == "starting"
            assert told[-1] == "running"
            assert s.world.actions("boot") == (["boot shop.web"] if revision == 2 else [])
            s.statuses.clear()
            s.configure(replace(shop(), assemblies=(db, changed)), revision=revision + 10)
            await s.settle(10)
            assert {(each.state.value, each.revision) for each in s.statuses} == {("running", revision + 10)}

    play(shop(), story)


def test_a_change_while_paused_leaves_what_runs_running() -> None:
    db, web = shop().assemblies

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(replace(shop(), assemblies=(db, replace(web, image="trixie"))), paused=True)
        await s.settle(10)
        assert [each.state.value for each in s.statuses[-1].assemblies] == ["running", "running"]

    play(shop(), story)


def test_everything_removed_leaves_nothing() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(replace(shop(), assemblies=()))
        await s.settle(10)
        assert s.world.guests == {}
        assert s.engine.gone

    s = play(shop(), story)
    did = s.world.actions("stop")
    assert did.index("stop rsc_web_httpd") < did.index("stop rsc_db_mysqld")
