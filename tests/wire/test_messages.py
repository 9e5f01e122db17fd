"""Messages: round trips, and XML that must be refused."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcloud.wire import messages as m

# Surrogates have no UTF-8 form, and XML has no control characters: those are replaced, tested apart.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40).filter(
    lambda text: not set(text) & {"\ufffe", "\uffff"}
)
names = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
elements = st.recursive(
    st.builds(m.Element, names, st.dictionaries(names, texts, max_size=4)),
    lambda inner: st.builds(
        lambda tag, attributes, children: m.Element(tag, attributes, *children),
        names,
        st.dictionaries(names, texts, max_size=4),
        st.lists(inner, max_size=3),
    ),
    max_leaves=10,
)


def same(one: m.Element, other: m.Element) -> bool:
    return (
        (one.tag, one.attributes) == (other.tag, other.attributes)
        and len(one.children) == len(other.children)
        and all(same(a, b) for a, b in zip(one.children, other.children, strict=True))
    )


@given(elements)
def test_what_is_written_is_read(element):
    assert same(m.parse(element.to_bytes()), element)


@given(st.text(max_size=60))
def test_any_text_in_an_attribute_gives_acceptable_xml(text):
    read = m.parse(m.Element("a", {"b": text}).to_bytes()).get("b")
    assert len(read) == len(text)
    assert all(x == y or y in "\ufffd?" for x, y in zip(text, read, strict=True))


def test_line_breaks_and_tabs_survive():
    text = "a\tb\nc\r\nd  e"
    assert m.parse(m.Element("a", {"b": text}).to_bytes()).get("b") == text


@given(st.dictionaries(st.text(min_size=1, max_size=12).filter(lambda name: "\0" not in name), texts, max_size=5))
def test_parameters_of_any_name_travel(parameters):
    parameters = {
        name: value
        for name, value in parameters.items()
        if m.parse(m.Element("a", {"b": name}).to_bytes()).get("b") == name
    }
    parent = m.Element("lrmd_rsc", {}, m.attributes_element(parameters))
    assert m.read_attributes(m.parse(parent.to_bytes())) == parameters


BAD = [
    b"",
    b"hello",
    b"<a",
    b"<a></b>",
    b"<a/><b/>",
    b"<a b='1' b='2'/>",
    b"<a>\xff\xfe</a>",
    b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
    b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]><l>&c;</l>',
    b"<?php system('x') ?><a/>",
    b"<a>&undefined;</a>",
    b"<a>" * 1000 + b"</a>" * 1000,
    b"<a>" + b"<b/>" * (m.MAX_ELEMENTS + 1) + b"</a>",
    b'<?xml version="1.0" encoding="nonsense"?><a/>' + b"\xff",
]


@pytest.mark.parametrize("payload", BAD, ids=range(len(BAD)))
def test_bad_xml_is_refused(payload):
    with pytest.raises(m.MessageError):
        m.parse(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        m.parse(data)
    except m.MessageError:
        pass


def test_numbers():
    element = m.Element("a", {"x": "12", "y": "-3", "z": "12x", "long": "9" * 5000, "unicode": "\u0661\u0662"})
    assert [element.number(name, -1) for name in ("x", "y", "z", "none", "long")] == [12, -3, -1, -1, -1]
