"""Outages of the `recovery` bench: what is killed is gone when the question is first put, and what never ends is told."""

from __future__ import annotations

import http.server
import subprocess
import threading
import time
from pathlib import Path

import pytest
from bench import outage


def test_the_killed_are_gone_when_the_outage_begins() -> None:
    """A parent and a child that outlives it, as a server and its workers."""
    process = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    before = time.monotonic()
    begun = outage.kill([process.pid, child])
    assert before <= begun <= time.monotonic()
    assert all(_dead(pid) for pid in (process.pid, child))
    assert process.wait() == -9
    process.stdout.close()


def _dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_nothing_to_kill_is_no_outage() -> None:
    with pytest.raises(RuntimeError, match="nothing to kill"):
        outage.kill([])
    with pytest.raises(RuntimeError, match="nothing to kill"):
        outage.kill([999_999_999])  # one that has ended by itself since it was chosen
    assert outage.processes("no-such-container") == set()


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with the code that the class holds."""

    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def test_a_page_is_an_answer_and_an_error_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_port
        outage.until("the page", lambda: outage.answers("127.0.0.1", port), 60)
        monkeypatch.setattr(Page, "code", 503)
        assert not outage.answers("127.0.0.1", port)
        server.shutdown()
        thread.join()
    assert not outage.answers("127.0.0.1", port)


def test_an_outage_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage's wait is bounded; the message names the stage."""
    monkeypatch.setattr(outage, "BACK", 0.2)
    with pytest.raises(RuntimeError, match="ours: readiness did not happen"):
        outage.outages(outage.Side(what="ours", address="127.0.0.1", choose=list, ready=lambda: False), 1, 1.0)
