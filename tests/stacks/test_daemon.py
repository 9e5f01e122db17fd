"""The whole daemon as users meet it: `pcloud stack …`, /v1/stacks, and `kill -9` in the middle of an operation."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stacks.daemon import Daemon, outputs, status, until
from tests.stacks.damage import spoil

_WAIT = {"create": 0.4, "update": 0.4, "delete": 0.4}


def _waiting(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "OS::Heat::TestResource", "properties": {"value": value, "action_wait_secs": _WAIT}}


SLOW = json.dumps(
    {
        "heat_template_version": "2018-08-31",
        "parameters": {"word": {"type": "string", "default": "one"}},
        "resources": {
            "a": _waiting({"get_param": "word"}),
            "b": _waiting({"get_attr": ["a", "output"]}),
            "c": _waiting({"get_attr": ["b", "output"]}),
            "secret": {"type": "OS::Heat::RandomString"},
        },
        "outputs": {
            "said": {"value": {"get_attr": ["c", "output"]}},
            "secret": {"value": {"get_attr": ["secret", "value"]}},
        },
    }
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("stacks")) as made:
        yield made


def begun(daemon: Daemon, name: str, resource: str, word: str) -> bool:
    """Whether something is being done to a resource at this moment; or was, on a machine too busy to see it."""
    try:
        rows = daemon.call("GET", f"/v1/stacks/{name}")["Resources"]
    except urllib.error.HTTPError as refused:
        refused.close()
        return word == "DELETE" and refused.code == 404
    found = [row["ResourceStatus"] for row in rows if row["LogicalResourceId"] == resource]
    return found[0].startswith(word) if found else word == "DELETE"


@pytest.mark.real
@pytest.mark.parametrize("resource", ["a", "c"])
def test_kill_in_the_middle_of_each_operation(tmp_path: Path, resource: str) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.call("POST", "/v1/stacks", {"name": "k", "template": SLOW})
        until("a resource is being made", lambda: begun(daemon, "k", resource, "CREATE"))
        daemon.kill()
        daemon.start()
        until("created", lambda: status(daemon, "k") == "CREATE_COMPLETE")
        first = outputs(daemon, "k")
        assert first["said"] == "one"
        physical = {row["LogicalResourceId"]: row["PhysicalResourceId"] for row in _resources(daemon)}

        daemon.call("PUT", "/v1/stacks/k", {"template": SLOW, "parameters": {"word": "two"}})
        until("a resource is being changed", lambda: begun(daemon, "k", resource, "UPDATE"))
        daemon.kill()
        daemon.start()
        until("updated", lambda: status(daemon, "k") == "UPDATE_COMPLETE")
        assert outputs(daemon, "k") == {"said": "two", "secret": first["secret"]}
        assert {row["LogicalResourceId"]: row["PhysicalResourceId"] for row in _resources(daemon)} == physical

        daemon.call("DELETE", "/v1/stacks/k")
        until("a resource is being deleted", lambda: begun(daemon, "k", resource, "DELETE"))
        daemon.kill()
        daemon.start()
        until("deleted", lambda: daemon.call("GET", "/v1/stacks") == [])
        again = daemon.call("POST", "/v1/stacks", {"name": "k", "template": SLOW})
        assert again["StackStatus"] == "CREATE_IN_PROGRESS", "the name is free again"


def _resources(daemon: Daemon) -> list[dict[str, Any]]:
    return list(daemon.call("GET", "/v1/stacks/k")["Resources"])


@pytest.mark.real
def test_commands_of_a_stack(daemon: Daemon, tmp_path: Path) -> None:
    template = tmp_path / "t.json"
    template.write_text(SLOW.replace("0.4", "0"))
    planned = daemon.pcloud("stack", "plan", "blog", "-t", str(template))
    assert [line.split()[:3] for line in planned.splitlines()[:4]] == [
        ["+", "create", name] for name in ("a", "b", "c", "secret")
    ]
    assert daemon.call("GET", "/v1/stacks") == [], "a plan makes nothing"
    made = daemon.run("stack", "create", "blog", "-t", str(template), "--wait")
    assert made.stdout.splitlines()[0] == "blog: CREATE_COMPLETE"
    assert ["said", "one"] in [line.split() for line in made.stdout.splitlines()]
    told = [line.split(None, 1)[1] for line in made.stderr.splitlines()]
    assert told[0] == "blog: CREATE_IN_PROGRESS (User Initiated)"
    assert told[-1] == "blog: CREATE_COMPLETE"
    assert told.count("c: CREATE_COMPLETE") == 1
    shown = [line.split()[:3] for line in daemon.pcloud("stack", "show", "blog").splitlines()]
    assert shown[1][:2] == ["blog", "CREATE_COMPLETE"]
    assert ["a", "CREATE_COMPLETE", "OS::Heat::TestResource"] in shown
    (row,) = json.loads(daemon.pcloud("stack", "list", "-o", "json"))
    assert (row["StackName"], row["StackStatus"]) == ("blog", "CREATE_COMPLETE")
    changes = json.loads(daemon.pcloud("stack", "plan", "blog", "-t", str(template), "-p", "word=two", "-o", "json"))[
        "changes"
    ]
    assert {change["name"]: change["action"] for change in changes} == {
        "a": "update", "secret": "none", "b": "update", "c": "update",
    }  # fmt: skip
    changed = daemon.run("stack", "update", "blog", "-t", str(template), "-p", "word=two", "--wait")
    assert "blog: UPDATE_COMPLETE" in changed.stdout
    assert "CREATE" not in changed.stderr, "what happened before is not told again"
    assert "c: UPDATE_COMPLETE" in changed.stderr
    assert outputs(daemon, "blog")["said"] == "two"
    events = json.loads(daemon.pcloud("stack", "events", "blog", "-o", "json"))
    done = [(item["LogicalResourceId"], item["ResourceStatus"]) for item in events]
    assert done[0] == ("blog", "CREATE_IN_PROGRESS")
    assert done[-1] == ("blog", "UPDATE_COMPLETE")
    assert ("c", "UPDATE_COMPLETE") in done
    assert ("secret", "UPDATE_IN_PROGRESS") not in done, "what the plan leaves alone is left alone"
    assert daemon.pcloud("stack", "delete", "blog", "--wait") == "blog: DELETE_COMPLETE\n"
    assert json.loads(daemon.pcloud("stack", "list", "-o", "json")) == []
    assert "no" in daemon.run("stack", "events", "blog").stderr.lower()


@pytest.mark.real
def test_commands_refuse_with_a_reason(daemon: Daemon, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("heat_template_version: 2018-08-31\nresources:\n  q: {type: OS::Zaqar::Queue}\n")
    refused = daemon.run("stack", "create", "bad", "-t", str(bad))
    assert refused.returncode != 0
    assert "Zaqar" in refused.stderr
    assert "Traceback" not in refused.stderr
    absent = daemon.run("stack", "delete", "nothing")
    assert absent.returncode != 0
    with pytest.raises(urllib.error.HTTPError) as caught:
        daemon.call("POST", "/v1/stacks", {"name": "1x", "template": SLOW})
    assert caught.value.code in {400, 422}
    caught.value.close()


@pytest.mark.real
def test_a_stack_that_can_not_be_made_says_why(daemon: Daemon, tmp_path: Path) -> None:
    bad = tmp_path / "fails.json"
    failing = {"type": "OS::Heat::TestResource", "properties": {"value": "x", "fail": True}}
    bad.write_text(json.dumps({"heat_template_version": "2018-08-31", "resources": {"f": failing}}))
    done = daemon.run("stack", "create", "fails", "-t", str(bad), "--wait")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr[done.stderr.index("pcloud: ") :]
    assert "stack fails is ROLLBACK_COMPLETE" in last
    assert "f: CREATE_FAILED" in last
    late = daemon.run("stack", "create", "late", "-t", str(bad).replace("fails", "late"), "--wait")
    assert late.returncode == 2
    slow = tmp_path / "slow.json"
    slow.write_text(SLOW.replace("0.4", "100"))
    done = daemon.run("stack", "create", "slow", "-t", str(slow), "--wait", "--timeout", "200ms")
    assert done.returncode == 6
    assert "pcloud stack show slow" in done.stderr
    assert daemon.pcloud("stack", "delete", "fails") == "fails: deletion requested\n"


@pytest.mark.real
def test_commands_of_a_stack_that_can_not_be_read(tmp_path: Path) -> None:
    template = tmp_path / "t.json"
    template.write_text(SLOW.replace("0.4", "0"))
    with Daemon(tmp_path) as daemon:
        daemon.pcloud("stack", "create", "blog", "-t", str(template), "--wait")
        identity = daemon.call("GET", "/v1/stacks/blog")["StackId"].rsplit("/", 1)[-1]
        daemon.kill()
        spoil(daemon.home, "stack", identity, generation="many")
        daemon.start()
        assert "its record can not be read" in daemon.pcloud("stack", "list")
        refused = daemon.run("stack", "update", "blog", "-t", str(template))
        assert refused.returncode != 0
        assert "It can be deleted" in refused.stderr
        assert daemon.pcloud("stack", "delete", "blog", "--wait") == "blog: DELETE_COMPLETE\n"
        assert json.loads(daemon.pcloud("stack", "list", "-o", "json")) == []
