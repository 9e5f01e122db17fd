"""`openstack stack …`, the real client, on templates of the corpus: values alone, and a guest."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack_stage import CLIENTS, StackStage, post, template
from tests.e2e.stage import until


class OpenStackStage(StackStage):
    """The stage with the client of the Heat endpoint."""

    def openstack(self, *words: str, code: int = 0) -> Any:
        """Run `openstack stack …` and return its JSON, or its text."""
        settings = (self.home / "pcloud.toml").read_text()
        heat = next(line.split('"')[1] for line in settings.splitlines() if line.startswith("heat = "))
        environment = {
            **self.environment,
            "OS_AUTH_URL": f"http://{heat}/identity/v3",
            "OS_USERNAME": "admin",
            "OS_PASSWORD": (self.home / "token").read_text().strip(),
            "OS_PROJECT_NAME": "admin",
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
            "OS_REGION_NAME": "local",
            "no_proxy": "127.0.0.1",
        }
        done = subprocess.run(
            [CLIENTS / "openstack", "stack", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=1500, cwd=self.files,
        )  # fmt: skip
        assert done.returncode == code, f"openstack stack {' '.join(words)}\n{done.stdout}{done.stderr}\n{self.diary()}"
        return json.loads(done.stdout) if "json" in words else done.stdout


@pytest.fixture(scope="module")
def stage() -> Iterator[OpenStackStage]:
    made = OpenStackStage("os")
    if not (CLIENTS / "openstack").exists():
        pytest.skip("the real clients are not installed: tools/setup-tests does that")
    made.begin()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_resource_group(stage: OpenStackStage) -> None:
    path = template("hot/resource_group/resource_group.yaml")
    stage.openstack("create", "--wait", "--poll", "1", "-t", str(path), "group")
    values = stage.openstack("output", "show", "group", "all_values", "-f", "json")["output_value"]
    assert len(values) == 2
    assert stage.openstack("output", "show", "group", "resource1_value", "-f", "json")["output_value"] == values[0]
    rows = stage.openstack("resource", "list", "-n", "2", "group", "-f", "json")
    assert sorted(row["resource_name"] for row in rows) == ["0", "1", "random_group"]
    larger = stage.files / "larger.yaml"
    larger.write_text(path.read_text().replace("count: 2", "count: 3"))
    stage.openstack("update", "--wait", "-t", str(larger), "group")
    after = stage.openstack("output", "show", "group", "all_values", "-f", "json")["output_value"]
    assert after[:2] == values, "an update changes only what the change says"
    assert len(after) == 3
    statuses = [row["resource_status"] for row in stage.openstack("event", "list", "group", "-f", "json")]
    assert "CREATE_COMPLETE" in statuses
    assert statuses[-1] == "UPDATE_COMPLETE"
    stage.openstack("delete", "-y", "--wait", "group")
    assert stage.openstack("list", "-f", "json") == []


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_hello_world_is_a_guest(stage: OpenStackStage) -> None:
    path = template("hot/hello_world.yaml")
    words = (
        "--parameter",
        "key_name=anybody",
        "--parameter",
        "image=bookworm-cfntools",
        "--parameter",
        "admin_pass=Abcdef12",
    )
    stage.openstack("create", "--wait", "--poll", "1", "-t", str(path), *words, "hello")
    (row,) = stage.openstack("resource", "list", "hello", "-f", "json")
    assert (row["resource_name"], row["resource_status"]) == ("server", "CREATE_COMPLETE")
    networks = stage.openstack("output", "show", "hello", "server_networks", "-f", "json")["output_value"]
    (addresses,) = networks.values()
    (deployable,) = stage.deployables()
    stage.running(deployable["name"])
    (assembly,) = stage.status(deployable["name"])["assemblies"]
    assert assembly["address"] == addresses[0]
    assert stage.guest(f"{deployable['name']}/{assembly['name']}", "cat", "/proc/1/comm") == "systemd"
    stage.openstack("update", "--wait", "-t", str(path), *words, "--parameter", "db_port=51000", "hello")
    assert stage.openstack("show", "hello", "-f", "json")["stack_status"] == "UPDATE_COMPLETE"

    # Suspended the guest is stopped and keeps its disk; resumed it runs again.
    (assembly,) = stage.status(deployable["name"])["assemblies"]
    place = f"{deployable['name']}/{assembly['name']}"
    stage.guest(place, "sh", "-ec", "echo kept >/root/file; sync")
    before = stage.guest_init(place.replace("/", "."))
    stage.openstack("suspend", "--wait", "hello")
    assert stage.openstack("show", "hello", "-f", "json")["stack_status"] == "SUSPEND_COMPLETE"
    assert stage.status(deployable["name"])["state"] == "stopped"
    assert not Path(f"/proc/{before}").exists()
    stage.openstack("resume", "--wait", "hello")
    assert stage.guest(place, "cat", "/root/file") == "kept"
    stage.openstack("check", "--wait", "hello")
    assert stage.openstack("show", "hello", "-f", "json")["stack_status"] == "CHECK_COMPLETE"
    stage.openstack("delete", "-y", "--wait", "hello")
    assert stage.deployables() == []
    assert stage.left() == []


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_autoscaling(stage: OpenStackStage) -> None:
    """A database, a group of web servers and Octavia's balancer as guests; the webhook makes the group larger, an update
    changes a policy and nothing that runs."""
    path = stage.files / "autoscaling.yaml"
    for name in ("autoscaling.yaml", "lb_server.yaml"):
        # But for the alarm that makes an idle group smaller again, once a minute: here it might come between.
        (stage.files / name).write_text(template(f"hot/{name}").read_text().replace("threshold: 15", "threshold: 0"))
    given = {
        "image": "F17-x86_64-cfntools", "key": "k", "flavor": "m1.small", "database_flavor": "m1.small",
        "network": "private", "subnet_id": "private", "external_network_id": "public",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("--parameter", f"{name}={value}")]
    stage.openstack("create", "--wait", "--poll", "1", "-t", str(path), *words, "auto")

    def ids(*more: str) -> dict[str, str]:
        rows = stage.openstack("resource", "list", *more, "auto", "-f", "json")
        return {row["resource_name"]: row["physical_resource_id"] for row in rows}

    before = ids()
    assert {"db", "asg", "lb", "pool", "web_server_scaleup_policy"} <= set(before)
    servers = guests(stage)
    url = stage.openstack("output", "show", "auto", "scale_up_url", "-f", "json")["output_value"]
    post(url)
    until("another server", lambda: len(running(stage)) == len(servers) + 1, 300)
    scaled = set(guests(stage))
    assert scaled > set(servers)
    path.write_text(path.read_text().replace("cooldown: 60", "cooldown: 5"))
    stage.openstack("update", "--wait", "-t", str(path), *words, "auto")
    assert ids() == before, "nothing was replaced"
    # One that a busy machine makes fall silent for a moment is there all the same.
    told = stage.run("stack", "events", "auto").stdout
    assert set(guests(stage)) == scaled, f"an update does not undo what was scaled\n{told}\n{stage.diary()}"
    until("all of them run", lambda: set(running(stage)) == scaled)
    statuses = [row["resource_status"] for row in stage.openstack("event", "list", "auto", "-f", "json")]
    assert statuses[-1] == "UPDATE_COMPLETE"
    stage.openstack("delete", "-y", "--wait", "auto")
    assert stage.deployables() == []
    assert stage.left() == []


def guests(stage: OpenStackStage) -> dict[str, str]:
    """The state of each guest of all deployables."""
    return {f"{one['name']}/{each['name']}": each["state"] for one in stage.statuses() for each in one["assemblies"]}


def running(stage: OpenStackStage) -> list[str]:
    """The guests of all deployables that run."""
    return [place for place, state in guests(stage).items() if state == "running"]
