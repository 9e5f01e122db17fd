"""A deployable whose engine gets no decision: `blocked` for whoever looks, and out of it again."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.stage import Stage, about, missing, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]
MANIFEST = """\
deployable: stuck
infrastructure: lxc
isolation: process
monitor: none
assemblies:
  one: {image: bookworm}
"""


def engine_of(stage: Stage, name: str) -> int:
    """Return the engine process of a deployable that has one of its own."""
    return int((stage.home / "run" / f"dped-own.{name}.lock").read_text())


def outcomes(stage: Stage, cursor: int) -> list[str]:
    """Return how the incidents of a deployable ended since then."""
    return [e["data"]["outcome"] for e in stage.events(cursor, "stuck") if e["type"].endswith(".incident")]


@contextmanager
def no_worker(engine: int) -> Iterator[None]:
    """Let an engine process have no scheduler's worker: the one it has is killed, for another there is no room."""
    before = resource.prlimit(engine, resource.RLIMIT_NOFILE)
    resource.prlimit(engine, resource.RLIMIT_NOFILE, (8, before[1]))
    try:
        (worker,) = [line for line in about("pcloud.scheduler.worker") if line.split()[-1] == str(engine)]
        os.kill(int(worker.split()[0]), signal.SIGKILL)
        yield
    finally:
        resource.prlimit(engine, resource.RLIMIT_NOFILE, before)


def test_a_deployable_without_decisions_is_blocked_until_recover(stage: Stage) -> None:
    stage.apply(MANIFEST)
    try:
        cursor, before = stage.cursor(), stage.guest_init("stuck.one")
        with no_worker(engine_of(stage, "stuck")):
            stage.pcloud("stop", "stuck")
            until("blocked", lambda: stage.status("stuck")["state"] == "blocked")
            stage.told(cursor, "stuck", "blocked")
            until("its outcome", lambda: outcomes(stage, cursor) == ["blocked"])
            reason = stage.status("stuck")["reason"]
            assert "worker does not start" in reason
            assert "`pcloud recover stuck`" in reason
            assert "blocked" in stage.pcloud("status", "stuck")
            (line,) = [line for line in stage.pcloud("get").splitlines() if line.startswith("stuck ")]
            assert "blocked" in line
            waited = stage.run("start", "stuck", "--wait")
            assert waited.returncode != 0, "nobody waits for what will not come"
            assert "pcloud recover stuck" in waited.stdout + waited.stderr
            assert stage.guest_init("stuck.one") == before, "nothing is done to its guest"
            assert "BLOCKED" in {one["rule"] for one in stage.json("explain", "stuck/one", "--now")}
        stage.pcloud("recover", "stuck", "--wait")
        assert stage.guest_init("stuck.one") == before
        assert stage.json("explain", "stuck", "--now") == []
        stage.pcloud("stop", "stuck", "--wait")
    finally:
        stage.pcloud("delete", "stuck", "--yes", "--wait")
