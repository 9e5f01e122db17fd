"""The faults of the demonstration: each is made for real, watched from outside, and timed.

Detected is when the engine told of it, recovered when WordPress answers again with a page out of the database and all of the
deployable runs; both in seconds after the fault was made.
"""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from demo.stage import NAME, Stage, StageError, wait_for
from pcloud.client.records import CloudEvent
from pcloud.model.errors import PcloudError

BOOT = ("cut", "-d", " ", "-f", "22", "/proc/1/stat")
"""Prints in a guest what another boot changes: when its first process started."""


@dataclass
class Fault:
    """One fault and what came of it."""

    name: str
    title: str
    detected_s: float = 0.0
    recovered_s: float = 0.0
    events: list[CloudEvent] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Play:
    """Makes faults on one running deployable."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client = stage.client()
        self.title = ""

    # --- looking

    def address(self, assembly: str) -> str:
        """Return a guest's address."""
        return next(a.address for a in self.client.status(NAME).assemblies if a.name == assembly)

    def guest(self, assembly: str, *argv: str) -> str:
        """Run a command in a guest and return what it prints."""
        done = self.client.execute(NAME, assembly, argv)
        if done.returncode:
            raise StageError(f"{' '.join(argv)} in {assembly} ended with {done.returncode}: {done.stderr.decode()}")
        return done.stdout.decode().strip()

    def write_title(self) -> None:
        """Put a new random title into the database, which no page can know otherwise."""
        self.title = f"Out of the database {uuid.uuid4().hex[:12]}"
        query = f"UPDATE wordpress.wp_options SET option_value='{self.title}' WHERE option_name='blogname'"
        self.guest("mysql", "mysql", "-e", query)

    def page(self) -> bool:
        """Tell whether WordPress answers with a page that holds the title in the database."""
        try:
            address = self.address("wordpress")
            if not address:
                return False
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{address}/", timeout=15 * self.stage.slow) as answer:
                return self.title in answer.read().decode(errors="replace")
        except (OSError, urllib.error.URLError, PcloudError):
            return False

    def running(self) -> bool:
        """Tell whether all of the deployable runs."""
        try:
            return self.client.status(NAME).state.value == "running"
        except PcloudError:
            return False

    def _answers(self) -> bool:
        try:
            return self.client.healthy()
        except PcloudError:
            return False

    def processes(self) -> dict[str, str]:
        """Return what must not change when only our own processes die: services' main processes and guests' boots."""
        return {
            "mariadb": self.guest("mysql", "systemctl", "show", "-p", "MainPID", "--value", "mariadb"),
            "apache2": self.guest("wordpress", "systemctl", "show", "-p", "MainPID", "--value", "apache2"),
            "mysql": self.guest("mysql", *BOOT),
            "wordpress": self.guest("wordpress", *BOOT),
        }

    # --- the faults

    def service_killed(self) -> Fault:
        """`kill -9` of mariadbd inside its guest."""
        fault = Fault("service-killed", "kill -9 of mariadbd inside the mysql guest")
        main = self.guest("mysql", "systemctl", "show", "-p", "MainPID", "--value", "mariadb")
        return self._make(fault, lambda: self.guest("mysql", "kill", "-9", main), "mysql/mysqld")

    def guest_killed(self) -> Fault:
        """The wordpress guest killed from outside."""
        fault = Fault("guest-killed", "the wordpress guest killed from outside")
        return self._make(fault, lambda: _kill_guest(self.stage), "wordpress")

    def guest_hung(self) -> Fault:
        """The wordpress guest hung: its QEMU stopped, suspected by the silence, confirmed by its monitor, isolated."""
        fault = Fault("guest-hung", "SIGSTOP of the wordpress guest's QEMU")
        start, began = self.client.cursor(), time.time()
        pid = _hang_guest()
        suspected = self._event(start, lambda e: _is(e, "assembly.state", "suspect", "wordpress"), "the suspicion")
        fault.detected_s = suspected - began
        self._event(start, lambda e: _type(e) == "isolation" and e.text("assembly") == "wordpress", "the isolation")
        self._recovered(start, "wordpress")
        fault.recovered_s = self._healthy() - began
        self._collect(fault, start)
        if Path(f"/proc/{pid}").exists():
            raise StageError(f"the guest was replaced, and its old QEMU still exists (process {pid})")
        rules = " ".join(rule["text"] for decision in fault.decisions for rule in decision["rules"])
        if "hung" not in rules:
            raise StageError(f"the guest was isolated for another reason than that it hung: {rules}")
        fault.notes.append("its old QEMU was seen to be gone before another was started")
        return fault

    def escalation(self) -> Fault:
        """apache2 killed 3 times within 60 s: escalated to a restart of its guest."""
        fault = Fault("escalation", "apache2 killed 3 times within 60 s")
        boot = self.guest("wordpress", *BOOT)
        start = self.client.cursor()
        for number in (1, 2, 3):
            main = self.guest("wordpress", "systemctl", "show", "-p", "MainPID", "--value", "apache2")
            cursor, began = self.client.cursor(), time.time()
            self.guest("wordpress", "kill", "-9", main)
            if number < 3:
                self._recovered(cursor, "wordpress/httpd")
        fault.detected_s = self._event(cursor, lambda e: _type(e) == "escalation", "an escalation") - began
        self._event(cursor, lambda e: _is(e, "assembly.state", "running", "wordpress"), "the restart of the guest")
        fault.recovered_s = self._healthy() - began
        self._collect(fault, start)
        if self.guest("wordpress", *BOOT) == boot:
            raise StageError("the guest was not restarted by the escalation")
        left = next(a for a in self.client.status(NAME).assemblies if a.name == "wordpress").resources[0].failures
        if left:
            raise StageError(f"counting did not start afresh after the escalation: {left} failures still count")
        fault.notes.append("the guest was restarted, and the failures are counted afresh")
        return fault

    def engine_killed(self) -> Fault:
        """`kill -9` of the engine processes."""
        fault = Fault("engine-killed", "kill -9 of the engine process")
        before, start, old = self.processes(), self.client.cursor(), self.stage.engine_pids()
        began = time.time()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        found = wait_for("a new engine", lambda: len(set(self.stage.engine_pids()) - set(old)) == len(old), 120)
        fault.detected_s = found - began
        self._found_running(start)
        fault.recovered_s = self._healthy() - began
        self._collect(fault, start)
        self._untouched(fault, before)
        return fault

    def daemon_killed(self) -> Fault:
        """`kill -9` of the daemon."""
        # What supervises it starts it again: systemd on a real host, here this script.
        fault = Fault("daemon-killed", "kill -9 of the daemon")
        before, start, pid = self.processes(), self.client.cursor(), self.stage.daemon_pid()
        began = time.time()
        os.kill(pid, signal.SIGKILL)
        fault.detected_s = wait_for("the end of the daemon", lambda: not self._answers(), 60) - began
        self.stage.pcloud("up", "--detach")
        fault.recovered_s = self._healthy() - began
        self._collect(fault, start)
        self._untouched(fault, before)
        return fault

    # --- timing

    def _make(self, fault: Fault, make: Any, subject: str) -> Fault:
        start = self.client.cursor()
        began = time.time()
        make()
        kind = "resource.state" if "/" in subject else "assembly.state"
        fault.detected_s = (
            self._event(start, lambda e: _is(e, kind, "failed", subject), f"the failure of {subject}") - began
        )
        self._recovered(start, subject)
        fault.recovered_s = self._healthy() - began
        self._collect(fault, start)
        return fault

    def _recovered(self, cursor: str, subject: str) -> None:
        kind = "resource.state" if "/" in subject else "assembly.state"
        self._event(cursor, lambda e: _is(e, kind, "running", subject), f"the recovery of {subject}")

    def _found_running(self, cursor: str) -> None:
        for subject in ("mysql/mysqld", "wordpress/httpd"):
            self._event(cursor, lambda e, s=subject: _is(e, "resource.state", "running", s), f"{subject} taken over")

    def _event(self, cursor: str, wanted: Any, what: str) -> float:
        """Wait for an event after a cursor; return its time."""
        found: list[CloudEvent] = []

        def look() -> bool:
            page = self.client.events({"deployable": NAME}, after=cursor, limit=1000)
            found.extend(event for event in page.events if wanted(event))
            return bool(found)

        wait_for(what, look, 120 * self.stage.slow)
        return datetime.fromisoformat(found[0].time.replace("Z", "+00:00")).timestamp()

    def _healthy(self) -> float:
        return wait_for(
            "WordPress with a page out of the database", lambda: self.page() and self.running(), 300 * self.stage.slow
        )

    def _collect(self, fault: Fault, cursor: str) -> None:
        fault.events = list(self.client.events({"deployable": NAME}, after=cursor, limit=1000).events)
        began = min((event_time(event) for event in fault.events), default=time.time())
        fault.decisions = [d for d in self.client.explain(NAME, limit=50) if d["time"] >= began - 0.05][::-1]

    def _untouched(self, fault: Fault, before: dict[str, str]) -> None:
        after = self.processes()
        if after != before:
            raise StageError(f"something was restarted that ran: before {before}, after {after}")
        fault.notes.append("no guest and no service was restarted: the same processes run as before")


def _kill_guest(stage: Stage) -> None:
    from demo.guests import kill

    kill(stage.infrastructure, f"{NAME}.wordpress")


def _hang_guest() -> int:
    from demo.guests import hang

    return hang(f"{NAME}.wordpress")


def _type(event: CloudEvent) -> str:
    return event.type.removeprefix("org.pacemaker-cloud.")


def event_time(event: CloudEvent) -> float:
    return datetime.fromisoformat(event.time.replace("Z", "+00:00")).timestamp()


def _is(event: CloudEvent, kind: str, state: str, subject: str) -> bool:
    named = "/".join(part for part in (event.text("assembly"), event.text("resource")) if part)
    return _type(event) == kind and event.text("state") == state and named == subject
