"""The stages of the benches `recovery` and `guest_killed`, one outage each: our side on real guests, and the rows that come
of figures."""

from __future__ import annotations

import pytest
from bench import Row, guest_killed, outage, recovery

from tests.e2e.stage import missing


def test_rows_compare_like_with_like() -> None:
    """Medians with medians, 99th percentiles with 99th percentiles."""
    mine = {"service-killed-1s": [0.1, 0.1, 0.4], "service-killed": [0.1, 0.2, 0.3]}
    peer = {"service-killed-1s": [0.5, 1.0, 2.0], "service-killed": [1.0, 4.0, 6.0]}
    rows = {row.name: row for row in recovery.rows(mine, peer)}
    assert rows["service-killed"] == Row("service-killed", 0.2, 4.0, 0.05, 0.1, True)
    assert rows["service-killed-p99"].ratio == 0.05
    assert rows["service-killed-1s"].ratio == 0.1


def test_a_killed_guest_is_compared_with_the_bare_start_and_the_cluster() -> None:
    rows = {row.name: row for row in guest_killed.rows([2.0, 3.0, 9.0], [1.0, 2.0, 3.0], [4.0, 6.0, 9.0])}
    assert rows["guest-killed"] == Row("guest-killed", 3.0, 2.0, 1.5, 1.5, True)
    assert rows["guest-killed-p99"].ratio == 3.0
    assert rows["guest-killed-cluster"].ratio == 0.5
    assert rows["guest-killed-cluster-p99"] == Row("guest-killed-cluster-p99", 9.0, 9.0, 1.0, 1.0, True)


def test_the_99th_percentile_is_by_nearest_rank() -> None:
    assert outage.p99([1.0]) == 1.0
    assert outage.p99([float(n) for n in range(1, 100)]) == 99.0
    assert outage.p99([float(n) for n in range(1, 201)]) == 198.0


@pytest.mark.real
@pytest.mark.timeout(900)
def test_ours_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every outage is found, ended, and told in seconds; the image is built at the first time."""
    if lacking := missing():
        pytest.skip(lacking)
    monkeypatch.setenv("BENCH_TRIALS", "1")
    with recovery.stage("bt") as stage:
        took = dict(recovery.ours(stage))
        took["guest-killed"] = outage.alternating([guest_killed.ours(stage)], 1, 1.0)[0]
    assert set(took) == {"service-killed-1s", "service-killed", "guest-killed"}
    assert all(len(each) == 1 and each[0] > 0 for each in took.values())
