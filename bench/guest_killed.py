"""A killed guest: seconds from `kill -9` of its first process until the page of its service is there again.

Guest and service are those of `recovery`, monitored every 10 s.

- `guest-killed`: against a bare `lxc-start` and `systemctl start`, given the moment the guest is gone. Ours and the start by
  hand take turns, so that whatever else the machine does meets both.
- `guest-killed-cluster`: against Pacemaker, the guest as a guest node with Debian's pacemaker-remoted in it.

Needs root, LXC, corosync and Pacemaker; builds the images that are missing. `BENCH_TRIALS=2` asks for another number of
outages.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.stage import Stage

from bench import Row, cluster_peer, outage, recovery
from bench.outage import Side

BUDGET = 1.5
INTERVAL = 10.0
SPREAD, BREATH = 1.0, 1.5
"""The moments of the turns are spread over so many seconds, and a guest runs so many at least before it is killed."""


def run() -> Iterator[Row]:
    """Yield medians and 99th percentiles, in seconds."""
    recovery.need()
    with (
        tempfile.TemporaryDirectory(prefix="pcloud-bench-", dir="/var/tmp") as name,
        cluster_peer.guest(Path(name) / "state") as made,
    ):
        with recovery.stage("bench") as stage:
            mine, bare = turns(stage, made)
        made.lxc("stop", "-k")
        yield from rows(mine, bare, pacemaker(Path(name) / "cluster", made))


def rows(mine: list[float], bare: list[float], cluster: list[float]) -> Iterator[Row]:
    """Compare."""
    yield Row.of("guest-killed", statistics.median(mine), statistics.median(bare), BUDGET)
    yield Row.of("guest-killed-p99", outage.p99(mine), outage.p99(bare), BUDGET)
    yield Row.of("guest-killed-cluster", statistics.median(mine), statistics.median(cluster), recovery.NOT_WORSE)
    yield Row.of("guest-killed-cluster-p99", outage.p99(mine), outage.p99(cluster), recovery.NOT_WORSE)


def ours(stage: Stage) -> Side:
    """Return our side, running."""
    return Side(
        what="ours, guest-killed",
        address=recovery.address(stage, INTERVAL),
        choose=lambda: outage.init(recovery.CONTAINER),
        ready=lambda: recovery.runs(stage),
    )


def turns(stage: Stage, made: cluster_peer.Guest) -> tuple[list[float], list[float]]:
    """Measure ours and starts by hand."""
    made.start()
    by_hand = Side(
        what="by hand, guest-killed",
        address=made.address,
        choose=lambda: outage.init(made.name),
        ready=lambda: True,
        after=made.start,
    )
    number = recovery.trials("guest-killed")
    mine, bare = outage.alternating([ours(stage), by_hand], number, SPREAD, breath=BREATH)
    return mine, bare


def pacemaker(folder: Path, made: cluster_peer.Guest) -> list[float]:
    """Measure the cluster."""
    with cluster_peer.cluster(folder, made, INTERVAL) as cluster:
        side = Side(
            what="Pacemaker, guest-killed",
            address=made.address,
            choose=lambda: outage.init(made.name),
            ready=lambda: cluster_peer.at_rest(cluster),
        )
        return outage.outages(side, recovery.trials("guest-killed-cluster"), INTERVAL)
