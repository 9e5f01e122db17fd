"""What `explain` shows of what the engine saw."""

from __future__ import annotations

from msgspec.structs import replace

from pcloud.dpe.decisions import Decision
from pcloud.environment.infrastructure import GuestInfo, GuestState
from pcloud.policy.observation import GuestActed, GuestSeen, Operated, Tick
from tests.dpe.harness import Scenario, play, shop


def test_an_observation_that_changed_nothing_is_told_plainly() -> None:
    seen = GuestInfo(guest_id="shop.web", state=GuestState.ABSENT)
    for observation, told in (
        (GuestSeen(assembly="web", info=seen), "web: the infrastructure says that the guest is absent"),
        (GuestActed(assembly="web", action="start"), "web: start of the guest is done"),
        (GuestActed(assembly="web", action="start", error="no room"), "web: start of the guest failed: no room"),
        (Operated(subject="web/httpd!configure", action="monitor", rc=7), "web/httpd: monitor ended with code 7"),
        (Tick(), "a wait is over"),
    ):
        decision = Decision(1, 0.0)
        decision.saw(observation, [])
        assert decision.trigger == told
        (entry,) = decision.record(0.0)["observations"]
        assert f"{entry['subject']}: {entry['detail']}" == told or told == "a wait is over"


def whys(s: Scenario, action: str, subject: str) -> set[str]:
    """The reasons that the journal has for an action on a part."""
    entries = [entry for decision in s.journal.decisions for entry in decision["actions"]]
    return {entry["why"] for entry in entries if (entry["action"], entry["subject"]) == (action, subject)}


def test_a_service_that_ends_is_not_told_to_start() -> None:
    """What is stopped because its guest is made anew, and what is no longer watched in a pause, says that."""
    db, web = shop().assemblies

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.journal.decisions.clear()
        s.configure(replace(shop(), assemblies=(db, replace(web, image="trixie"))))
        await s.settle(10)
        assert whys(s, "stop", "web/httpd") == {"its guest web is made anew: what it is made from changed"}
        s.journal.decisions.clear()
        s.configure(paused=True)
        await s.until("paused")
        assert whys(s, "cancel", "db/mysqld") == {"recovery is paused"}

    play(shop(), story)
