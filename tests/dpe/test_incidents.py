"""One outcome for each incident: what it says, and that no crash of the engine loses or doubles it. Virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from pcloud.events.event import Event, Severity
from pcloud.model.deployable import Assembly, Deployable, Escalation
from pcloud.policy.observation import Recover
from tests.dpe.harness import Notebook, Scenario, play, resource, shop


def outcomes(s: Scenario) -> list[Event]:
    return [event for event in s.journal.events if event.type == "incident"]


def only(s: Scenario) -> Event:
    found = outcomes(s)
    assert len(found) == 1, [event.reason for event in found]
    return found[0]


def one(failures: int = 3, **changes: Any) -> Deployable:
    rule = Escalation(failures=failures, period=600)
    web = Assembly(
        name="web", resources=(resource("httpd", escalation=rule),), escalation=Escalation(failures=3, period=600)
    )
    return replace(Deployable(name="shop", assemblies=(web,)), **changes)


def test_several_failed_tries_are_one_outcome() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.results[("rsc_web_httpd", "start")] = [1, 1]
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(60)

    told = only(s := play(shop(), story))
    assert (told.state, told.severity, told.data["outcome"]) == ("recovered", Severity.NOTICE, "recovered")
    assert (told.assembly, told.resource) == ("web", "httpd")
    assert told.data["cause"] == "its process exited"
    assert (told.data["failures"], told.data["tries"], told.data["escalated"]) == (3, 3, [])
    assert 3.0 <= told.data["seconds"] < 6.0, "two waits, of one second and of two; what it ran since does not count"
    assert "recovered after" in told.reason
    assert len(s.journal.told("resource.state", "failed")) == 3, "the tries are in the log all the same"


def test_what_comes_up_and_falls_over_again_is_one_incident_up_the_ladder() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        for _ in range(3):
            s.world.kill_service("shop.web", "rsc_web_httpd")
            await s.settle(4)
        await s.settle(60)
        assert s.state == "running"

    told = only(play(one(), story))
    assert told.state == "recovered"
    assert told.data["escalated"] == ["guest web"]
    assert (told.data["failures"], told.data["tries"]) == (3, 3)


def test_two_failures_far_apart_are_two_incidents_of_different_names() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        for _ in range(2):
            s.world.kill_service("shop.web", "rsc_web_httpd")
            await s.settle(100)

    found = outcomes(play(shop(), story))
    assert [event.state for event in found] == ["recovered", "recovered"]
    assert len({event.data["incident"] for event in found}) == 2


def test_giving_up_is_the_outcome() -> None:
    deployable = one(1, escalation=Escalation(failures=2, period=6000))
    deployable = replace(
        deployable, assemblies=(replace(deployable.assemblies[0], escalation=Escalation(failures=1, period=6000)),)
    )

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.results[("rsc_web_httpd", "start")] = [1] * 50
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.until("failed", 6000)
        await s.settle(1000)
        s.world.results.clear()
        s.engine.post(Recover())
        await s.until("running")
        await s.settle(100)

    told = only(play(deployable, story))
    assert (told.state, told.severity) == ("gave-up", Severity.CRITICAL)
    assert told.data["escalated"] == ["guest web", "deployable"]
    assert "pcloud recover shop" in told.reason


def test_what_no_try_can_mend_is_told_once() -> None:
    async def story(s: Scenario) -> None:
        s.world.results[("rsc_web_httpd", "start")] = [5]
        await s.until("unrecoverable")
        await s.settle(1000)

    told = only(play(shop(), story))
    assert (told.state, told.data["tries"]) == ("gave-up", 0)


def test_a_dead_guest_is_one_outcome_with_all_that_ran_in_it() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.kill_guest("shop.db")
        await s.settle(60)

    told = only(play(shop(), story))
    assert (told.state, told.assembly, told.resource) == ("recovered", "db", "")


def test_a_silence_is_told_when_it_does_not_end_and_when_it_does() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.cut_off("shop.web")
        await s.settle(2000)
        assert s.state == "suspect"
        s.world.heal("shop.web")
        await s.settle(60)
        assert s.state == "running"

    found = outcomes(play(shop(), story))
    assert [event.state for event in found] == ["unresolved", "recovered"]
    assert len({event.data["incident"] for event in found}) == 1


def test_an_infrastructure_that_is_away_is_an_incident() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.down = "connection refused"
        s.world.kill_guest("shop.web")
        await s.settle(30)
        s.world.down = ""
        await s.settle(60)
        assert s.state == "running"

    assert only(play(shop(), story)).state == "recovered"


def test_what_the_operator_stops_is_withdrawn() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.results[("rsc_web_httpd", "start")] = [1] * 4
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(5)
        s.configure(target="stopped")
        await s.until("stopped")
        await s.settle(60)

    told = only(play(shop(), story))
    assert (told.state, told.severity) == ("withdrawn", Severity.INFO)


def test_what_is_removed_is_withdrawn() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.results[("rsc_web_httpd", "start")] = [1] * 4
        s.world.kill_service("shop.web", "rsc_web_httpd")
        await s.settle(5)
        s.configure(replace(s.deployable, assemblies=s.deployable.assemblies[:1]))
        await s.settle(120)
        assert s.engine.state.memory.incidents == {}

    assert only(play(shop(), story)).state == "withdrawn"


def test_an_ordered_life_has_no_incident() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        await s.settle(100)
        s.configure(target="stopped")
        await s.until("stopped")
        s.configure()
        await s.until("running")
        await s.settle(100)

    assert outcomes(play(shop(), story)) == []


# --- the engine dies


class Mortal(Notebook):
    """A journal whose engine dies right after its Nth record: nothing more is written until the next engine is there."""

    def __init__(self, records: int) -> None:
        super().__init__()
        self._left = records
        self.died = asyncio.Event()
        self.writing = False

    def begin(self) -> None:
        self.writing = True

    def _takes(self) -> bool:
        if not self.writing:
            return True
        self._left -= 1
        if self._left == 0:
            self.died.set()
        return self._left >= 0

    def revive(self) -> None:
        self._left = 1_000_000

    def event(self, event: Event, state: bytes | None = None) -> None:
        if self._takes():
            super().event(event)
            if state is not None:
                self.states[event.deployable] = state

    def decision(self, deployable: str, record: dict[str, Any]) -> None:
        if self._takes():
            super().decision(deployable, record)

    def state(self, deployable: str, state: bytes) -> None:
        if self._takes():
            super().state(deployable, state)


def die_after(records: int, *, guest: bool) -> tuple[Scenario, bool]:
    """Let something fail, and the engine die after so many records of it. Tell whether it lived to write so many."""
    died = False

    async def story(s: Scenario) -> None:
        nonlocal died
        await s.until("running")
        await s.settle(20)
        journal = Mortal(records)
        journal.events, journal.states = s.journal.events, s.journal.states
        s.journal = journal
        s.environment = dataclasses.replace(s.environment, journal=journal)
        await s.crash()
        await s.settle(20)
        journal.begin()
        s.world.results[("rsc_web_httpd", "start")] = [1, 1]
        if guest:
            s.world.kill_guest("shop.web")
        else:
            s.world.kill_service("shop.web", "rsc_web_httpd")
        async with asyncio.timeout(400):
            waits = asyncio.create_task(journal.died.wait())
            _, pending = await asyncio.wait({waits}, timeout=60)
            died = not pending
            waits.cancel()
        if died:
            await s.crash()
            journal.revive()
        await s.settle(90)
        assert s.state == "running"

    return play(shop(), story), died


@pytest.mark.parametrize("guest", [False, True])
def test_an_engine_that_dies_at_any_record_neither_loses_nor_doubles_the_outcome(guest: bool) -> None:
    records, died = 0, True
    while died:
        records += 1
        s, died = die_after(records, guest=guest)
        failures = [e for e in s.journal.events if e.type.endswith(".state") and e.state == "failed"]
        found = [event.state for event in outcomes(s)]
        assert failures, "the failure was told before the engine died"
        assert found == ["recovered"], (records, [e.reason for e in s.journal.events[-12:]])
        assert s.engine.state.memory.incidents == {}
    assert records > 15, "the engine died at every record of the incident"
