# ruff: noqa: E501 - tables read best with one row a line
"""Documents that are made to hurt: each is refused, quickly, without an error of any other kind and without much memory."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import pytest

from pcloud.model.deployable import Deployable
from pcloud.model.errors import InvalidDocument
from pcloud.model.manifest import read_json, read_manifest
from pcloud.model.problems import MAX_PROBLEMS
from pcloud.model.xml import read_xml

HEAD = "deployable: a\nassemblies:\n  w:\n    image: bookworm\n"
Read = Callable[[str], Deployable]


def codes(read: Read, text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        read(text)
    return [problem.code for problem in caught.value.problems]


@pytest.mark.parametrize("number", ["1e999", "1e300", "-1e999", "999999999999999999"])
def test_a_number_beyond_all_bounds_is_out_of_range(number: str) -> None:
    assert codes(read_manifest, f"{HEAD}    resources: {{r: {{template: httpd, monitor: {number}}}}}") == [
        "OUT_OF_RANGE"
    ]
    assert codes(read_manifest, f"{HEAD}    cpus: {number}") == ["OUT_OF_RANGE"]
    assert codes(read_xml, f'<deployable name="a" escalation_period="{number}"/>') == ["OUT_OF_RANGE"]
    assert codes(read_json, f'{{"deployable": "a", "escalation": {{"period": {number}}}}}') == ["OUT_OF_RANGE"]


def test_aliases_do_not_multiply_a_large_text() -> None:
    text = f"x-t: &t '{'y' * 500_000}'\n{HEAD}    files: {{{', '.join(f'/f{i}: *t' for i in range(900))}}}\n"
    assert codes(read_manifest, text) == ["DOCUMENT_TOO_COMPLEX"]


def test_a_large_text_may_be_named_a_few_times() -> None:
    text = f"x-t: &t '{'y' * 500_000}'\n{HEAD}    files: {{/a: *t, /b: *t}}\n"
    assert [len(content) for _, content in read_manifest(text).assembly("w").files] == [500_000, 500_000]


def test_merges_of_merges_are_counted() -> None:
    levels = "".join(f"x-{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 50)}]\n" for n in range(1, 6))
    text = "x-0: &m0 {" + ", ".join(f"k{n}: 1" for n in range(50)) + "}\n" + levels + HEAD
    assert codes(read_manifest, text) == ["DOCUMENT_TOO_COMPLEX"]


def test_of_fifty_thousand_wrong_references_few_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each near word costs half a millisecond to find; only those of problems that are shown are looked for."""
    known = "".join(f"  a{n}x: {{image: bookworm}}\n" for n in range(600))
    wrong = "".join(
        f"  z{n}: {{image: bookworm, after: [{','.join(f'q{n}-{i}b' for i in range(900))}]}}\n" for n in range(60)
    )
    looked = 0
    usual = difflib.get_close_matches

    def counting(*words: Any, **options: Any) -> list[str]:
        nonlocal looked
        looked += 1
        return usual(*words, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    found = codes(read_manifest, f"deployable: a\nassemblies:\n{known}{wrong}")
    assert found == ["UNKNOWN_ASSEMBLY"] * MAX_PROBLEMS + ["TOO_MANY_PROBLEMS"]
    assert looked <= MAX_PROBLEMS


def test_thousands_of_unknown_keys_are_counted_not_listed() -> None:
    found = codes(read_manifest, "deployable: a\n" + "".join(f"key{n}: 1\n" for n in range(20_000)))
    assert found == ["UNKNOWN_KEY"] * MAX_PROBLEMS + ["TOO_MANY_PROBLEMS"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'<deployable name="a">&foo;</deployable>', "SYNTAX"),
        (b'<deployable name="&foo;"/>', "SYNTAX"),
        ('<deployable name="a"/>'.encode("utf-16"), "NOT_UTF8"),
        (b'<deployable name="a" name="b"/>', "SYNTAX"),
        (b'<d:deployable xmlns:d="urn:x" name="a"/>', "WRONG_ROOT"),
        (b'<deployable name="a"><xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/x"/></deployable>', "UNKNOWN_KEY"),
        (b"<?xml version='1.0'?>\n<!-- \n -->\n<!doctype d>\n<deployable/>", "DOCTYPE_REFUSED"),
    ],
)  # fmt: skip
def test_xml_brings_in_nothing_from_elsewhere(data: bytes, code: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_xml(data)
    assert caught.value.code == code


def test_a_cycle_is_told_the_same_way_each_time() -> None:
    names = [f"n{n}" for n in range(20)]
    text = "deployable: a\nassemblies:\n" + "".join(
        f"  {name}: {{image: bookworm, after: [{names[n - 1]}]}}\n" for n, name in enumerate(names)
    )
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(text)
    (problem,) = caught.value.problems
    assert (problem.code, problem.line) == ("DEPENDENCY_CYCLE", 3)
    assert "n0 → n1 → n2" in problem.message
