"""`pcloud drill` and `pcloud drills` against the stand-in API."""

from __future__ import annotations

import json
from typing import Any

Run = Any


def test_a_drill_is_told_in_a_few_lines(pcloud: Run, api: Any) -> None:
    ended = pcloud("drill", "shop", "--assembly", "web", "--budget", "20s")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "service-killed web: it was killed",
        "detected   0.050 s  its process exited",
        "recovered  0.500 s  (budget 20 s)",
        "started    web/httpd",
        "before     detected 0.040 s, recovered 0.200 s (median of 3); this time it took more than twice as long",
        "passed: all runs again after 0.5 s",
    ]


def test_a_drill_that_failed_has_another_exit_code_and_is_remembered(pcloud: Run, api: Any) -> None:
    ended = pcloud("drill", "shop", "--fault", "guest-killed", "-o", "json")
    assert ended.returncode == 1
    report = json.loads(ended.stdout)
    assert report["recovered_s"] is None
    assert json.loads(pcloud("drills", "shop", "-o", "json").stdout) == [report]
    (line,) = [line for line in pcloud("drills", "shop").stdout.splitlines() if "guest-killed" in line]
    assert "failed" in line
    assert "never" in line
    assert pcloud("drill", "shop", "--fault", "meteor").returncode == 2


def test_what_was_lost_is_told(pcloud: Run, api: Any) -> None:
    ended = pcloud("drill", "shop", "--probe", "http://a/", "--probe", "http://b/")
    assert "lost       http://a/: no request, all 9 were answered, the slowest after 0.125 s" in ended.stdout
    assert (
        "lost       http://b/: 0.250 s without an answer, 1 of 9 requests failed, the slowest after 0.125 s"
        in ended.stdout
    )
    report = json.loads(pcloud("drill", "shop", "--probe", "http://a/", "-o", "json").stdout)
    assert (report["probes"][0]["url"], report["probes"][0]["asked"]) == ("http://a/", 9)
