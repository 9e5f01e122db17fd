# ruff: noqa: E501 - tables read best with one row a line
"""Reading and writing of manifests and XML: what is accepted, round trips, refusals with code and line."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcloud.model.deployable import Dependency, Deployable, Escalation, Parameter, Reference, ServiceDependency
from pcloud.model.errors import InvalidDocument
from pcloud.model.manifest import read_json, read_manifest, write_json, write_manifest
from pcloud.model.xml import read_xml, write_xml
from tests.manifests import SHOP
from tests.model.original import ORIGINAL, read_original
from tests.model.strategies import deployables


def test_the_manifest_of_the_documentation() -> None:
    shop = read_manifest(SHOP)
    web = shop.assembly("web")
    assert web.after == (Dependency(assembly="db"),)
    assert web.files == (("/var/www/html/index.html", "shop\n"),)
    httpd = web.resource("httpd")
    assert (httpd.resource_class, httpd.type, httpd.monitor_interval) == ("systemd", "apache2", 10.0)
    assert httpd.parameters == (Parameter(name="db_host", value=Reference(assembly="db", attribute="ipaddress")),)
    assert httpd.escalation == Escalation(failures=3, period=60.0)
    assert read_xml(write_xml(shop)) == shop


@pytest.mark.parametrize("element", ["service_dependancy", "service_dependency"])
def test_a_document_of_the_original_is_read(element: str) -> None:
    shop = read_original(ORIGINAL.replace(b"service_dependancy", element.encode()))
    httpd = shop.assembly("web").resource("httpd")
    assert (httpd.resource_class, httpd.provider, httpd.type) == ("lsb", "", "httpd")
    assert httpd.configure == ("/usr/bin/configure",)
    assert httpd.parameters[1].value == "80 <&"
    assert shop.assembly("web").escalation == Escalation(failures=3, period=10.0)
    assert shop.constraints == (ServiceDependency(id="depend_1", first="web.crond", then="web.httpd"),)


def test_an_assembly_without_image_is_refused_where_images_are_made_here() -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_xml(ORIGINAL)
    assert [(p.code, p.line) for p in caught.value.problems] == [("MISSING_IMAGE", 3)]


def test_secrets_are_kept_in_the_document_and_hidden_when_redacted() -> None:
    shop = read_manifest(SHOP.replace("{reference: db.ipaddress}", "{value: s3cret, secret: true}"))
    for write, read in ((write_manifest, read_manifest), (write_json, read_json), (write_xml, read_xml)):
        assert read(write(shop)) == shop  # type: ignore[operator]
        hidden = write(shop, redacted=True)  # type: ignore[operator]
        assert "s3cret" not in (hidden.decode() if isinstance(hidden, bytes) else hidden)


@settings(max_examples=150, deadline=None)
@given(deployables())
def test_every_form_reads_back_what_was_written(deployable: Deployable) -> None:
    assert read_manifest(write_manifest(deployable)) == deployable
    assert read_json(write_json(deployable)) == deployable
    assert read_xml(write_xml(deployable)) == deployable


def _swap(old: str, new: str) -> str:
    assert old in SHOP
    return SHOP.replace(old, new)


_BOMB = "x-a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"x-{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
)

BAD = [
    ("empty", "", "EMPTY_DOCUMENT", 0),
    ("only a comment", "# nothing\n", "EMPTY_DOCUMENT", 0),
    ("a list", "[1, 2]", "WRONG_TYPE", 1),
    ("no name", "assemblies: {}", "MISSING_KEY", 1),
    ("syntax", "deployable: [", "SYNTAX", 2),
    ("tab", "deployable: a\n\tassemblies: {}", "SYNTAX", 2),
    ("two documents", "deployable: a\n---\ndeployable: b\n", "SEVERAL_DOCUMENTS", 2),
    ("NUL", "deployable: a\x00b", "NUL_CHARACTER", 1),
    ("escaped NUL", 'deployable: "a\\0b"', "NUL_CHARACTER", 1),
    ("control character", "deployable: a\nusername: b\x07", "CONTROL_CHARACTER", 2),
    ("50 MB", "a" * 50_000_000, "DOCUMENT_TOO_LARGE", 0),
    ("deep", "deployable: " + "[" * 100_000, "DOCUMENT_TOO_DEEP", 1),
    ("alias bomb", _BOMB + SHOP, "DOCUMENT_TOO_COMPLEX", 5),
    ("alias in itself", "x-a: &a [*a]\n" + SHOP, "RECURSIVE_ALIAS", 1),
    ("unknown alias", "deployable: *nowhere", "UNKNOWN_ALIAS", 1),
    ("python object", "deployable: !!python/object/apply:os.system [x]", "UNKNOWN_TAG", 1),
    ("duplicate key", SHOP + "infrastructure: lxc\n", "DUPLICATE_KEY", 22),
    ("duplicate assembly", _swap("  web:", "  db:"), "DUPLICATE_KEY", 9),
    ("complex key", "? [a]\n: b", "INVALID_KEY", 1),
    ("unknown key", _swap("    packages: [apache2]", "    package: [apache2]"), "UNKNOWN_KEY", 12),
    ("path as a name", _swap("deployable: shop", "deployable: ../shop"), "INVALID_NAME", 1),
    ("path as an assembly", _swap("  web:", "  ../web:"), "INVALID_NAME", 9),
    ("upper case", _swap("  web:", "  Web:"), "INVALID_NAME", 9),
    ("trailing dash", _swap("deployable: shop", "deployable: shop-"), "INVALID_NAME", 1),
    ("long name", _swap("deployable: shop", f"deployable: {'a' * 64}"), "INVALID_NAME", 1),
    ("number as a name", _swap("deployable: shop", "deployable: 7"), "WRONG_TYPE", 1),
    ("path as a resource", _swap("      httpd:", "      ../httpd:"), "INVALID_NAME", 16),
    ("localhost", _swap("  web:", "  localhost:"), "RESERVED_NAME", 9),
    ("unknown reference", _swap("db.ipaddress", "dd.ipaddress"), "UNKNOWN_ASSEMBLY", 19),
    ("unknown attribute", _swap("db.ipaddress", "db.color"), "INVALID_REFERENCE", 19),
    ("parameter name", _swap("{db_host:", "{db-host:"), "INVALID_NAME", 19),
    ("executor's name", _swap("{db_host:", "{CRM_meta_x:"), "RESERVED_NAME", 19),
    ("empty parameter", _swap("{reference: db.ipaddress}", "{}"), "MISSING_KEY", 19),
    ("value and reference", _swap("{reference: db", "{value: a, reference: db"), "CONFLICTING_KEYS", 19),
    ("unknown dependency", _swap("after: [db]", "after: [dbx]"), "UNKNOWN_ASSEMBLY", 11),
    ("after itself", _swap("after: [db]", "after: [web]"), "SELF_REFERENCE", 11),
    ("cycle", _swap("    packages: [maria", "    after: [web]\n    packages: [maria"), "DEPENDENCY_CYCLE", 6),
    ("cycle of a constraint", SHOP + "constraints: [{first: web.httpd, then: db.mysqld}]", "DEPENDENCY_CYCLE", 22),
    ("unknown resource", SHOP + "constraints: [{first: web.httpd, then: db.x}]", "UNKNOWN_RESOURCE", 22),
    ("resource after unknown", _swap("        template: httpd", "        template: httpd\n        after: [x]"), "UNKNOWN_RESOURCE", 18),
    ("unknown template", _swap("template: httpd", "template: htpd"), "UNKNOWN_TEMPLATE", 17),
    ("unknown image", _swap("    image: bookworm\n    after", "    image: bookwrm\n    after"), "UNKNOWN_IMAGE", 10),
    ("no image", _swap("    image: bookworm\n    after", "    after"), "MISSING_IMAGE", 9),
    ("bad duration", _swap("period: 600s", "period: 10x"), "WRONG_TYPE", 21),
    ("zero failures", _swap("failures: 3, period: 600s", "failures: 0, period: 600s"), "OUT_OF_RANGE", 21),
    ("negative start delay", _swap("        monitor: 10s", "        monitor: {start_delay: -1}"), "OUT_OF_RANGE", 18),
    ("long start delay", _swap("        monitor: 10s", "        monitor: {start_delay: 61m}"), "OUT_OF_RANGE", 18),
    ("negative interval", _swap("        monitor: 10s", "        monitor: -1"), "OUT_OF_RANGE", 18),
    ("option as a package", _swap("[apache2]", "[-o=x]"), "INVALID_VALUE", 12),
    ("list as a package", _swap("[apache2]", "[[apache2]]"), "WRONG_TYPE", 12),
    ("text as a list", _swap("[apache2]", "apache2"), "WRONG_TYPE", 12),
    ("relative file", _swap("/var/www/html/index.html", "var/index.html"), "INVALID_PATH", 14),
    ("file with ..", _swap("/var/www/html/index.html", "/var/../etc/passwd"), "INVALID_PATH", 14),
    ("class without provider", _swap("template: httpd", "type: 'ocf:x'"), "MISSING_KEY", 16),
    ("type with a path", _swap("template: httpd", "type: 'ocf:a:../x'"), "INVALID_VALUE", 17),
    ("unknown class", _swap("template: httpd", "type: 'upstart:x'"), "UNKNOWN_WORD", 16),
    ("no agent", _swap("template: httpd\n        monitor: 10s", "monitor: 10s"), "MISSING_KEY", 16),
    ("unknown word", _swap("    image: bookworm\n    after", "    image: bookworm\n    agent: matahari\n    after"), "UNKNOWN_WORD", 11),
    ("memory", _swap("    image: bookworm\n    after", "    image: bookworm\n    memory: lots\n    after"), "WRONG_TYPE", 11),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "line"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_manifest_is_refused_with_code_and_line(text: str, code: str, line: int) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(text, file="shop.yaml")
    found = [(problem.code, problem.line) for problem in caught.value.problems]
    assert (code, line) in found
    assert len(found) == 1 or code in (
        "DUPLICATE_KEY",
        "INVALID_NAME",
        "RESERVED_NAME",
        "NUL_CHARACTER",
        "UNKNOWN_TAG",
    ), found
    assert all(problem.file == "shop.yaml" for problem in caught.value.problems)


def test_one_wrong_value_hides_no_other_problem() -> None:
    text = _swap("    image: bookworm\n    after", "    after").replace(
        "        monitor: 10s", "        monitor: {interval: x}"
    )
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(text)
    assert [(p.line, p.code) for p in caught.value.problems] == [(9, "MISSING_IMAGE"), (17, "WRONG_TYPE")]


def test_what_is_there_in_a_wrong_form_is_not_missing() -> None:
    for line in ("image: 7", "image: [bookworm]", "imag: bookworm"):
        with pytest.raises(InvalidDocument) as caught:
            read_manifest(_swap("    image: bookworm\n    after", f"    {line}\n    after"))
        assert [p.line for p in caught.value.problems] == [10]


def test_all_problems_come_at_once_in_order() -> None:
    text = _swap("after: [db]", "after: [dbx]").replace("monitor: 10s", "monitr: 10s").replace("db.ip", "dc.ip")
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(text)
    codes = [(p.line, p.code) for p in caught.value.problems]
    assert codes == [(8, "UNKNOWN_KEY"), (11, "UNKNOWN_ASSEMBLY"), (18, "UNKNOWN_KEY"), (19, "UNKNOWN_ASSEMBLY")]
    assert "did you mean 'monitor'?" in str(caught.value)


_ENTITIES = b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
BAD_XML = [
    ("empty", b"", "SYNTAX"),
    ("not closed", b"<deployable>", "SYNTAX"),
    ("entities", _ENTITIES + b'<deployable name="a" uuid="&b;"/>', "DOCTYPE_REFUSED"),
    ("external", b'<?xml version="1.0"?><!-- x --><!DOCTYPE d SYSTEM "file:///etc/passwd"><deployable/>', "DOCTYPE_REFUSED"),
    ("NUL", b'<deployable name="a\x00"/>', "NUL_CHARACTER"),
    ("not UTF-8", b'<deployable name="\xff"/>', "NOT_UTF8"),
    ("50 MB", b"<" * 50_000_000, "DOCUMENT_TOO_LARGE"),
    ("deep", b"<a>" * 100_000, "SYNTAX"),
    ("other root", b"<cib/>", "WRONG_ROOT"),
    ("no name", b"<deployable/>", "MISSING_KEY"),
    ("unknown element", ORIGINAL.replace(b"<constraints>", b"<x/><constraints>"), "UNKNOWN_KEY"),
    ("unknown attribute", ORIGINAL.replace(b'type="crond"', b'type="crond" typ="x"'), "UNKNOWN_KEY"),
    ("twice", ORIGINAL.replace(b'"crond" class', b'"httpd" class'), "DUPLICATE_NAME"),
    ("path", ORIGINAL.replace(b'name="web"', b'name="../web"'), "INVALID_NAME"),
    ("interval", ORIGINAL.replace(b'interval="10"', b'interval="x"'), "WRONG_TYPE"),
    ("reference", ORIGINAL.replace(b'reference assembly="web"', b'reference assembly="x"'), "UNKNOWN_ASSEMBLY"),
    ("order", ORIGINAL.replace(b'"rsc_web_crond"', b'"rsc_web_x"'), "UNKNOWN_RESOURCE"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BAD_XML], ids=[row[0] for row in BAD_XML])
def test_a_bad_xml_document_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_xml(data)
    assert code in [problem.code for problem in caught.value.problems]


_FORMS = [(SHOP, read_manifest), (write_json(read_manifest(SHOP)), read_json), (ORIGINAL.decode(), read_original)]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(_FORMS), st.data())
def test_a_mutilated_document_is_read_or_refused_and_nothing_else(form, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    text, read = form
    for _ in range(data.draw(st.integers(1, 3))):
        pieces = [match.span() for match in re.finditer(r"[\w.]+|[^\w\s]|\s+", text)]
        start, end = data.draw(st.sampled_from(pieces))
        other = data.draw(st.one_of(st.sampled_from(pieces).map(lambda s: text[s[0] : s[1]]), st.text(max_size=4), st.just("")))  # noqa: B023 # fmt: skip
        text = text[:start] + other + text[end:]
        if not text.strip():
            break
    try:
        read(text)
    except InvalidDocument as error:
        assert error.problems
