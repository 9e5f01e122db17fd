"""Drills: what may be drilled and when, what a report says, and what is kept of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pcloud.cpe.drilling import FAULTS, choose, unsafe
from pcloud.cpe.drills import Drills
from pcloud.cpe.probing import MOST, Probes, check
from pcloud.events.filters import EventFilter
from pcloud.model.deployable import Assembly, Deployable, Escalation, Resource, ResourceState
from pcloud.model.errors import Conflict, InvalidDocument, NotFound, PcloudError
from pcloud.model.status import AssemblyStatus, DeployableStatus, ResourceStatus
from tests.cpe.engine import engine, eventually, sample

RUNNING = ResourceState.RUNNING


def shop(failures: int = 3) -> Deployable:
    rule = Escalation(failures=failures, period=60)
    httpd = Resource(name="httpd", resource_class="systemd", type="apache2", escalation=rule)
    return Deployable(
        name="shop",
        assemblies=(Assembly(name="db"), Assembly(name="web", resources=(httpd,), escalation=rule)),
    )


def status(
    web: ResourceState = RUNNING, httpd: ResourceState = RUNNING, failures: int = 0, **more: object
) -> DeployableStatus:
    return DeployableStatus(
        name="shop",
        state=more.pop("state", RUNNING),  # type: ignore[arg-type]
        assemblies=(
            AssemblyStatus(name="db", state=RUNNING),
            AssemblyStatus(
                name="web", state=web, failures=failures,
                resources=(ResourceStatus(name="httpd", state=httpd, failures=failures),),
            ),
        ),
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_target_is_what_was_named_else_the_first() -> None:
    assert choose(shop(), "service-killed", "", "").subject == "web/httpd", "the first that has a service"
    assert choose(shop(), "guest-killed", "", "").subject == "db"
    assert choose(shop(), "link-cut", "web", "").subject == "web"
    assert choose(shop(), "engine-killed", "web", "").subject == ""
    with pytest.raises(NotFound):
        choose(shop(), "guest-killed", "cache", "")
    with pytest.raises(NotFound):
        choose(shop(), "service-killed", "db", "")
    with pytest.raises(InvalidDocument) as caught:
        choose(shop(), "meteor", "", "")
    assert "guest-killed" in caught.value.problems[0].hint


@pytest.mark.parametrize(
    ("fault", "now", "impossible", "risky"),
    [
        ("service-killed", status(), "", ""),
        ("service-killed", status(state=ResourceState.PAUSED, paused=True), "paused", ""),
        ("service-killed", status(target="stopped"), "stopped", ""),
        (
            "service-killed",
            status(httpd=ResourceState.FAILED, state=ResourceState.STARTING),
            "web/httpd is failed",
            "starting",
        ),
        ("engine-killed", status(httpd=ResourceState.FAILED), "", "web/httpd is failed"),
        ("service-killed", status(failures=2), "", "one more escalates"),
        ("guest-killed", status(failures=2), "", "one more escalates"),
        ("link-cut", status(failures=2), "", ""),
        ("engine-killed", status(failures=2), "", ""),
        ("service-killed", status(failures=1), "", ""),
        ("service-killed", status(change="building"), "", "a change"),
        ("service-killed", status(change="failed"), "", "last change"),
        ("guest-killed", status(state=ResourceState.UNKNOWN, reason="its API is away"), "", "its API is away"),
    ],
)
def test_when_a_drill_is_refused(fault: str, now: DeployableStatus, impossible: str, risky: str) -> None:
    target = choose(shop(), fault, "web" if fault != "engine-killed" else "", "")
    reasons = unsafe(shop(), now, now.paused, target)
    for found, wanted in ((reasons.impossible, impossible), (reasons.risky, risky)):
        assert bool(found) == bool(wanted), found
        assert wanted in " ".join(found)
    assert len(reasons.problems(force=True)) == len(reasons.impossible)


async def test_every_fault_is_reported_recorded_and_compared_with_those_before(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        drills = Drills(cpe)
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        for fault in FAULTS:
            first = await drills.run("shop", fault, budget=600)
            assert first.passed, first
            assert first.previous is None
            assert first.detected_s is not None
            assert first.recovered_s is not None
            assert first.detected_s <= first.recovered_s
            second = await drills.run("shop", fault, budget=600)
            assert second.previous is not None
            assert second.previous.count == 1
            assert second.previous.recovered_s == first.recovered_s
        service = await drills.run("shop", "service-killed", assembly="b")
        assert (service.subject, service.restarted, service.noticed) == ("b/httpd", ("b/httpd",), "its process exited")
        reports = await drills.reports("shop")
        assert len(reports) == 2 * len(FAULTS) + 1
        assert reports[0] == msgspec.json.decode(msgspec.json.encode(service)), "newest first, whole"
        await cpe.ingest.flush()
        events, _ = await cpe.events(EventFilter(deployable="shop", type="drill.*"), limit=100)
        assert [event.type for event in events] == ["drill.started", "drill.passed"] * (2 * len(FAULTS) + 1)
        told = await cpe.explain("shop", assembly="b", resource="httpd")
        assert told[0]["rules"][0]["rule"] == "DRILL"
        assert told[0]["observations"][0]["signal"] == "operator"


async def test_what_nobody_notices_or_mends_fails(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        drills = Drills(cpe)
        for name, words in (("mute", "nobody noticed"), ("lame", "not all ran again")):
            await cpe.put(sample(name))
            await eventually(lambda name=name: name in cpe.desired.statuses, "loaded")
            for budget in (1, 10, 100):  # on a busy machine a fault may not even be noticed within a second
                report = await drills.run(name, "service-killed", budget=budget, force=True)
                assert not report.passed
                if words in report.reason:
                    break
            assert words in report.reason
            assert report.recovered_s is None
            assert (await drills.reports(name))[0]["passed"] is False


async def test_it_refuses_by_default_and_one_at_a_time(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        drills = Drills(cpe)
        with pytest.raises(NotFound):
            await drills.run("shop", "guest-killed")
        await cpe.put(sample("lame"))
        await eventually(lambda: "lame" in cpe.desired.statuses, "loaded")
        await drills.run("lame", "guest-killed", budget=1)
        await eventually(lambda: cpe.desired.statuses["lame"].state is ResourceState.STARTING, "and it stays so")
        await refused(drills, "DRILL_IMPOSSIBLE", force=True)  # the guest itself does not run
        await cpe.pause("lame")
        await refused(drills, "DRILL_IMPOSSIBLE", force=True)
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        first = asyncio.create_task(drills.run("shop", "service-killed", budget=600))
        await asyncio.sleep(0)  # it has begun
        with pytest.raises(Conflict, match="goes on already"):
            await drills.run("shop", "guest-killed")
        assert (await first).passed


async def refused(drills: Drills, code: str, *, force: bool) -> None:
    before = await drills.reports("lame")
    with pytest.raises(PcloudError) as caught:
        await drills.run("lame", "guest-killed", force=force)
    assert code in {problem.code for problem in caught.value.problems}
    assert await drills.reports("lame") == before


# --- what is lost


@asynccontextmanager
async def page(*statuses: int) -> AsyncIterator[str]:
    """A page that answers with these statuses, one a request, and then with the last one for ever; 0 hangs up."""
    left = list(statuses)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = left.pop(0) if len(left) > 1 else left[0]
        if status:
            writer.write(f"HTTP/1.1 {status} Because\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/shop"


async def test_what_was_lost_is_counted() -> None:
    async with page(200, 503, 0, 200) as first, page(200) as second, Probes([first, second, second]) as pages:
        assert pages.silent() == []
        pages.start()
        lost, kept = await pages.finish(600)
    assert (lost.url, lost.answers, kept.url, kept.answers) == (first, True, second, True)
    assert lost.failed >= 2
    assert lost.asked > lost.failed
    assert lost.unanswered_s > 0
    assert lost.slowest_s > 0
    assert lost.error
    assert kept.asked >= 1


async def test_an_answer_that_comes_late_is_told_though_no_request_failed() -> None:
    """A guest that is back before a user's second SYN: the page was away, and every request was answered."""
    held, away = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if away.is_set():
            held.set()
            await asyncio.sleep(0.3)
            away.clear()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Probes([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"]) as pages:
        away.set()
        pages.start()
        await held.wait()
        (lost,) = await pages.finish(600)
    assert lost.answers
    assert lost.slowest_s >= 0.3


async def test_a_drill_says_what_was_lost_and_fails_when_a_page_stays_away(tmp_path: Path) -> None:
    async with engine(tmp_path) as cpe:
        drills = Drills(cpe)
        await cpe.put(sample("shop"))
        await eventually(lambda: "shop" in cpe.desired.statuses, "loaded")
        async with page(200, 503, 200) as url:
            report = await drills.run("shop", "service-killed", budget=600, probes=[url])
        assert report.passed, report
        (lost,) = report.probes
        assert lost.failed >= 1
        assert lost.unanswered_s > 0
        assert (await drills.reports("shop"))[0]["probes"] == [msgspec.to_builtins(lost)]
        before = await drills.reports("shop")
        async with page(503) as url:
            with pytest.raises(Conflict, match="does not answer before the drill: it answered 503"):
                await drills.run("shop", "service-killed", probes=[url])
            with pytest.raises(InvalidDocument, match="no http or https URL"):
                await drills.run("shop", "service-killed", probes=["file:///etc/passwd"])
            assert await drills.reports("shop") == before, "nothing was done"
            for budget in (2, 20, 200):  # on a busy machine not even the service runs again within two seconds
                report = await drills.run("shop", "service-killed", budget=budget, force=True, probes=[url])
                assert not report.passed
                if report.recovered_s is not None:
                    break
        assert report.recovered_s is not None, "all is said to run"
        assert "does not answer: it answered 503" in report.reason
        assert not report.probes[0].answers


@pytest.mark.parametrize("url", ["x", "ftp://a/", "http://", "http://me:secret@a/", "http://a:port/"])
def test_what_is_no_page(url: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        check([url])
    assert "secret" not in str(caught.value)


def test_how_many_pages() -> None:
    check([f"http://a/{number}" for number in range(MOST)])
    with pytest.raises(InvalidDocument, match="at most"):
        check([f"http://a/{number}" for number in range(MOST + 1)])
