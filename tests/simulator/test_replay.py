"""Replaying journalled decisions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pcloud.model.deployable import Parameter
from pcloud.policy.recording import pack, redact, unpack
from pcloud.simulator.replay import replay
from tests.dpe.harness import Scenario, play, shop
from tests.dpe.random_faults import DELAYS, FAULTS, deployables, do
from tests.dpe.trial import Trial, attempt

SECRET = "correct-horse-battery-staple"


def journal() -> list[dict[str, Any]]:
    deployable = shop()
    db, web = deployable.assemblies
    httpd = web.resources[0]
    httpd = replace(httpd, parameters=(*httpd.parameters, Parameter(name="password", value=SECRET, secret=True)))
    db = replace(db, files=(("/etc/key", SECRET),))
    deployable = replace(deployable, assemblies=(db, replace(web, resources=(httpd,))))

    async def story(s: Scenario) -> None:
        await s.until("running")
        s.world.kill_service("shop.db", "rsc_db_mysqld")
        await s.settle(5)
        s.world.kill_guest("shop.web")
        await s.settle(30)
        changed = replace(httpd, parameters=(*httpd.parameters[:1], Parameter(name="password", value="x", secret=True)))
        s.configure(replace(deployable, assemblies=(db, replace(web, resources=(changed,)))))
        await s.settle(30)

    return json.loads(json.dumps(play(deployable, story).journal.decisions))


def test_the_same_actions_come_out() -> None:
    records = journal()
    verdicts = replay(records)
    assert len(verdicts) >= 8
    decided = [v for v in verdicts if v.result != "nothing recorded"]
    assert {v.result for v in decided} == {"same"}, [v for v in decided if v.result != "same"]
    assert any("parameters changed" in str(r["actions"]) for r in records)


def test_other_actions_are_found_out() -> None:
    record = next(r for r in journal() if any(a["action"] == "start" for a in r["actions"]))
    record["actions"][0]["subject"] = "db/other"
    verdict = replay([record])[0]
    assert verdict.result == "different"
    assert verdict.missing
    assert verdict.added


def test_no_secret_is_kept_and_records_are_small() -> None:
    records = journal()
    for record in records:
        assert SECRET not in json.dumps(record)
        assert len(json.dumps(record)) < 4096, len(json.dumps(record))
        if "snapshot" in record:
            assert SECRET not in str(unpack(record["snapshot"]))


@pytest.mark.parametrize("text", ["", "x", "!!!!", "eJwLAAAAAAAB", "AAAA"])
def test_garbage_fails_and_does_not_raise(text: str) -> None:
    with pytest.raises(ValueError):
        unpack(text)
    assert replay([{"number": 1, "snapshot": text or "?"}])[0].result == "failed"
    assert replay([{"number": 1}])[0].result == "nothing recorded"


@settings(max_examples=15, deadline=None)
@given(deployables(), st.lists(st.tuples(DELAYS, FAULTS), max_size=6))
def test_whatever_happened_can_be_replayed(deployable: Any, faults: list[tuple[float, Any]]) -> None:
    async def story(trial: Trial) -> None:
        for delay, fault in faults:
            await trial.settle(delay)
            await do(trial, fault, deployable)
        await trial.settle(60)

    trial = attempt(deployable, story)
    wrong = [v for v in replay(trial.journal.decisions) if v.result in ("different", "failed")]
    assert wrong == []
    state = redact(trial.engine.state)
    assert unpack(pack(state, 1.0)).state == redact(state)
