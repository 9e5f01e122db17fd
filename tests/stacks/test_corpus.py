"""Every template of the corpus is parsed and planned, or refused with the reason that docs/stacks-corpus.md gives."""

from __future__ import annotations

import collections

import pytest

from tests.stacks.corpus import PAGE, Outcome, corpus, outcomes, page_with


@pytest.fixture(scope="module")
def found() -> list[Outcome]:
    folder = corpus()
    if folder is None:
        pytest.skip("there are no templates: PCLOUD_CORPORA does not name a folder with heat-templates")
    return list(outcomes(folder))


def test_the_table_says_what_becomes_of_each_template(found: list[Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    counts = collections.Counter(item.result for item in found)
    with capsys.disabled():
        print(f"\ncorpus: {len(found)} files: {dict(counts)}")
    assert page_with(PAGE.read_text(), found) == PAGE.read_text(), "run tools/corpus-table and read what changed"


def test_every_refusal_has_a_reason(found: list[Outcome]) -> None:
    folder = corpus()
    assert folder is not None
    assert {item.name for item in found} == {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in {".yaml", ".yml", ".template", ".json"}
    }
    for item in found:
        assert item.result in {"planned", "refused", "no template"}
        assert (item.result == "planned") == (not item.reasons), item
        assert all(len(reason) > 20 for reason in item.reasons), item
    assert sum(item.result == "planned" for item in found) >= 30


def test_no_refusal_is_the_fault_of_the_values_given(found: list[Outcome]) -> None:
    assert not [item for item in found if any(reason.startswith("parameter ") for reason in item.reasons)]
