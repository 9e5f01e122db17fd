"""Documents: bad ones apply nothing; the demo's XML and YAML are the same deployable and the same decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcloud.model.manifest import read_manifest
from pcloud.model.xml import read_xml
from pcloud.policy.cib import render
from pcloud.policy.state import Memory, initial
from tests.e2e.stage import ROOT, SHOP, Stage

BAD = """\
deployable: bad
infrastructure: lxc
assemblies:
  web:
    image: bookworm
    after: [nobody]
    resources:
      httpd: {template: nothing}
"""


def test_the_demo_decides_the_same_from_xml_and_yaml() -> None:
    by_yaml = read_manifest((ROOT / "demo/wordpress.yaml").read_bytes())
    by_xml = read_xml((ROOT / "demo/wordpress.xml").read_bytes())
    assert by_xml == by_yaml
    cibs = {render(initial(each, Memory()), 1000.0) for each in (by_yaml, by_xml)}
    assert len(cibs) == 1
    assert b"rsc_wordpress_httpd" in cibs.pop()


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_a_bad_manifest_applies_nothing(stage: Stage) -> None:
    path = stage.write("bad.yaml", BAD)
    done = stage.run("apply", "-f", path, "--wait")
    assert done.returncode == 1
    assert f"{path}:6:13: assemblies.web.after.nobody" in done.stderr
    assert f"{path}:8:25: assemblies.web.resources.httpd.template" in done.stderr
    assert "bad" not in [each["name"] for each in stage.json("get")]


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_the_same_in_xml_changes_nothing_of_what_runs(shop: Stage, tmp_path: Path) -> None:
    before = shop.processes()
    document = shop.pcloud("manifest", "shop", "--format", "xml")
    assert "<deployable" in document
    path = shop.write("shop.xml", document)
    assert "unchanged" in shop.pcloud("apply", "-f", path, "--wait")
    assert shop.processes() == before
    assert read_xml(document.encode()) == read_manifest(SHOP.encode())
