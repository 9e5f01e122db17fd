"""Moments in which two things happen at once: each of these was once a fault of the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.environment.transport import Endpoint, TransportError
from pcloud.model.deployable import Assembly, Dependency, Deployable, Parameter
from pcloud.policy.observation import Configured, Restart
from pcloud.policy.state import Fault, Memory
from pcloud.simulator.transport import SimulatedConnection, SimulatedTransport
from tests.dpe.harness import Scenario, play, resource, shop
from tests.dpe.trial import Trial, attempt


def pair() -> Deployable:
    """Two guests that have nothing to do with each other."""
    return Deployable(
        name="shop",
        assemblies=(
            Assembly(name="db", resources=(resource("mysqld"),)),
            Assembly(name="web", resources=(resource("httpd"),)),
        ),
    )


def test_a_guest_that_has_to_wait_does_not_hold_up_the_others() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.stubborn.add("shop.db")
        s.world.freeze("shop.db")
        await s.settle(30)  # it waits between attempts to isolate it
        s.world.log.clear()
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(1)
        assert s.resource_state("web", "httpd") == "running"

    assert "internal error" not in str(play(pair(), story).journal.events)


def test_removing_an_assembly_while_the_infrastructure_is_away_does_not_spin() -> None:
    async def story(s: Trial) -> None:
        await s.until("running")
        s.configure(target="stopped")
        await s.until("stopped")
        s.world.down = "503"
        s.configure(replace(s.deployable, assemblies=s.deployable.assemblies[:1]))
        await s.settle(60)
        s.world.down = ""
        await s.settle(60)
        assert sorted(s.world.guests) == ["shop.db"]

    assert attempt(pair(), story).violations == []


def test_an_action_that_ends_while_the_scheduler_decides_is_not_done_again() -> None:
    async def story(s: Trial) -> None:
        s.world.action_seconds = 0.1
        await s.settle(0.5)
        for _ in range(200):  # something to decide all the time, so that starts end within decisions
            s.engine.post(Configured(
                deployable=s.deployable, target="started", paused=False, hostnames={}, images={}, places=(),
            ))  # fmt: skip
            await s.settle(0.0029)
        await s.until("running")

    trial = attempt(shop(), story)
    assert trial.violations == []
    starts = trial.world.actions("start")
    assert len(starts) == len(set(starts))


def test_a_change_while_a_service_starts_reaches_it() -> None:
    def with_size(size: str) -> Deployable:
        httpd = resource("httpd", parameters=(Parameter(name="size", value=size),))
        httpd = replace(httpd, resource_class="ocf")
        return Deployable(name="shop", assemblies=(Assembly(name="web", resources=(httpd,)),))

    async def story(s: Scenario) -> None:
        s.world.action_seconds = 1.0
        while "start rsc_web_httpd" not in s.world.actions("start"):
            await s.settle(0.01)
        s.configure(with_size("2"))
        await s.settle(10)
        assert s.state == "running"

    s = play(with_size("1"), story)
    assert s.world.actions("start", "stop") == ["start rsc_web_httpd", "stop rsc_web_httpd", "start rsc_web_httpd"]


def test_stop_and_start_again_in_the_same_moment() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(target="stopped")
        await s.settle(0.05)  # the first service is being stopped
        s.configure(target="started")
        await s.settle(5)
        assert s.state == "running"

    play(shop(), story)


def test_a_recovered_guest_is_not_restarted_by_the_next_engine() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.kill_guest("shop.db")
        await s.settle(30)
        kept = msgspec.msgpack.decode(s.journal.states["shop"], type=Memory)
        assert kept.faults == {}
        s.world.log.clear()
        await s.crash()
        await s.settle(30)
        assert s.world.actions("boot", "destroy", "shutdown") == []

    play(shop(), story)


def test_a_fault_whose_guest_is_found_gone_is_over() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.kill_guest("shop.db")
        while not s.world.actions("destroy"):
            await s.settle(0.01)
        await s.crash()  # between the isolation and the note of it
        await s.settle(30)
        assert s.state == "running"
        assert s.engine.state.memory.faults == {}
        assert s.engine.state.guest("db").fault is Fault.NONE

    play(shop(), story)


def test_a_guest_whose_start_failed_but_which_runs_is_stopped_with_the_deployable() -> None:
    async def story(s: Scenario) -> None:
        start = s.environment.infrastructure.start

        async def half_started(spec: Any) -> Any:
            await start(spec)
            raise InfrastructureError("it has no address", permanent=True)

        s.environment.infrastructure.start = half_started  # type: ignore[method-assign]
        await s.settle(5)
        s.configure(target="stopped")
        await s.until("stopped")
        assert not any(guest.running for guest in s.world.guests.values())

    play(pair(), story)


def test_a_connection_lost_in_the_moment_it_is_made_is_made_again() -> None:
    class Hasty(SimulatedTransport):
        lost = 0

        async def connect(self, endpoint: Endpoint, **calls: Any) -> SimulatedConnection:
            connection = await super().connect(endpoint, **calls)
            if self.lost < 3:
                self.lost += 1
                connection.lose("reset")
            return connection

    async def story(s: Scenario) -> None:
        s.environment.transports["remote"] = Hasty(s.world)
        await s.settle(20)
        assert s.state == "running"

    play(pair(), story)


def test_a_guest_that_comes_back_elsewhere_is_reached_there() -> None:
    async def story(s: Scenario) -> None:
        asked: list[str] = []

        class Moved(SimulatedTransport):
            async def connect(self, endpoint: Endpoint, **calls: Any) -> SimulatedConnection:
                asked.append(endpoint.address)
                if endpoint.address != s.world.guests[endpoint.guest_id].address:
                    raise TransportError("REFUSED", "nobody is there")
                return await super().connect(endpoint, **calls)

        s.environment.transports["remote"] = Moved(s.world)
        await s.until("running")
        s.world.guests["shop.web"].address = "10.9.9.9"
        s.world.cut_off("shop.web")
        s.world.heal("shop.web")
        await s.settle(1)
        s.world.tell(s.world.guests["shop.web"], "moved")
        await s.settle(20)
        assert s.state == "running"
        assert asked[-1] == "10.9.9.9"

    play(pair(), story)


def test_a_service_that_is_being_stopped_does_not_count_as_failed() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.configure(target="stopped")
        while "stop rsc_web_httpd" not in s.world.actions("stop"):
            await s.settle(0.001)
        s.world.kill_service("shop.web", "rsc_web_httpd")  # it ends before its stop returns; the watch tells
        await s.until("stopped")

    assert play(shop(), story).journal.told("resource.state", "failed") == []


def test_guests_are_where_they_are_though_the_infrastructure_never_told_its_places() -> None:
    async def story(s: Trial) -> None:
        await s.until("running")
        s.world.log.clear()
        s.world.places = ()
        await s.crash()
        await s.settle(60)
        assert s.state == "running"
        assert s.world.actions("boot", "destroy", "shutdown", "start", "stop") == []

    assert attempt(pair(), story).violations == []


def test_a_fault_of_ours_blocks_one_deployable_and_does_not_spin(caplog: pytest.LogCaptureFixture) -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")

        def broken() -> None:
            raise ZeroDivisionError("a fault of ours")

        s.engine._advance = broken  # type: ignore[method-assign]
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(10)
        del s.engine._advance
        await s.settle(5)
        assert s.state == "blocked"
        assert "internal error" in s.statuses[-1].reason

    play(pair(), story)
    assert 1 <= len(caplog.records) <= 12


def test_a_guest_that_is_to_be_made_anew_and_one_that_starts_do_not_wait_for_each_other() -> None:
    """What stops with the first is asked for in the second, and the way into the second waited for the end of the first."""
    web = Assembly(name="web", resources=(resource("httpd"),), after=(Dependency(assembly="db", restart=True),))
    deployable = Deployable(name="shop", assemblies=(Assembly(name="db"), web))

    async def story(s: Trial) -> None:
        await s.until("running")
        s.world.stubborn.add("shop.db")
        s.engine.post(Restart(assembly="db", why="the alarm went off"))
        while not s.world.actions("shutdown"):
            await s.settle(0.01)
        s.world.kill_guest("shop.web")
        await s.settle(2)
        s.world.stubborn.clear()
        await s.settle(60)
        assert s.state == "running"
        s.violations += s.world_differs()

    assert attempt(deployable, story).violations == []


async def test_cancelled_waiters_of_the_brake_lose_no_place() -> None:
    from pcloud.dpe.brake import Brake

    brake = Brake(2)
    running = most = 0

    async def work(i: int) -> None:
        nonlocal running, most
        async with brake.slot(i % 3):
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0)
            finally:
                running -= 1

    tasks = [asyncio.create_task(work(i)) for i in range(50)]
    for i, task in enumerate(tasks):
        await asyncio.sleep(0)
        if i % 3 == 0:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    async with asyncio.timeout(60), brake.slot(0), brake.slot(0):
        assert brake.waiting == 0


def test_nothing_starts_on_what_an_overtaken_decision_is_stopping() -> None:
    first, second = resource("first"), replace(resource("second"), after=("first",))
    deployable = Deployable(name="shop", assemblies=(Assembly(name="web", resources=(first, second)),))

    async def story(s: Trial) -> None:
        await s.until("running")
        s.configure(target="stopped")
        while "stop rsc_web_first" not in s.world.actions("stop"):
            await s.settle(0.001)
        s.configure(target="started")  # second is stopped, first is being stopped and still counts as running
        await s.settle(10)
        assert s.state == "running"

    trial = attempt(deployable, story)
    assert trial.violations == []
    assert trial.world.actions("start")[2:] == ["start rsc_web_first", "start rsc_web_second"]


def test_what_was_removed_while_no_engine_ran_is_stopped_by_the_next_one() -> None:
    before = Deployable(
        name="shop",
        assemblies=(
            Assembly(name="db", resources=(resource("mysqld"),)),
            Assembly(name="web", resources=(resource("httpd"), resource("extra"))),
        ),
    )
    web = replace(before.assemblies[1], resources=before.assemblies[1].resources[:1])

    async def story(s: Trial) -> None:
        await s.until("running")
        s.deployable = replace(before, assemblies=(web,))
        await s.crash()
        await s.settle(60)
        assert s.state == "running"
        s.violations += s.world_differs()

    trial = attempt(before, story)
    assert trial.violations == []
    assert trial.world.actions("start", "boot")[5:] == []


async def test_a_brake_that_is_changed_while_starts_wait() -> None:
    from pcloud.dpe.brake import Brake

    brake = Brake(2)
    through: list[int] = []
    leave = [asyncio.Event() for _ in range(8)]

    async def start(number: int) -> None:
        async with brake.slot(0):
            through.append(number)
            await leave[number].wait()

    tasks = [asyncio.create_task(start(number)) for number in range(8)]

    async def settled() -> list[int]:
        for _ in range(5):
            await asyncio.sleep(0)
        return through

    assert await settled() == [0, 1]
    brake.resize(4)
    assert await settled() == [0, 1, 2, 3]
    brake.resize(1)
    for number in range(3):  # four are through: the next one begins when all of them but none are
        leave[number].set()
        assert await settled() == [0, 1, 2, 3]
    leave[3].set()
    assert await settled() == [0, 1, 2, 3, 4]
    brake.resize(3)
    assert await settled() == [0, 1, 2, 3, 4, 5, 6]
    for event in leave:
        event.set()
    await asyncio.gather(*tasks)
    assert brake.waiting == 0
