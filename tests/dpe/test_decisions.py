"""What `explain` shows of what the engine saw."""

from __future__ import annotations

from pcloud.dpe.decisions import Decision
from pcloud.environment.infrastructure import GuestInfo, GuestState
from pcloud.policy.observation import GuestActed, GuestSeen, Operated, Tick


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
