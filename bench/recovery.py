"""A killed service and a killed guest: seconds from `kill -9` until its page is there again.

The service is Apache, a systemd unit in an LXC guest of the bookworm JEOS. Both sides have the same guest, service, monitor
interval and moments of the kills, one after the other on the same machine.

- Ours: `pcloud up`, its engine and our agent in the guest.
- Peer: corosync and Pacemaker, the guest as a guest node with Debian's pacemaker-remoted in it.
- For `guest-killed` the peer is a bare `lxc-start` and `systemctl start`, given the moment the guest is gone.

Needs root, LXC, corosync and Pacemaker; builds the images that are missing. `BENCH_TRIALS=2` asks for another number of
outages than six each.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.e2e.stage import Stage

from bench import Row, cluster_peer, outage
from bench.outage import outages

Figures = Mapping[str, list[float]]
"""Seconds without the page, shortest first, of `service-killed`, `service-killed-1s` and `guest-killed`."""

INTERVALS = {"service-killed-1s": 1.0, "service-killed": 10.0}
"""In the order of the measurements; the guest is killed last, while everything is monitored every 10 s."""
BUDGET_SERVICE, BUDGET_BARE = 0.1, 1.5
NOT_WORSE = 1.0
"""Where the design names no budget: ours shall not be slower."""
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
    """Yield medians and worst cases, in seconds; the worst of six is no 99th percentile, so it is not called one."""
    need()
    number = int(os.environ.get("BENCH_TRIALS", "6"))
    with tempfile.TemporaryDirectory(prefix="pcloud-bench-", dir="/var/tmp") as name:
        bare, peer = peers(Path(name), number)
    mine = ours("bench", number)
    yield from rows(mine, bare, peer)


def rows(mine: Figures, bare: list[float], peer: Figures) -> Iterator[Row]:
    """Compare."""
    for name, took in mine.items():
        budget = BUDGET_SERVICE if name == "service-killed" else NOT_WORSE
        which = f"{name}-cluster" if name == "guest-killed" else name
        yield Row.of(which, statistics.median(took), statistics.median(peer[name]), budget)
        yield Row.of(f"{which}-worst", took[-1], peer[name][-1], NOT_WORSE)
    yield Row.of("guest-killed", statistics.median(mine["guest-killed"]), statistics.median(bare), BUDGET_BARE)


def need() -> None:
    """RuntimeError when something is missing that `make test` installs."""
    absent = [
        name for name in ("lxc-start", "mmdebstrap", "corosync", "pacemakerd", "cibadmin") if not shutil.which(name)
    ]
    if os.geteuid() != 0 or absent:
        raise RuntimeError(f"needs root, LXC, corosync and Pacemaker; not found: {', '.join(absent) or 'root'}")


def ours(name: str, number: int) -> Figures:
    """Measure ours: so many outages of each kind. `name` tells this daemon from others."""
    took = {}
    stage = Stage(name)
    container = "recovery.web"
    stage.open()
    try:
        for which, interval in INTERVALS.items():
            stage.apply(MANIFEST.format(interval=interval))
            address = stage.status("recovery")["assemblies"][0]["address"]
            took[which] = outages(
                f"ours, {which}", address, lambda: outage.named(container, cluster_peer.SERVICE), number, interval,
                ready=lambda: _runs(stage),
            )  # fmt: skip
        took["guest-killed"] = outages(
            "ours, guest-killed", address, lambda: outage.init(container), number, interval, ready=lambda: _runs(stage)
        )
    finally:
        stage.close()
    return took


def _runs(stage: Stage) -> bool:
    return bool(stage.status("recovery")["state"] == "running")


def peers(folder: Path, number: int) -> tuple[list[float], Figures]:
    """Measure a start by hand (of the guest), and the cluster."""
    took = {}
    with cluster_peer.guest(folder / "state") as made:
        made.start()
        bare = outages(
            "by hand, guest-killed", made.address, lambda: outage.init(made.name), number, 1.0,
            ready=lambda: True, after=made.start,
        )  # fmt: skip
        made.lxc("stop", "-k")
        interval = INTERVALS["service-killed"]
        with cluster_peer.cluster(folder / "cluster", made, interval) as cluster:
            for which, interval in INTERVALS.items():
                cluster_peer.set_interval(cluster, interval)
                took[which] = outages(
                    f"Pacemaker, {which}", made.address, lambda: outage.named(made.name, cluster_peer.SERVICE), number,
                    interval, ready=lambda: cluster_peer.at_rest(cluster),
                )  # fmt: skip
            took["guest-killed"] = outages(
                "Pacemaker, guest-killed", made.address, lambda: outage.init(made.name), number, interval,
                ready=lambda: cluster_peer.at_rest(cluster),
            )  # fmt: skip
    return bare, took
