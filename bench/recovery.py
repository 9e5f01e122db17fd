"""A killed service: seconds from `kill -9` until its page is there again. (`guest_killed` has the guests.)

The service is Apache, a systemd unit in an LXC guest of the bookworm JEOS. Both sides have the same guest, service, monitor
interval and moments of the kills, one after the other on the same machine.

- Ours: `pcloud up`, its engine and our agent in the guest.
- Peer: corosync and Pacemaker, the guest as a guest node with Debian's pacemaker-remoted in it.

Needs root, LXC, corosync and Pacemaker; builds the images that are missing. `BENCH_TRIALS=2` asks for another number of
outages than `TRIALS`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.e2e.stage import Stage

from bench import Row, cluster_peer, outage
from bench.outage import Side

Figures = Mapping[str, list[float]]
"""Seconds without the page, shortest first, by what was killed."""

INTERVALS = {"service-killed-1s": 1.0, "service-killed": 10.0}
TRIALS = {"service-killed-1s": 30, "service-killed": 12, "guest-killed": 30, "guest-killed-cluster": 12}
"""Outages of each side. The cluster takes ten seconds and more for one, where it is only asked every ten."""
BUDGET_SERVICE = 0.1
NOT_WORSE = 1.0
"""Where the design names no budget: ours shall not be slower."""
CONTAINER = "recovery.web"
MANIFEST = """\
deployable: recovery
infrastructure: lxc
assemblies:
  web:
    image: bookworm
    packages: [apache2]
    resources:
      httpd:
        template: httpd
        monitor: {interval:g}s
        escalation: {{failures: 100, period: 1s}}
    escalation: {{failures: 100, period: 1s}}
"""


def run() -> Iterator[Row]:
    """Yield medians and 99th percentiles, in seconds."""
    need()
    with tempfile.TemporaryDirectory(prefix="pcloud-bench-", dir="/var/tmp") as name:
        peer = peers(Path(name))
    with stage("bench") as made:
        mine = ours(made)
    yield from rows(mine, peer)


def rows(mine: Figures, peer: Figures) -> Iterator[Row]:
    """Compare."""
    for name, took in mine.items():
        budget = BUDGET_SERVICE if name == "service-killed" else NOT_WORSE
        yield Row.of(name, statistics.median(took), statistics.median(peer[name]), budget)
        yield Row.of(f"{name}-p99", outage.p99(took), outage.p99(peer[name]), NOT_WORSE)


def trials(name: str) -> int:
    """How many outages are made of that kind."""
    return int(os.environ.get("BENCH_TRIALS", TRIALS[name]))


def need() -> None:
    """RuntimeError when something is missing that `make test` installs."""
    absent = [
        name for name in ("lxc-start", "mmdebstrap", "corosync", "pacemakerd", "cibadmin") if not shutil.which(name)
    ]
    if os.geteuid() != 0 or absent:
        raise RuntimeError(f"needs root, LXC, corosync and Pacemaker; not found: {', '.join(absent) or 'root'}")


@contextlib.contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Run our daemon; `name` tells it from others."""
    made = Stage(name)
    made.open()
    try:
        yield made
    finally:
        made.close()


def address(made: Stage, interval: float) -> str:
    """Have the guest and its service, monitored so often; return where they are when they run."""
    made.apply(MANIFEST.format(interval=interval))
    return str(made.status("recovery")["assemblies"][0]["address"])


def runs(made: Stage) -> bool:
    """Whether all is well."""
    return bool(made.status("recovery")["state"] == "running")


def ours(made: Stage) -> Figures:
    """Measure ours."""
    took = {}
    for which, interval in INTERVALS.items():
        side = Side(
            what=f"ours, {which}",
            address=address(made, interval),
            choose=lambda: outage.named(CONTAINER, cluster_peer.SERVICE),
            ready=lambda: runs(made),
        )
        took[which] = outage.outages(side, trials(which), interval)
    return took


def peers(folder: Path) -> Figures:
    """Measure the cluster."""
    took = {}
    interval = INTERVALS["service-killed"]
    with (
        cluster_peer.guest(folder / "state") as made,
        cluster_peer.cluster(folder / "cluster", made, interval) as cluster,
    ):
        for which, interval in INTERVALS.items():
            cluster_peer.set_interval(cluster, interval)
            side = Side(
                what=f"Pacemaker, {which}",
                address=made.address,
                choose=lambda: outage.named(made.name, cluster_peer.SERVICE),
                ready=lambda: cluster_peer.at_rest(cluster),
            )
            took[which] = outage.outages(side, trials(which), interval)
    return took
