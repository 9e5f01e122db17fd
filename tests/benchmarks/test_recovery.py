"""The stages of the `recovery` bench, one outage each: our side on real guests, and the rows that come of figures."""

from __future__ import annotations

import pytest
from bench import Row, recovery

from tests.e2e.stage import missing


def test_rows_compare_like_with_like() -> None:
    """Medians with medians, worst with worst; a killed guest with the bare start, whose budget is the design's."""
    mine = {"service-killed-1s": [0.1, 0.1, 0.4], "service-killed": [0.1, 0.2, 0.3], "guest-killed": [2.0, 3.0, 9.0]}
    peer = {"service-killed-1s": [0.5, 1.0, 2.0], "service-killed": [1.0, 4.0, 6.0], "guest-killed": [4.0, 6.0, 9.0]}
    rows = {row.name: row for row in recovery.rows(mine, [1.0, 2.0, 3.0], peer)}
    assert rows["service-killed"] == Row("service-killed", 0.2, 4.0, 0.05, 0.1, True)
    assert rows["service-killed-worst"].ratio == 0.05
    assert rows["service-killed-1s"].ratio == 0.1
    assert rows["guest-killed"] == Row("guest-killed", 3.0, 2.0, 1.5, 1.5, True)
    assert rows["guest-killed-cluster"].ratio == 0.5
    assert rows["guest-killed-cluster-worst"] == Row("guest-killed-cluster-worst", 9.0, 9.0, 1.0, 1.0, True)


@pytest.mark.real
@pytest.mark.timeout(900)
def test_ours_once() -> None:
    """Every outage is found, ended, and told in seconds; the image is built at the first time."""
    if lacking := missing():
        pytest.skip(lacking)
    took = recovery.ours("bt", 1)
    assert set(took) == {"service-killed-1s", "service-killed", "guest-killed"}
    assert all(len(each) == 1 and each[0] > 0 for each in took.values())
