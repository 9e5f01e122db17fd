"""Every template of the corpus is parsed and planned, or refused with the reason that docs/stacks-corpus.md gives."""

from __future__ import annotations

import collections
import re
import tomllib

import msgspec
import pytest

from pcloud.cpe.settings import StackSettings
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


def test_names_of_other_clouds_can_be_given_a_meaning(found: list[Outcome]) -> None:
    """The example of docs/stacks-guests.md leaves no image and no size of the corpus unknown."""
    unknown = ("no image here is meant", "is no size that is known")
    folder = corpus()
    assert folder is not None
    page = PAGE.with_name("stacks-guests.md").read_text()
    (example,) = [part for part in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[stacks.images]" in part]
    settings = msgspec.convert(tomllib.loads(example)["stacks"], StackSettings)
    before = {item.name: item for item in found}
    named = [item.name for item in found if any(word in reason for reason in item.reasons for word in unknown)]
    assert named
    after = {item.name: item for item in outcomes(folder, settings)}
    for name in named:
        assert not [reason for reason in after[name].reasons if any(word in reason for word in unknown)]
    planned = {name for name, item in after.items() if item.result == "planned" and before[name].result == "refused"}
    assert "hot/native_waitcondition.yaml" in planned
