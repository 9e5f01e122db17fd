"""kill -9 of the daemon and of engine processes at every stage: nothing lost, nothing half applied, no guest touched."""

from __future__ import annotations

import os
import signal
import time

from pcloud.cpe.home import Home
from pcloud.dpe import messages
from pcloud.events.event import Event
from tests.cpe.harness import PATIENCE, DaemonProcess, manifest, until


def test_engines_and_guests_outlive_the_daemon_and_are_adopted(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    engines, guests = daemon.all_engines(), daemon.guest_files("shop")
    assert set(engines) == {"0", "1"}
    assert set(guests) == {"shop.db", "shop.web"}
    daemon.kill()
    daemon.start()
    daemon.running("shop")
    assert daemon.engines() == engines
    assert daemon.guest_files("shop") == guests
    assert len((daemon.guests / "loads.shop").read_text().splitlines()) == 1, "it was not loaded a second time"


def test_a_dead_engine_is_replaced_and_gets_the_newest_state(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    guests = daemon.guest_files("shop")
    for life in range(1, 4):
        before = daemon.engines()
        slot = next(one["slot"] for one in daemon.call("GET", "/v1/statistics")["engines"] if one["deployables"])
        os.kill(before[slot], signal.SIGKILL)
        until(lambda b=before, s=slot: daemon.engines().get(s, b[s]) != b[s], "another engine process")
        loads = daemon.guests / "loads.shop"
        until(lambda n=life, loads=loads: len(loads.read_text().splitlines()) == n + 1, "loaded again")
        assert loads.read_text().splitlines()[-1].endswith(f"state={life}"), "each life got what the one before wrote"
        daemon.running("shop")
    assert daemon.guest_files("shop") == guests
    assert [one["data"]["slot"] for one in daemon.events(type="engine.ended")] == [slot] * 3


def test_a_stopped_engine_that_keeps_its_connection_is_noticed_and_replaced(daemon: DaemonProcess) -> None:
    daemon.environment["PCLOUD__ENGINE__SILENCE_TIMEOUT"] = "2"
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    guests = {name: text for name, text in daemon.guest_files("shop").items() if not name.startswith("loads")}
    slot, pid = "0", daemon.engines()["0"]  # the first deployable is placed there
    os.kill(pid, signal.SIGSTOP)
    until(lambda: daemon.engines().get(slot) not in (pid, None), "another engine process")
    daemon.running("shop")
    told = next(each for each in daemon.events(type="engine.silent") if each["data"]["slot"] == slot)
    assert "did not answer for 2 s" in told["data"]["reason"]
    assert {k: v for k, v in daemon.guest_files("shop").items() if not k.startswith("loads")} == guests


def test_a_daemon_that_was_stopped_itself_kills_no_engine(daemon: DaemonProcess) -> None:
    daemon.environment["PCLOUD__ENGINE__SILENCE_TIMEOUT"] = "6"
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    before = daemon.all_engines()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(7)  # longer than it is patient with others
    daemon.process.send_signal(signal.SIGCONT)
    daemon.running("shop")
    time.sleep(2)  # another round of questions; nothing may come of it
    assert daemon.engines() == before
    assert daemon.events(type="engine.silent") == []


def test_both_killed_at_once(daemon: DaemonProcess) -> None:
    daemon.start()
    for number in range(6):
        daemon.apply(manifest(f"shop{number}"))
    for number in range(6):
        daemon.running(f"shop{number}")
    guests = [daemon.guest_files(f"shop{number}") for number in range(6)]
    daemon.kill()
    for pid in daemon.engines().values():
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    for number in range(6):
        daemon.running(f"shop{number}")
    assert [daemon.guest_files(f"shop{number}") for number in range(6)] == guests


def test_records_written_while_the_daemon_was_away_arrive_once(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    path = "/v1/deployables/shop/assemblies/web/exec"
    daemon.call("POST", path, 200, json={"argv": ["flood", "2000"]})
    daemon.kill()  # in the middle of committing them
    daemon.start()
    until(lambda: len(flood(daemon)) >= 2000, "all records are there")
    assert flood(daemon) == [str(number) for number in range(2000)]
    until(lambda: not spools_with_content(daemon), "the spools are done with")


def test_spools_of_engines_that_died_too_are_taken_in(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    daemon.call("POST", "/v1/deployables/shop/assemblies/web/exec", 200, json={"argv": ["flood", "1500"]})
    daemon.kill()
    for pid in daemon.engines().values():
        os.kill(pid, signal.SIGKILL)
    # The last frame of a spool may be cut off by the crash.
    for path in spools_with_content(daemon):
        with path.open("ab") as file:
            file.write(b"\x00\x00\x10\x00half a fra")
    daemon.start()
    until(lambda: len(flood(daemon)) >= 1500, "all records are there")
    assert flood(daemon) == [str(number) for number in range(1500)]
    daemon.running("shop")


def flood(daemon: DaemonProcess) -> list[str]:
    found: list[str] = []
    after = 0
    while True:
        page = daemon.call("GET", "/v1/events", 200, params={"type": "flood", "limit": 1000, "after": after})
        found += [one["data"]["reason"] for one in page["events"]]
        if not page["events"]:
            return found
        after = page["next"]


def spools_with_content(daemon: DaemonProcess) -> list:
    return [path for path in (daemon.home / "run").glob("spool-*.bin") if path.stat().st_size]


def test_daemon_killed_during_a_deletion_carries_it_through(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("slowshop"))
    daemon.running("slowshop")
    job = daemon.call("DELETE", "/v1/deployables/slowshop", 202)["job"]
    daemon.kill()
    daemon.start()
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "the deletion was carried through")
    assert daemon.call("GET", "/v1/deployables") == []
    assert not [name for name in daemon.guest_files("slowshop") if not name.startswith("loads")]
    assert not (daemon.home / "keys" / "slowshop").exists()
    assert daemon.call("GET", "/v1/deployables/slowshop", 404)["errors"][0]["code"] == "NO_SUCH_DEPLOYABLE"


def test_a_deletion_that_the_engine_can_not_do_is_tried_until_done(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("stubborn"))
    daemon.running("stubborn")
    job = daemon.call("DELETE", "/v1/deployables/stubborn", 202)["job"]
    until(lambda: "does not answer" in daemon.call("GET", f"/v1/jobs/{job}")["message"], "the reason is told")
    assert daemon.call("DELETE", "/v1/deployables/stubborn", 202)["job"] == job, "asking again changes nothing"
    assert daemon.call("DELETE", f"/v1/jobs/{job}", 409)["errors"][0]["code"] == "JOB_NOT_CANCELLABLE"
    assert daemon.client.post("/v1/deployables/stubborn/start").status_code == 409
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "it is done")


def test_an_engine_killed_during_a_deletion(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("slowshop"))
    daemon.running("slowshop")
    job = daemon.call("DELETE", "/v1/deployables/slowshop", 202)["job"]
    for pid in daemon.engines().values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "the deletion was carried through")
    assert not daemon.guest_files("slowshop").keys() & {"slowshop.db", "slowshop.web"}


def test_both_killed_during_a_deletion_and_the_next_engine_knows_what_the_former_knew(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("slowshop"))
    daemon.running("slowshop")
    job = daemon.call("DELETE", "/v1/deployables/slowshop", 202)["job"]
    engines = daemon.engines()
    daemon.kill()
    for pid in engines.values():
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    until(lambda: daemon.call("GET", f"/v1/jobs/{job}")["state"] == "done", "the deletion was carried through")
    assert not daemon.guest_files("slowshop").keys() & {"slowshop.db", "slowshop.web"}
    loads = (daemon.guests / "loads.slowshop").read_text().splitlines()
    assert loads[-1].endswith("state=1"), loads


def test_daemon_killed_during_an_image_build(daemon: DaemonProcess) -> None:
    daemon.start()
    hold = daemon.home / "images" / "hold"
    hold.touch()
    daemon.apply(manifest("shop", image="trixie"))
    until(lambda: "building image trixie" in daemon.call("GET", "/v1/deployables/shop")["reason"], "it tells")
    assert daemon.state("shop") == "starting"
    job = daemon.call("GET", "/v1/jobs")[0]
    daemon.kill()
    hold.unlink()
    daemon.start()
    daemon.running("shop")
    after = daemon.call("GET", "/v1/jobs")
    assert [(one["id"], one["state"]) for one in after] == [(job["id"], "done")], "the same job went on"


def test_a_failed_build_makes_the_deployable_failed_and_start_tries_again(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop", image="jammy"))
    until(lambda: daemon.state("shop") == "failed", "it is failed")
    assert "the mirror does not answer" in daemon.call("GET", "/v1/deployables/shop")["reason"]
    builds = (daemon.home / "images" / "builds.log").read_text().count("\n")
    assert builds == 1, "a failed build is not repeated by itself"
    daemon.call("POST", "/v1/deployables/shop/start", 202)
    until(lambda: (daemon.home / "images" / "builds.log").read_text().count("\n") == 2, "start tries again")
    daemon.apply(manifest("shop", image="bookworm"))
    daemon.running("shop")


def test_killed_in_the_middle_of_applying_many(daemon: DaemonProcess) -> None:
    """Whatever was answered is there; whatever was not is there wholly or not at all."""
    daemon.start()
    for number in range(20):
        daemon.apply(manifest(f"shop{number}"))
    assert daemon.process is not None
    daemon.kill()
    daemon.start()
    names = {one["name"] for one in daemon.call("GET", "/v1/deployables")}
    assert names == {f"shop{number}" for number in range(20)}
    for number in range(20):
        daemon.running(f"shop{number}")
        assert set(daemon.guest_files(f"shop{number}")) == {f"shop{number}.db", f"shop{number}.web"}


def test_one_daemon_a_home(daemon: DaemonProcess) -> None:
    daemon.start()
    second = DaemonProcess(daemon.home)
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(PATIENCE) == 1
    second.process.stdout.close()  # type: ignore[union-attr]
    assert "ALREADY_RUNNING" in daemon.log()
    second.client.close()
    assert daemon.client.get("/healthz").status_code == 200


def test_orderly_end_leaves_engines_and_shutdown_ends_them(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    engines, guests = daemon.all_engines(), daemon.guest_files("shop")
    assert daemon.terminate() == 0
    assert daemon.engines() == engines
    daemon.start()
    daemon.call("POST", "/v1/shutdown", 202, json={"engines": True})
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 0
    daemon.process.stdout.close()  # type: ignore[union-attr]
    assert daemon.engines() == {}
    assert daemon.guest_files("shop") == guests
    daemon.start()
    daemon.call("POST", "/v1/shutdown", 202, json={"guests": True})
    assert daemon.process.wait(PATIENCE) == 0
    daemon.process.stdout.close()
    assert not daemon.guest_files("shop").keys() & {"shop.db", "shop.web"}


def test_what_was_left_before_another_owned_the_store_is_history_but_no_state(daemon: DaemonProcess) -> None:
    daemon.start()
    daemon.apply(manifest("shop"))
    daemon.running("shop")
    engines = daemon.all_engines()
    daemon.kill()
    for pid in engines.values():
        os.kill(pid, signal.SIGKILL)
    event = Event(time=time.time(), type="late", deployable="shop", reason="it was long ago")
    records = [messages.Record(sequence=1, deployable="shop", state=b"99"), messages.Record(sequence=2, event=event)]
    left = daemon.home / "run" / "spool-0-feed.bin"
    left.write_bytes(b"".join(messages.encode(record) for record in records))
    Home(daemon.home).mark_late()
    daemon.start()
    daemon.running("shop")
    until(lambda: daemon.events(type="late"), "its events are taken in")
    until(lambda: not left.with_suffix(".late").exists(), "and it is removed")
    assert (daemon.guests / "loads.shop").read_text().splitlines()[-1].endswith("state=1"), "the newest state counts"
