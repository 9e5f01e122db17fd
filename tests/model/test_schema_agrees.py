# ruff: noqa: E501 - tables read best with one row a line
"""The JSON Schema and the reference pages say what the reader does."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pcloud.model import xml
from pcloud.model.assemble import ASSEMBLY_ESCALATION, DEPLOYABLE_ESCALATION, RESOURCE_ESCALATION
from pcloud.model.deployable import Assembly, Dependency, Deployable, FileAttributes, Parameter, ServiceDependency
from pcloud.model.description import (
    ASSEMBLY,
    ASSEMBLY_TIMEOUTS,
    CONSTRAINT,
    DEPENDENCY,
    DEPLOYABLE,
    FILE,
    MONITOR,
    PARAMETER,
    RESOURCE,
    RESOURCE_TIMEOUTS,
    TABLES,
)
from pcloud.model.document import parse_yaml
from pcloud.model.errors import InvalidDocument
from pcloud.model.manifest import read_json, read_manifest, write_json
from pcloud.model.problems import Problems
from pcloud.model.schema import manifest_schema
from pcloud.model.shapes import Key, Table
from pcloud.model.templates import ResolvedTemplate
from tests.manifests import SHOP
from tests.model.strategies import deployables

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(manifest_schema())
KEYS = [(table, key) for table in TABLES for key in table.keys.values()]
IDS = [f"{table.identifier}.{key.name}" for table, key in KEYS]


def schema_accepts(document: Any) -> bool:
    return not list(VALIDATOR.iter_errors(document))


def value_of(key: Key, text: str) -> Any:
    """What the reader makes of a text at a key."""
    problems = Problems()
    value = key.kind.read(parse_yaml(text, problems), key.name, problems)
    problems.raise_if_any()
    return value


@settings(max_examples=60, deadline=None)
@given(deployables())
def test_the_schema_accepts_whatever_is_written(deployable: Deployable) -> None:
    assert list(VALIDATOR.iter_errors(json.loads(write_json(deployable)))) == []


@pytest.mark.parametrize("text", [SHOP, (ROOT / "demo/wordpress.yaml").read_text()], ids=["shop", "wordpress"])
def test_the_schema_accepts_what_people_type(text: str) -> None:
    assert schema_accepts(yaml.safe_load(text))


@pytest.mark.parametrize(("table", "key"), KEYS, ids=IDS)
def test_every_key_has_a_meaning_and_an_example_that_is_good(table: Table, key: Key) -> None:
    assert key.meaning.endswith(".")
    value_of(key, key.example)
    if table is DEPLOYABLE:
        assert schema_accepts({"deployable": "a", key.name: yaml.safe_load(key.example)})
    schema = {**manifest_schema()["$defs"], "deployable": DEPLOYABLE.definition()}[table.identifier]
    properties = {**schema["properties"][key.name], "$defs": manifest_schema()["$defs"]}
    if "$ref" in properties:
        properties = {"allOf": [{"$ref": properties["$ref"]}], "$defs": properties["$defs"]}
    jsonschema.Draft202012Validator(properties).validate(yaml.safe_load(key.example))


def default(table: Table, name: str) -> Any:
    """The default that the reference page shows, read."""
    key = table.keys[name]
    shown = re.search(r"`([^`]*)`$", key.default)
    assert shown, key.default
    return value_of(key, shown[1])


def test_the_defaults_that_are_shown_are_those_of_the_structs() -> None:
    deployable, assembly, plain = Deployable(name="a"), Assembly(name="a"), ResolvedTemplate()
    for name in ("infrastructure", "monitor", "priority", "isolation"):
        assert default(DEPLOYABLE, name) == getattr(deployable, name), name
    for name in ("arch", "agent"):
        assert default(ASSEMBLY, name) == getattr(assembly, name), name
    for table, escalation in (
        (DEPLOYABLE, DEPLOYABLE_ESCALATION),
        (ASSEMBLY, ASSEMBLY_ESCALATION),
        (RESOURCE, RESOURCE_ESCALATION),
    ):
        shown = default(table, "escalation")
        assert shown == {"failures": escalation.failures, "period": escalation.period}
    assert deployable.escalation == DEPLOYABLE_ESCALATION
    assert assembly.escalation == ASSEMBLY_ESCALATION
    for name in ("start", "stop"):
        assert default(ASSEMBLY_TIMEOUTS, name) == getattr(assembly, f"{name}_timeout")
        assert default(RESOURCE_TIMEOUTS, name) == getattr(plain, f"{name}_timeout")
    assert default(RESOURCE_TIMEOUTS, "monitor") == default(MONITOR, "timeout") == plain.monitor_timeout
    assert default(MONITOR, "interval") == plain.monitor_interval
    assert default(MONITOR, "start_delay") == plain.monitor_start_delay
    assert default(RESOURCE, "monitor") == {"interval": plain.monitor_interval}
    assert default(FILE, "mode") == FileAttributes(path="/a").mode
    assert default(FILE, "owner") == FileAttributes(path="/a").owner
    assert default(PARAMETER, "secret") is Parameter(name="a", value="").secret
    assert default(DEPENDENCY, "restart") is Dependency(assembly="a").restart
    assert default(CONSTRAINT, "restart") is ServiceDependency(id="a", first="a.b", then="a.c").restart


_FORM: list[tuple[str, dict[str, Any]]] = [
    ("unknown key", {"infrastrukture": "lxc"}),
    ("name", {"deployable": "../x"}),
    ("type", {"priority": "high"}),
    ("range", {"priority": 1001}),
    ("word", {"monitor": "xm"}),
    ("list", {"assemblies": []}),
    ("key of a mapping", {"assemblies": {"Web": {"image": "noble"}}}),
    ("null", {"assemblies": {"web": None}}),
    ("path", {"assemblies": {"web": {"image": "noble", "files": {"/../x": ""}}}}),
    ("mode", {"assemblies": {"web": {"image": "noble", "files": {"/x": {"mode": "0999"}}}}}),
    ("duration", {"escalation": {"period": "10x"}}),
    ("size", {"assemblies": {"web": {"image": "noble", "memory": "lots"}}}),
    ("package", {"assemblies": {"web": {"image": "noble", "packages": ["-x"]}}}),
    ("empty command", {"assemblies": {"web": {"image": "noble", "commands": [[]]}}}),
    ("resource", {"assemblies": {"web": {"image": "noble", "resources": {"r": 7}}}}),
    ("dependency", {"assemblies": {"db": {"image": "noble"}, "web": {"image": "noble", "after": {"db": 1}}}}),
    ("reference", {"constraints": [{"first": "a", "then": "b.c"}]}),
    ("missing", {"constraints": [{"first": "a.b"}]}),
]


@pytest.mark.parametrize("change", [row[1] for row in _FORM], ids=[row[0] for row in _FORM])
def test_schema_and_reader_refuse_the_same_forms(change: dict[str, Any]) -> None:
    document = {"deployable": "a", **change}
    assert not schema_accepts(document)
    with pytest.raises(InvalidDocument):
        read_json(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        {"x-anything": {"of": ["any", "form"]}},
        {"escalation": {"period": " 1h30m "}},
        {"escalation": {"period": 0.5e3}},
        {"assemblies": {"web": {"image": "noble", "memory": 512, "files": {"/x": {"mode": 644}, "/y": {"mode": "0o600"}}}}},
        {"assemblies": {"web": {"image": "noble", "memory": "1 GiB", "resources": {"r": "httpd"}}}},
        {"assemblies": {"db": {"image": "noble"}, "web": {"image": "noble", "after": {"db": None}}}},
        {"assemblies": {"web": {"image": "noble", "commands": ["a | b", ["c"]]}}},
    ],
)  # fmt: skip
def test_schema_and_reader_accept_the_same_forms(change: dict[str, Any]) -> None:
    document = {"deployable": "a", **change}
    assert schema_accepts(document)
    read_json(json.dumps(document))


_WHOLE: dict[str, Any] = {"deployable": "a", "assemblies": {"web": {"image": "noble", "resources": {"r": {"template": "httpd"}}}, "db": {"image": "noble"}}, "constraints": []}  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 5, 644, 0.5, 60.0, 1e3, 1e999, "", "web", "db", "noble", "httpd", "1", "10s", " 5m ", "1h30m", "512M", "1 GiB", " 16 ", "0644", "0o600", "true", "db.ipaddress", "pm", "ssh", "/a"]),
    st.just({}), st.just([]), st.just(["a"]), st.just([["a", "b"]]), st.just({"db": None}), st.just({"db": {"restart": False}}),
    st.just({"interval": 5, "timeout": "3s"}), st.just({"/a": "x", "/b": {"mode": 600}}), st.just({"p": 1, "q": {"value": True, "secret": True}}),
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_what_the_reader_accepts_the_schema_accepts(data: st.DataObject) -> None:
    document = copy.deepcopy(_WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        places = [
            (document, DEPLOYABLE),
            (document["assemblies"]["web"], ASSEMBLY),
            (document["assemblies"]["web"]["resources"]["r"], RESOURCE),
        ]
        target, table = data.draw(st.sampled_from(places))
        keys = [key for key in table.keys if key not in ("assemblies", "resources")]
        target[data.draw(st.sampled_from(keys))] = data.draw(_VALUES)
    text = json.dumps(document).replace("Infinity", "1e999")
    try:
        read_json(text)
    except InvalidDocument:
        return
    assert list(VALIDATOR.iter_errors(json.loads(text))) == []


def examples(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_pages_are_good() -> None:
    assert examples("manifest.md", "yaml")[0] == SHOP
    page = (ROOT / "docs/xml.md").read_text()
    shop = xml.read_xml("".join(re.findall(r"^    ( *<.*\n)", page, re.MULTILINE)), images_required=False)
    assert [(one.first, one.then) for one in shop.constraints] == [("db.mysqld", "web.httpd")]
    assert shop.assembly("web").resource("httpd").configure == ("/usr/local/sbin/configure-web",)


def test_the_page_shows_a_problem_as_it_is_told() -> None:
    text = (ROOT / "docs/manifest.md").read_text()
    wrong = SHOP.replace("        monitor: 10s", "        monitr: 10s")
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(wrong, file="shop.yaml")
    assert "".join(f"    {line}\n" for line in str(caught.value).splitlines()) in text


def test_the_page_names_every_code_of_the_room() -> None:
    text = (ROOT / "docs/manifest.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "src/pcloud/model").glob("*.py"))
    used = set(re.findall(r"(?:add|stop|Problem)\(\s*(?:code=)?\"([A-Z0-9_]{4,})\"", sources))
    used |= set(re.findall(r"code(?:: str)?\s*=\s*\"([A-Z0-9_]{4,})\"", sources))
    assert len(used) > 25
    assert {code for code in used if f"`{code}`" not in text} <= {"UNREADABLE_FILE"}  # of templates' files only


def test_xml_has_no_attribute_that_a_manifest_has_no_key_for() -> None:
    for attributes, table in (
        (xml.DEPLOYABLE_ATTRIBUTES, DEPLOYABLE),
        (xml.ASSEMBLY_ATTRIBUTES, ASSEMBLY),
        (xml.SERVICE_ATTRIBUTES, RESOURCE),
        (xml.CONSTRAINT_ATTRIBUTES, CONSTRAINT),
    ):
        assert {path[0] for path in attributes.values()} <= set(table.keys)
