"""cfn-lint accepts what we accept and we accept what it accepts, over its own fixtures, but for explained differences."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.stacks.lint import DIFFERENCES, Verdict, fixtures, verdicts


@pytest.fixture(scope="module")
def found() -> list[Verdict]:
    folder = fixtures()
    if folder is None:
        pytest.skip("cfn-lint's fixtures are not there (tools/setup-tests gets them)")
    return verdicts(folder)


@pytest.fixture(scope="module")
def explained() -> dict[str, Any]:
    return dict(yaml.safe_load(DIFFERENCES.read_text()))


def _classes(explained: dict[str, Any], side: str) -> set[str]:
    return {code for item in explained[side] for code in item["codes"]}


def test_each_difference_is_explained(
    found: list[Verdict], explained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    refused, accepted = _classes(explained, "we_refuse"), _classes(explained, "we_accept")
    unexplained, counts = [], {"both accept": 0, "both refuse": 0, "only we refuse": 0, "only cfn-lint refuses": 0}
    for item in found:
        if bool(item.ours) == bool(item.theirs):
            counts["both refuse" if item.ours else "both accept"] += 1
            continue
        counts["only we refuse" if item.ours else "only cfn-lint refuses"] += 1
        left = item.ours - refused if item.ours else item.theirs - accepted
        if left and item.name not in explained["files"]:
            unexplained.append(f"{item.name}: {sorted(left)} {list(item.messages)[:3]}")
    with capsys.disabled():
        print(f"\ncfn-lint: {len(found)} templates: {counts}")
    assert unexplained == []
    assert counts["both refuse"] > 30
    assert counts["both accept"] > 60


def test_no_explanation_is_stale(found: list[Verdict], explained: dict[str, Any]) -> None:
    differing = [item for item in found if bool(item.ours) != bool(item.theirs)]
    ours = {code for item in differing for code in item.ours}
    theirs = {code for item in differing for code in item.theirs}
    for item in explained["we_refuse"]:
        assert ours & set(item["codes"]), item
    for item in explained["we_accept"]:
        assert set(item["codes"]) <= theirs, set(item["codes"]) - theirs
    assert set(explained["files"]) <= {item.name for item in differing}


def test_nobody_crashed(found: list[Verdict]) -> None:
    assert len(found) > 200
    assert not [item for item in found if "E0002" in item.theirs and not item.ours], "cfn-lint failed on a file"
