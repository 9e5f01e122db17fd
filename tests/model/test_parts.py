# ruff: noqa: E501 - tables read best with one row a line
"""Templates on every distribution, what changed between two deployables, the demo's two documents, times in XML."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from pcloud.model.change import changes
from pcloud.model.deployable import Deployable, Escalation
from pcloud.model.errors import InvalidDocument, NotFound
from pcloud.model.manifest import checked, read_manifest, write_manifest
from pcloud.model.names import AGENT_TYPE, PACKAGE, PROCESS, RESOURCE_CLASSES, matches
from pcloud.model.templates import default_catalogue, load_catalogue
from pcloud.model.xml import read_xml, write_xml
from tests.manifests import SHOP
from tests.model.original import ORIGINAL

ROOT = Path(__file__).parents[2]
CATALOGUE = default_catalogue()


@pytest.mark.parametrize("distribution", sorted(CATALOGUE.distributions))
@pytest.mark.parametrize("template", sorted(CATALOGUE.templates))
def test_every_template_resolves_on_every_distribution(template: str, distribution: str) -> None:
    resolved = CATALOGUE.resolve(template, distribution)
    assert resolved.resource_class in RESOURCE_CLASSES
    assert matches(AGENT_TYPE, resolved.type)
    assert bool(resolved.provider) == (resolved.resource_class == "ocf")
    assert all(matches(PACKAGE, name) for name in resolved.packages)
    assert all(matches(PROCESS, name) for name in resolved.processes)
    assert resolved.packages or resolved.provider == "pcloud"
    text = f"{{deployable: a, assemblies: {{w: {{image: {distribution}, resources: {{r: {template}}}}}}}}}"
    assert read_manifest(text).assembly("w").resource("r").type == resolved.type


def test_an_alias_means_the_same() -> None:
    assert CATALOGUE.templates["mariadb"] is CATALOGUE.templates["mysqld"]
    assert CATALOGUE.resolve("apache2", "debian-12") == CATALOGUE.resolve("httpd", "bookworm")
    assert CATALOGUE.resolve("postgres", "trixie").type == "postgresql@17-main"


def test_a_template_that_is_not_for_an_image_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "resource_templates"
    folder.mkdir()
    (folder / "own.yaml").write_text("families:\n  redhat: {class: systemd, type: own}\n")
    (tmp_path / "distributions.yaml").write_text("rocky: {id: rocky, version: '9', family: redhat}\n")
    catalogue = load_catalogue(tmp_path)
    assert catalogue.resolve("own", "rocky").type == "own"
    for image, code in (("bookworm", "TEMPLATE_NOT_FOR_DISTRIBUTION"), ("", "UNKNOWN_DISTRIBUTION")):
        with pytest.raises(NotFound) as caught:
            catalogue.resolve("own", image)
        assert caught.value.code == code
    with pytest.raises(NotFound) as caught:
        catalogue.resolve("onw", "rocky")
    assert "did you mean 'own'?" in str(caught.value)


def test_a_bad_template_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "resource_templates"
    folder.mkdir()
    (folder / "own.yaml").write_text("description: x\nfamilys: {}\n")
    with pytest.raises(InvalidDocument) as caught:
        load_catalogue(tmp_path)
    assert {(p.code, p.line, Path(p.file).name) for p in caught.value.problems} == {
        ("UNKNOWN_KEY", 2, "own.yaml"),
        ("MISSING_KEY", 1, "own.yaml"),
    }


def test_the_demo_is_the_same_in_both_forms() -> None:
    by_yaml = read_manifest((ROOT / "demo/wordpress.yaml").read_bytes())
    by_xml = read_xml((ROOT / "demo/wordpress.xml").read_bytes())
    assert by_yaml == by_xml
    assert changes(by_yaml, by_xml) == ()
    assert read_xml(write_xml(by_yaml)) == read_manifest(write_manifest(by_xml)) == by_yaml


def test_times_in_xml_are_seconds() -> None:
    text = ORIGINAL.replace(
        b'monitor_interval="10"',
        b'monitor_interval="7.5" monitor_start_delay="2m" start_timeout="90" stop_timeout="1m30s"',
    )
    httpd = read_xml(text, images_required=False).assembly("web").resource("httpd")
    assert (httpd.monitor_interval, httpd.start_timeout, httpd.stop_timeout) == (7.5, 90.0, 90.0)
    assert httpd.monitor_start_delay == 120.0
    text = ORIGINAL.replace(b'escalation_failures="3" escalation_period="10"', b'escalation_period="600"')
    assert read_xml(text, images_required=False).assembly("web").escalation == Escalation(failures=3, period=600.0)


_CHANGES = [
    ("nothing", "", "", ()),
    ("order of keys", "monitor: 10s}", "monitor: 10000ms}", ()),
    ("interval", "        monitor: 10s", "        monitor: 11s", ("assemblies.web.resources.httpd.monitor_interval changed",)),
    ("parameter", "db.ipaddress", "db.hostname", ("assemblies.web.resources.httpd.parameters.db_host changed",)),
    ("parameter's name", "{db_host:", "{host:", ("assemblies.web.resources.httpd.parameters.host added", "assemblies.web.resources.httpd.parameters.db_host removed")),
    ("file", '"shop\\n"', '"sold\\n"', ("assemblies.web.files./var/www/html/index.html changed",)),
    ("another file", "      /var", "      /srv/x: y\n      /var", ("assemblies.web.files./srv/x added",)),
    ("packages", "[apache2]", "[apache2, php]", ("assemblies.web.packages changed",)),
    ("order", "    after: [db]\n", "", ("assemblies.web.after.db removed",)),
    ("escalation", "period: 600s", "period: 601s", ("assemblies.web.escalation changed",)),
    ("deployable", "infrastructure: lxc", "infrastructure: lxc\npriority: 5", ("priority changed",)),
    ("assembly", "deployable: shop", "deployable: shop", ()),
    ("guest", "assemblies:\n", "assemblies:\n  new: {image: noble}\n", ("assemblies.new added",)),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), [row[1:] for row in _CHANGES], ids=[row[0] for row in _CHANGES])
def test_changes_name_what_is_different(old: str, new: str, expected: tuple[str, ...]) -> None:
    assert old in SHOP
    assert changes(read_manifest(SHOP), read_manifest(SHOP.replace(old, new, 1) if old else SHOP)) == expected


def test_changes_from_nothing_and_of_what_is_gone() -> None:
    shop = read_manifest(SHOP)
    assert changes(None, shop) == ("assemblies.db added", "assemblies.web added")
    only_db = msgspec.structs.replace(shop, assemblies=shop.assemblies[:1])
    assert changes(shop, only_db) == ("assemblies.web removed",)
    turned = msgspec.structs.replace(shop, assemblies=shop.assemblies[::-1])
    assert changes(shop, turned) == ("assemblies reordered",)


def test_changes_show_no_secret() -> None:
    old, new = (SHOP.replace("{reference: db.ipaddress}", f"{{value: {v}, secret: true}}") for v in ("one1", "two2"))
    told = changes(read_manifest(old), read_manifest(new))
    assert told == ("assemblies.web.resources.httpd.parameters.db_host changed",)


def test_what_is_built_by_hand_is_checked_as_a_manifest_is() -> None:
    shop = read_manifest(SHOP)
    assert checked(shop) == shop
    with pytest.raises(InvalidDocument) as caught:
        checked(Deployable(name="../x"))
    assert caught.value.code == "INVALID_NAME"


def test_a_written_manifest_is_read_by_other_yaml_readers() -> None:
    assert yaml.safe_load(write_manifest(read_manifest(SHOP))) == {
        "deployable": "shop",
        "infrastructure": "lxc",
        "assemblies": {
            "db": {
                "image": "bookworm",
                "packages": ["mariadb-server"],
                "resources": {"mysqld": {"template": "mysqld"}},
            },
            "web": {
                "image": "bookworm",
                "after": ["db"],
                "packages": ["apache2"],
                "files": {"/var/www/html/index.html": "shop\n"},
                "resources": {
                    "httpd": {
                        "template": "httpd",
                        "parameters": {"db_host": {"reference": "db.ipaddress"}},
                        "escalation": {"failures": 3, "period": "1m"},
                    }
                },
            },
        },
    }


@pytest.mark.parametrize("how", ["monitor: none\nassemblies: {web: {image: bookworm, RESOURCES}}",
                                 "assemblies: {web: {image: bookworm, transport: none, RESOURCES}}"])  # fmt: skip
def test_nothing_can_run_where_nobody_comes(how):
    text = f"deployable: shop\n{how}\n"
    deployable = read_manifest(text.replace(", RESOURCES", ""))
    assert deployable.assemblies[0].transport == "none"
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(text.replace("RESOURCES", "resources: {httpd: {template: httpd}}"))
    assert [(problem.code, problem.path) for problem in caught.value.problems] == [
        ("CONFLICTING_KEYS", "assemblies.web.transport")
    ]
