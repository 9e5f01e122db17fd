"""`agent: pacemaker`, one word in the manifest: a guest with Debian's own pacemaker-remoted, through the main faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.stage import Stage, until
from tests.guests import SCRIPT, UNIT

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


def indented(text: str) -> str:
    return "".join(f"          {line}\n" for line in text.splitlines())


MANIFEST = f"""\
deployable: theirs
infrastructure: lxc
assemblies:
  one:
    image: bookworm
    agent: pacemaker
    files:
      /etc/systemd/system/thing.service:
        content: |
{indented(UNIT)}      /etc/init.d/daemon:
        mode: "0755"
        content: |
{indented(SCRIPT)}    resources:
      dummy: {{type: "ocf:heartbeat:Dummy", monitor: 1s, parameters: {{state: /run/dummy.state}}}}
      thing: {{type: "systemd:thing", monitor: 1s, after: [dummy]}}
      daemon: {{type: "lsb:daemon", monitor: 1s, after: [thing]}}
    escalation: {{failures: 50, period: 60s}}
"""
PROCESS = {
    "dummy": ("stat", "-c", "%W", "/run/dummy.state"),
    "thing": ("systemctl", "show", "-p", "MainPID", "--value", "thing"),
    "daemon": ("cat", "/run/daemon.pid"),
}
"""What tells one run of a resource from the next."""
BREAK = {
    "dummy": ("rm", "/run/dummy.state"),
    "thing": ("systemctl", "kill", "-s", "KILL", "thing"),
    "daemon": ("sh", "-c", "kill -9 $(cat /run/daemon.pid)"),
}


@pytest.fixture(scope="module")
def theirs(daemon: Stage) -> Iterator[Stage]:
    """The guest with all three resources, running."""
    daemon.pcloud("up", "--detach")
    daemon.apply(MANIFEST)
    try:
        yield daemon
    finally:
        daemon.pcloud("up", "--detach")
        daemon.pcloud("delete", "theirs", "--yes", "--wait")


def processes(stage: Stage) -> dict[str, str]:
    """What must not change when nothing is restarted."""
    found = {name: stage.guest("theirs/one", *PROCESS[name]) for name in ("thing", "daemon")}
    return {**found, "guest": str(stage.guest_init("theirs.one"))}


def anew(stage: Stage, before: str) -> bool:
    """Tell whether the init script's daemon runs, and is another one than before."""
    found = stage.guest("theirs/one", "sh", "-c", "cat /run/daemon.pid 2>/dev/null || true")
    return found not in ("", before)


def test_the_guest_runs_pacemakers_own_agent(theirs: Stage) -> None:
    running = theirs.guest("theirs/one", "ps", "-e", "-o", "comm")
    assert "pacemaker-remot" in running
    assert "pcloud-remoted" not in theirs.guest("theirs/one", "ps", "-e", "-o", "args")
    theirs.running("theirs")
    names = [each["name"] for each in theirs.status("theirs")["assemblies"][0]["resources"]]
    assert sorted(names) == sorted(PROCESS)


@pytest.mark.parametrize("resource", BREAK)
def test_a_failure_is_recovered_in_order(theirs: Stage, resource: str) -> None:
    """What comes after it is restarted too; what comes before is left alone."""
    before, cursor = processes(theirs), theirs.cursor()
    theirs.guest("theirs/one", *BREAK[resource])
    theirs.told(cursor, f"theirs/one/{resource}", "running")
    theirs.running("theirs")
    after = processes(theirs)
    later = {"dummy": {"thing", "daemon"}, "thing": {"thing", "daemon"}, "daemon": {"daemon"}}[resource]
    assert {name for name in before if before[name] != after[name]} == later


def test_the_daemon_killed_and_nothing_is_restarted(theirs: Stage) -> None:
    before = processes(theirs)
    kill = ("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "pacemaker_remote")
    pid = ("systemctl", "show", "-p", "MainPID", "--value", "pacemaker_remote")
    killed = theirs.guest("theirs/one", *pid)
    theirs.guest("theirs/one", *kill)
    until("another daemon", lambda: theirs.guest("theirs/one", *pid) not in ("0", killed), 60)
    # The engine is connected again when it notices this. It may tell meanwhile that it found running what runs.
    theirs.guest("theirs/one", *BREAK["daemon"])
    until("another run", lambda: anew(theirs, before["daemon"]))
    theirs.running("theirs")
    after = processes(theirs)
    assert {name for name in before if before[name] != after[name]} == {"daemon"}


def test_engine_and_daemon_killed_leave_what_runs_alone(theirs: Stage) -> None:
    before = processes(theirs)
    theirs.kill_all()
    theirs.pcloud("up", "--detach")
    theirs.running("theirs")
    assert processes(theirs) == before


def test_a_killed_guest_comes_back(theirs: Stage) -> None:
    cursor = theirs.cursor()
    os.kill(theirs.guest_init("theirs.one"), signal.SIGKILL)
    theirs.told(cursor, "theirs/one", "failed")
    theirs.told(cursor, "theirs/one/daemon", "running")
    theirs.running("theirs")


def test_a_hanging_daemon_is_found_out(theirs: Stage) -> None:
    """SIGSTOP: its guest executes, so it is not isolated, only suspected; it is taken back when it goes on."""
    before, cursor = processes(theirs), theirs.cursor()
    stop = ("systemctl", "kill", "--kill-whom=main", "pacemaker_remote", "-s")
    theirs.guest("theirs/one", *stop, "STOP")
    theirs.told(cursor, "theirs/one", "suspect", 120)
    theirs.guest("theirs/one", *stop, "CONT")
    theirs.running("theirs", 120)
    assert processes(theirs) == before


def test_stop_and_start(theirs: Stage) -> None:
    theirs.pcloud("stop", "theirs", "--wait")
    assert theirs.status("theirs")["state"] == "stopped"
    cursor = theirs.cursor()
    theirs.pcloud("start", "theirs", "--wait")
    theirs.told(cursor, "theirs/one/daemon", "running")
    order = [e["subject"] for e in theirs.events(cursor, "theirs") if e["data"]["state"] == "running"]
    names = [f"theirs/one/{name}" for name in ("dummy", "thing", "daemon")]
    assert sorted(names, key=order.index) == names
