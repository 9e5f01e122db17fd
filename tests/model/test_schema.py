"""The JSON Schema and the reference page are made from the description, and are current."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from pcloud.model.schema import manifest_schema, reference_tables

ROOT = Path(__file__).parents[2]


def test_schema_and_page_are_current() -> None:
    done = subprocess.run([ROOT / "tools" / "manifest-docs", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


def test_valid_manifests_pass() -> None:
    for file in (ROOT / "demo").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(file.read_text()), manifest_schema())
    page = (ROOT / "docs" / "manifest.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    jsonschema.validate(yaml.safe_load(example), manifest_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"assembly": {}},
        {"deployable": "Not A Name"},
        {"assemblies": {"web": {"agent": "nagios"}}},
        {"assemblies": {"web": {"resources": {"x": {"escalation": {"failures": 0}}}}}},
    ],
)
def test_wrong_ones_do_not(change: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"deployable": "shop", **change}, manifest_schema())


def test_every_key_has_a_meaning() -> None:
    assert "|  |\n" not in reference_tables()
