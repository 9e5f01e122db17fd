"""Our own types and a database guest: services of stacks monitored by the engine, for real."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack_stage import StackStage
from tests.e2e.stage import PATIENCE, ROOT, until

README = (ROOT / "README.md").read_text()
BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
STACKS = (ROOT / "docs/stacks.md").read_text()
pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def stage() -> Iterator[StackStage]:
    """A daemon of our own."""
    with StackStage.opened("o") as stage:
        yield stage


def document(interval: str) -> dict[str, Any]:
    """A web server as an assembly, cron in it as a resource of its own, a database, and a client's view of it."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "Web": {
                "Type": "PCloud::Assembly",
                "Properties": {
                    "image": "bookworm",
                    "packages": ["apache2", "cron", "mariadb-client"],
                    "resources": {"httpd": {"template": "httpd", "monitor": interval}},
                },
            },
            "Cron": {
                "Type": "PCloud::Resource",
                "Properties": {"assembly": {"Ref": "Web"}, "class": "systemd", "type": "cron", "monitor": "20s"},
            },
            "Data": {
                "Type": "AWS::RDS::DBInstance",
                "Properties": {
                    "Engine": "MySQL",
                    "DBInstanceClass": "db.m1.small",
                    "AllocatedStorage": "5",
                    "DBName": "shop",
                    "MasterUsername": "keeper",
                    "MasterUserPassword": "it's \\ a 'secret'",
                },
            },
        },
        "Outputs": {
            "Address": {"Value": {"Fn::GetAtt": ["Data", "Endpoint.Address"]}},
            "Web": {"Value": {"Fn::GetAtt": ["Web", "address"]}},
        },
    }


def test_own_types_and_a_database(stage: StackStage) -> None:
    """All are guests and services of one deployable; a change touches only what it says; a killed one comes back."""
    template = stage.write("own.template", json.dumps(document("10s")))
    stage.pcloud("stack", "create", "own", "-t", template, "--wait")
    places = stage.places("own")
    assert len({place.partition("/")[0] for place in places.values()}) == 1
    web, data = places["web"], places["data"]
    address = stage.outputs("own")["Address"]
    query = ["mariadb", "-h", address, "-u", "keeper", "--password=it's \\ a 'secret'", "-N", "-e", "show databases"]
    assert "shop" in stage.guest(web, *query).split()

    before = {name: stage.booted(place) for name, place in places.items()}
    theirs = web.partition("/")[0]
    other = stage.write("other.yaml", f"{{deployable: {theirs}, assemblies: {{web: {{image: bookworm}}}}}}")
    for words in (("delete", theirs, "--yes"), ("apply", "-f", other)):
        refused = stage.run(*words)
        assert refused.returncode != 0
        assert f"the deployable {theirs} belongs to the stack own" in refused.stderr
        assert "pcloud stack delete own" in refused.stderr
    pids = {unit: stage.main_pid(web, unit) for unit in ("cron", "apache2")}
    stage.guest(web, "sh", "-c", "kill -9 $(systemctl show -p MainPID --value cron)")
    until("cron runs again", lambda: stage.main_pid(web, "cron") not in ("0", pids["cron"]), 30)

    template = stage.write("own.template", json.dumps(document("15s")))
    stage.pcloud("stack", "update", "own", "-t", template, "--wait")
    assert {name: stage.booted(place) for name, place in places.items()} == before
    assert stage.main_pid(web, "apache2") == pids["apache2"]
    status = stage.status(web.partition("/")[0])
    assert {each["name"] for guest in status["assemblies"] for each in guest["resources"]} == {
        "httpd",
        "Cron",
        "mariadb",
    }

    def drifts() -> dict[str, str]:
        stage.aws("detect-stack-drift", "--stack-name", "own")
        found = stage.ask("describe-stack-resource-drifts", "--stack-name", "own")["StackResourceDrifts"]
        return {one["LogicalResourceId"]: one["StackResourceDriftStatus"] for one in found}

    until("what runs is what was asked for", lambda: set(drifts().values()) == {"IN_SYNC"}, PATIENCE)

    new = document("15s")
    new["Resources"]["Web"]["Properties"]["files"] = {"/var/www/html/index.html": "changed"}
    template = stage.write("own.template", json.dumps(new))
    stage.pcloud("stack", "update", "own", "-t", template, "--wait")
    assert stage.guest(web, "cat", "/var/www/html/index.html") == "changed", "an update is complete when it is in force"
    assert stage.booted(data) == before["data"]

    bad = document("10s")
    bad["Resources"]["Web"]["Properties"]["resources"] = {"httpd": {"template": "no-such"}}
    template = stage.write("own.template", json.dumps(bad))
    assert "no-such" in stage.run("stack", "plan", "own", "-t", template).stderr
    assert stage.booted(data) == before["data"]
    stage.pcloud("stack", "delete", "own", "--wait")
    assert stage.left() == []


def test_the_example_of_the_documentation(stage: StackStage) -> None:
    """The README's commands, then those of the page on stacks."""
    readme = [line.split()[1:] for line in README.splitlines() if line.startswith("    pcloud stack ")]
    page = [line.split("  #")[0].split()[1:] for line in STACKS.splitlines() if line.startswith("    pcloud stack ")]
    assert [words[1] for words in readme] == ["create", "show", "delete"]
    assert [words[1] for words in page] == ["plan", "create", "update", "show", "delete"]
    example = str(ROOT / "docs/examples/blog.yaml")
    for typed, greeting in ((readme, "hello"), (page, "hi")):
        for words in typed:
            said = stage.pcloud(*(example if word.endswith("blog.yaml") else word for word in words))
            if words[1] == "show":
                address = re.search(r"http://[0-9.]+/", said)
                assert address is not None, said
                with BROWSER.open(address[0], timeout=PATIENCE) as answer:
                    assert answer.read().decode() == greeting
        until("it is gone", lambda: stage.json("stack", "list") == [], 120)
    assert stage.left() == []


def test_a_deployable_of_its_own(stage: StackStage) -> None:
    """A manifest in a template is a deployable beside the stack's own."""
    manifest = {"deployable": "inner", "assemblies": {"one": {"image": "bookworm"}}}
    body = {"Resources": {"It": {"Type": "PCloud::Deployable", "Properties": {"manifest": manifest}}}}
    template = stage.write("inner.template", json.dumps({"AWSTemplateFormatVersion": "2010-09-09", **body}))
    stage.pcloud("stack", "create", "outer", "-t", template, "--wait")
    stage.running("inner")
    stage.pcloud("stack", "delete", "outer", "--wait")
    assert stage.deployables() == []
    assert stage.left() == []
