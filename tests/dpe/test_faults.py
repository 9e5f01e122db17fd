"""The fault table, on the real engine in virtual time."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from pcloud.environment.scheduler import SchedulerCrash
from pcloud.model.deployable import Assembly, Dependency
from pcloud.policy.observation import InfrastructureState, Recover
from tests.dpe.harness import Scenario, play, resource, shop


def test_start_in_order_probe_start_monitor() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")

    s = play(shop(), story)
    did = s.world.actions()
    service = [a for a in did if "rsc_db_mysqld" in a]
    assert service == ["monitor rsc_db_mysqld", "start rsc_db_mysqld", "monitor/10 rsc_db_mysqld"]
    assert did.index("start rsc_db_mysqld") < did.index("start cfg_web_httpd") < did.index("start rsc_web_httpd")
    # both guests boot side by side
    assert {did[0], did[1]} == {"boot shop.db", "boot shop.web"}


@pytest.mark.parametrize("seen", [True, False], ids=["exit-watch", "interval"])
def test_service_killed_is_restarted_with_its_dependents(seen: bool) -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.kill_service("shop.db", "rsc_db_mysqld", seen=seen)
        await s.settle(30)
        assert s.state == "running"

    s = play(shop(), story)
    did = s.world.actions("start", "stop", "boot", "destroy", "shutdown")
    assert did == [
        "stop rsc_web_httpd", "stop rsc_db_mysqld", "start rsc_db_mysqld", "start rsc_web_httpd",
    ] or did == ["stop rsc_db_mysqld", "stop rsc_web_httpd", "start rsc_db_mysqld", "start rsc_web_httpd"]  # fmt: skip
    failure = next(e for e in s.journal.events if e.state == "failed")
    assert failure.data["signal"] == ("exit" if seen else "interval")
    recovery = [e for e in s.journal.events if e.resource == "mysqld" and e.state == "running"][-1]
    assert recovery.data["recovered"] < 1


def test_guest_killed_comes_back_and_its_services_are_probed_first() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.kill_guest("shop.db")
        await s.until("starting")
        await s.until("running")

    s = play(shop(), story)
    did = [a for a in s.world.actions() if "db" in a]
    assert did == [
        "destroy shop.db",  # seen to be gone
        "boot shop.db",
        "connect shop.db",
        "monitor rsc_db_mysqld",
        "start rsc_db_mysqld",
        "monitor/10 rsc_db_mysqld",
    ]
    assert s.world.actions("boot") == ["boot shop.db"]  # the other guest is left alone
    assert s.journal.told("assembly.state", "failed") == ["db"]


@pytest.mark.parametrize("guest", [True, False], ids=["guest", "service"])
def test_what_is_about_to_be_restarted_does_not_count_as_running(guest: bool) -> None:
    """A dependent whose stop takes longer than the recovery of what it depends on."""
    database = Assembly(name="db", resources=(resource("mysqld"),))
    web = Assembly(
        name="web", resources=(resource("slow"), resource("quick")), after=(Dependency(assembly="db"),)
    )  # fmt: skip
    early: list[str] = []

    async def story(s: Scenario) -> None:
        await s.until("running")
        before = len(s.statuses)
        s.world.log.clear()
        s.world.guests["shop.web"].busy_until["rsc_web_slow"] = asyncio.get_running_loop().time() + 20
        if guest:
            s.world.kill_guest("shop.db")
        else:
            s.world.kill_service("shop.db", "rsc_db_mysqld")
        while "start rsc_web_slow" not in s.world.actions():
            await s.settle(0.05)
            early.extend(each.state.value for each in s.statuses[before:])
        await s.until("running")

    play(shop(assemblies=(database, web)), story)
    assert set(early) <= {"suspect", "starting"}


def test_a_guest_that_is_gone_died_also_when_its_transport_tells_first() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.off(s.world.guests["shop.web"])  # nobody who watches the infrastructure is told
        await s.settle(60)
        assert s.state == "running"

    s = play(shop(), story)
    assert s.journal.told("assembly.state", "failed") == ["web"]
    assert s.journal.told("isolation", "failed") == []
    assert s.journal.told("isolation", "stopped") == ["web"], "and it was seen to be gone before it was started again"


def test_changed_address_reconfigures_those_who_refer_to_it() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        del s.world.guests["shop.db"].services["rsc_db_mysqld"]
        s.world.kill_guest("shop.db")
        s.world.guests["shop.db"].address = "10.9.9.9"
        await s.settle(30)
        assert s.state == "running"

    s = play(shop(), story)
    assert "start cfg_web_httpd" in s.world.actions("start")


def test_same_address_does_not_reconfigure() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.kill_guest("shop.db")
        await s.settle(30)
        assert s.state == "running"

    s = play(shop(), story)
    assert "start cfg_web_httpd" not in s.world.actions("start")


def test_hung_service_times_out_and_is_restarted() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.results["rsc_web_httpd", "monitor"] = [1]
        await s.settle(30)
        assert s.state == "running"

    s = play(shop(), story)
    assert s.world.actions("start", "stop") == ["stop rsc_web_httpd", "start rsc_web_httpd"]


def test_stop_that_fails_isolates_the_guest() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.results["rsc_web_httpd", "stop"] = [1]
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(30)
        assert s.state == "running"

    s = play(shop(), story)
    assert s.world.actions("destroy", "boot", "shutdown") == ["destroy shop.web", "boot shop.web"]


def test_stop_of_what_is_not_installed_is_no_failure() -> None:
    async def story(s: Scenario) -> None:
        s.world.results["rsc_web_httpd", "start"] = [5]
        s.world.results["rsc_web_httpd", "stop"] = [5]
        await s.until("unrecoverable")
        await s.settle(60)
        assert s.state == "unrecoverable"

    assert play(shop(), story).world.actions("destroy", "shutdown") == []


def test_permanent_start_error_is_unrecoverable_without_a_loop() -> None:
    async def story(s: Scenario) -> None:
        s.world.results["rsc_web_httpd", "start"] = [5, 5, 5]
        await s.until("unrecoverable")
        await s.settle(600)
        assert s.resource_state("web", "httpd") == "unrecoverable"
        assert s.world.actions("start").count("start rsc_web_httpd") == 1
        assert s.resource_state("db", "mysqld") == "running"

    s = play(shop(), story)
    assert s.journal.told("resource.state", "unrecoverable") == ["web/httpd"]


def test_failing_start_backs_off_doubling_then_runs() -> None:
    async def story(s: Scenario) -> None:
        s.world.results["rsc_web_httpd", "start"] = [1, 1, 1]
        await s.until("running")

    s = play(shop(), story)
    starts = [when for when, action, subject in s.world.log if (action, subject) == ("start", "rsc_web_httpd")]
    waits = [b - a for a, b in itertools.pairwise(starts)]
    assert [round(w) for w in waits] == [1, 2, 4]


def test_recover_after_unrecoverable() -> None:
    async def story(s: Scenario) -> None:
        s.world.results["rsc_web_httpd", "start"] = [6]
        await s.until("unrecoverable")
        s.engine.post(Recover())
        await s.until("running")

    play(shop(), story)


def test_silent_guest_that_is_alive_is_only_suspected() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.cut_off("shop.web")
        await s.until("suspect")
        await s.settle(300)
        assert s.state == "suspect"
        assert s.world.actions("destroy", "boot", "shutdown") == []
        s.world.heal("shop.web")
        await s.until("running")

    s = play(shop(), story)
    assert s.world.actions("destroy", "boot", "shutdown", "start", "stop") == []  # nothing that runs is restarted


def test_silent_guest_that_hangs_is_isolated_then_started() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.freeze("shop.web")
        await s.settle(30)
        assert s.state == "running"

    s = play(shop(), story)
    assert s.world.actions("destroy", "boot") == ["destroy shop.web", "boot shop.web"]
    rules = [rule["rule"] for decision in s.journal.decisions for rule in decision["rules"]]
    assert "SUSPECT" in rules
    assert "ISOLATE" in rules


def test_without_a_second_signal_a_silent_guest_is_kept() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.second_signal = False
        s.world.log.clear()
        s.world.freeze("shop.web")
        await s.settle(600)
        assert s.state == "suspect"

    assert play(shop(), story).world.actions("destroy", "boot") == []


def test_isolation_that_is_not_confirmed_starts_nothing_and_is_tried_again() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.stubborn.add("shop.web")
        s.world.freeze("shop.web")
        await s.settle(60)
        assert s.world.actions("boot") == []
        assert 3 <= len(s.world.actions("destroy")) <= 10  # with back-off, no hot loop
        s.world.stubborn.clear()
        await s.until("running")

    play(shop(), story)


def test_infrastructure_down_means_no_action_one_event_and_carrying_on() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.down = "connection refused"
        s.world.kill_guest("shop.web")
        await s.settle(120)
        assert s.state == "unknown"
        assert s.world.actions("boot", "destroy") == []
        s.world.down = ""
        await s.until("running")

    s = play(shop(), story)
    assert [e.state for e in s.journal.events if e.type == "infrastructure"] == ["unknown", "starting"]
    assert s.world.actions("boot") == ["boot shop.web"]


def test_services_are_still_recovered_while_the_infrastructure_is_down() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.down = "503"
        s.engine.post(InfrastructureState(error="503"))
        s.world.log.clear()
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(5)
        assert s.resource_state("web", "httpd") == "running"

    assert play(shop(), story).world.actions("start") == ["start rsc_web_httpd"]


def test_stop_in_order_and_start_again() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.configure(target="stopped")
        await s.until("stopped")
        did = s.world.actions("stop", "shutdown")
        assert did.index("stop rsc_web_httpd") < did.index("stop rsc_db_mysqld") < did.index("shutdown shop.db")
        s.configure(target="started")
        await s.until("running")

    play(shop(), story)


def test_pause_means_hands_off_until_resumed() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(paused=True)
        await s.until("paused")
        s.world.log.clear()
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(60)
        assert s.world.actions("start", "stop") == []
        s.configure(paused=False)
        await s.until("running")

    play(shop(), story)


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.55, 0.7, 0.9, 1.2])
def test_engine_killed_at_any_moment_of_the_start(moment: float) -> None:
    async def story(s: Scenario) -> None:
        await s.settle(moment)
        await s.crash()
        await s.until("running")

    s = play(shop(), story)
    for what in ("rsc_db_mysqld", "rsc_web_httpd"):
        assert s.world.actions("start").count(f"start {what}") <= 2


def test_engine_killed_restarts_nothing_that_runs() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        await s.crash()
        await s.settle(0.1)
        await s.until("running")
        s.world.kill_service("shop.web", "rsc_web_httpd")  # and it is watched again
        await s.settle(10)
        assert s.state == "running"

    s = play(shop(), story)
    assert s.world.actions("boot", "destroy", "shutdown", "start", "stop") == [
        "stop rsc_web_httpd",
        "start rsc_web_httpd",
    ]


def test_service_and_guest_that_died_while_nobody_watched() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s._watch.cancel()
        for guest in s.world.guests.values():
            guest.connections.clear()
        s.world.kill_guest("shop.db")
        s.world.guests["shop.web"].services["rsc_web_httpd"] = False
        await s.crash()
        await s.settle(0.1)
        await s.until("running")

    s = play(shop(), story)
    assert s.world.actions("boot") == ["boot shop.db"]


def test_the_scheduler_dying_on_an_input_blocks_with_a_clear_state() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")

        async def broken(cib: bytes) -> bytes:
            raise SchedulerCrash("it died twice on this input")

        s.scheduler.schedule = broken  # type: ignore[method-assign]
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(1)
        assert s.state == "blocked"
        assert "pcloud recover shop" in s.statuses[-1].reason
        await s.settle(1000)
        assert s.state == "blocked"
        assert s.journal.told("deployable.state", "blocked"), "an event says so"
        assert [e.state for e in s.journal.events if e.type == "incident"] == ["blocked"]
        del s.scheduler.schedule  # type: ignore[method-assign]
        s.engine.post(Recover())
        await s.until("running")
        assert s.resource_state("web", "httpd") == "running"

    play(shop(), story)
