"""Dry runs from snapshots of (simulated) live deployables."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from msgspec.structs import replace

from pcloud.model.errors import InvalidDocument
from pcloud.simulator.__main__ import Answer, Request
from pcloud.simulator.dryrun import Report, simulate
from tests.dpe.harness import Scenario, play, shop


def snapshot(wait: float = 0.0) -> bytes:
    """The running shop, as the command `snapshot` gives it over the wire."""

    async def story(s: Scenario) -> None:
        await s.until("running")
        await s.settle(wait)

    state = play(shop(), story).engine.state
    return msgspec.msgpack.encode(msgspec.to_builtins(state))


def did(report: Report) -> list[str]:
    return [f"{m.text} {m.subject}" for m in report.timeline if m.kind == "action" and m.state == "done"]


def test_nothing_happens_when_nothing_happens() -> None:
    report = simulate(snapshot(), ["wait 300s"])
    assert report.state == report.before == "running"
    assert did(report) == []


def test_a_service_and_what_depends_on_it() -> None:
    report = simulate(snapshot(), ["kill db/mysqld"])
    assert report.restarted == ("db/mysqld", "web/httpd")
    assert report.state == "running"
    assert 0 < report.seconds < 5
    whys = [m.why for m in report.timeline if m.text == "start" and m.subject == "web/httpd"]
    assert whys == ["it depends on db/mysqld, which is restarted"]


def test_a_guest_that_hangs_and_one_that_is_cut_off() -> None:
    assert "web" in simulate(snapshot(), ["hang guest web"]).restarted
    report = simulate(snapshot(), ["cut off web"])
    assert (report.state, report.restarted) == ("suspect", ())
    assert simulate(snapshot(), ["cut off web", "heal web"]).state == "running"


def test_engine_and_infrastructure() -> None:
    assert did(simulate(snapshot(), ["kill engine"])).count("start web/httpd") == 0
    report = simulate(snapshot(), ["infrastructure down 60s"])
    assert (report.state, report.restarted) == ("running", ())
    assert "unknown" in [m.text for m in report.timeline]


def test_counters_of_the_live_one_count() -> None:
    async def story(s: Scenario) -> None:
        await s.until("running")
        for _ in range(3):
            s.world.kill_service("shop.web", "rsc_web_httpd")
            await s.settle(2)

    state = play(shop(), story).engine.state
    live = msgspec.msgpack.encode(msgspec.to_builtins(state))
    assert "web" not in simulate(live, ["kill web/httpd"]).restarted
    assert "web" in simulate(live, ["kill web/httpd"] * 2).restarted  # the fifth within a minute escalates


def test_a_change() -> None:
    deployable = shop()
    web = replace(deployable.assemblies[1], packages=("curl",))
    changed = replace(deployable, assemblies=(deployable.assemblies[0], web))
    report = simulate(snapshot(), ["apply shop.yaml"], {"shop.yaml": changed})
    assert report.restarted == ("web", "web/httpd")
    smaller = replace(deployable, assemblies=deployable.assemblies[:1])
    report = simulate(snapshot(), ["apply shop.yaml"], {"shop.yaml": smaller})
    assert [a.name for a in report.status.assemblies] == ["db"]
    assert report.restarted == ()


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(InvalidDocument) as caught:
        simulate(snapshot(), ["kill nobody/x", "explode", "apply gone.yaml", "kill web/x", "wait 9999s"])
    codes = [p.code for p in caught.value.problems]
    assert codes == ["UNKNOWN_ASSEMBLY", "UNKNOWN_FAULT", "NO_SUCH_FILE", "UNKNOWN_RESOURCE", "TOO_LONG"]
    assert caught.value.problems[1].path == "faults[1]"


def test_in_a_process_of_its_own_in_virtual_time() -> None:
    request = msgspec.msgpack.encode(
        Request(snapshot=snapshot(), faults=["kill guest db", "kill engine", "wait 3600s"])
    )
    command = [sys.executable, "-m", "pcloud.simulator"]
    done = subprocess.run(command, input=request, capture_output=True, check=True, timeout=600)
    answer = msgspec.json.decode(done.stdout, type=Answer)
    assert answer.report is not None
    assert answer.report.restarted[0] == "db"
    bad = msgspec.msgpack.encode(Request(snapshot=snapshot(), faults=["explode"]))
    done = subprocess.run(command, input=bad, capture_output=True, check=True)
    assert msgspec.json.decode(done.stdout, type=Answer).problems[0].code == "UNKNOWN_FAULT"
