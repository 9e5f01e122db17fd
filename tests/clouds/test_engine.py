"""The whole engine on a real OpenStack: a deployable of 20 assemblies, its faults, an outage, its end. A proxy in front of
Nova and Glance counts what is asked of them.

Nova's FakeDriver has no guest in its servers, so nothing can be reached in them: `transport: none`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from tests.clouds.guests import SDK_WARNINGS
from tests.clouds.peer import CLOUD, GLANCE, NOVA, peer
from tests.clouds.proxy import Proxy, in_front_of
from tests.e2e.stage import BIN, ROOT, Stage, missing, tutorial_manifest, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(900), *SDK_WARNINGS]
NAME, PREFIX = "fleet", "pcf-"
GUESTS = [f"a{number:02}" for number in range(20)]
MANIFEST = f"deployable: {NAME}\ninfrastructure: openstack\nusername: admin\nassemblies:\n" + "".join(
    f"  {name}: {{image: bookworm, transport: none}}\n" for name in GUESTS
)
SETTINGS = f"""\
[engine]
slots = 1
[infrastructures.openstack]
cloud = "peer"
prefix = "{PREFIX}"
flavor = "tiny"
network = "pcloud"
poll = 1.0
"""
CLOUDS = f"""\
clouds:
  peer:
{CLOUD}\
    compute_endpoint_override: "{{nova}}/v2.1"
    image_endpoint_override: "{{glance}}"
  carol:
    auth: {{{{auth_url: "{{OS_AUTH_URL}}", username: carol, password: "hers", project_name: admin,
            user_domain_name: Default, project_domain_name: Default}}}}
    region_name: RegionOne
"""
LIST = r"^/v2.1/servers/detail"


class Fleet:
    """The daemon, the proxies and the cloud."""

    def __init__(self, stage: Stage, api: Proxy, images: Proxy) -> None:
        self.stage, self.api, self.images = stage, api, images

    def servers(self, nova: Any) -> dict[str, Any]:
        """Return the servers of the deployable by the name of their assembly."""
        begin = f"{PREFIX}{NAME}."
        return {each.name.removeprefix(begin): each for each in nova.compute.servers() if each.name.startswith(begin)}

    def ids(self, nova: Any) -> dict[str, str]:
        return {name: server.id for name, server in self.servers(nova).items()}

    def about(self, cursor: int, kind: str) -> list[dict[str, Any]]:
        """Return the deployable's events of a kind."""
        return [event for event in self.stage.events(cursor, NAME) if event["type"].endswith(kind)]


@pytest.fixture(scope="module")
def fleet(cloud, tmp_path_factory) -> Iterator[Fleet]:
    """A running fleet."""
    if lacking := missing():
        pytest.skip(lacking)
    with in_front_of(NOVA) as api, in_front_of(GLANCE) as images:
        file = tmp_path_factory.mktemp("credentials") / "clouds.yaml"
        file.touch(0o600)
        file.write_text(CLOUDS.format(**cloud, nova=api.url, glance=images.url))
        stage = Stage("fleet")
        stage.environment["OS_CLIENT_CONFIG_FILE"] = str(file)
        stage.open(SETTINGS)
        try:
            stage.apply(MANIFEST)
            yield Fleet(stage, api, images)
        finally:
            stage.close()


def test_a_fleet_from_one_upload(fleet, nova):
    assert fleet.stage.status(NAME)["state"] == "running"
    servers = fleet.servers(nova)
    assert sorted(servers) == GUESTS
    assert {server.status for server in servers.values()} == {"ACTIVE"}
    assert fleet.images.seen("POST", r"/v2/images$") == 1
    assert fleet.images.seen("PUT", r"/file$") == 1
    assert len({server.metadata["pcloud_image"] for server in servers.values()}) == 1
    assert len({server.key_name for server in servers.values()}) == 20, "each has a key of its own"
    group = [group for group in nova.compute.server_groups() if group.name == f"{PREFIX}{NAME}"]
    assert [len(each.member_ids) for each in group] == [20]
    addresses = {each["address"] for each in fleet.stage.status(NAME)["assemblies"]}
    assert len(addresses) == 20
    assert "" not in addresses


def test_one_list_a_poll_for_all_guests(fleet):
    fleet.api.forget()
    began = time.monotonic()
    until("five lists", lambda: fleet.api.seen("GET", LIST) >= 5)
    requests, polls = list(fleet.api.requests), time.monotonic() - began
    others = [path for method, path in requests if method != "GET" or not re.search(LIST, path)]
    assert others == [], "lists and nothing else"
    assert len(requests) <= polls + 2, f"{len(requests)} lists in {polls:.1f} s, one a second"


def test_deleted_and_broken_servers_are_replaced(fleet, nova):
    before, cursor = fleet.ids(nova), fleet.stage.cursor()
    nova.compute.delete_server(before["a03"])
    nova.compute.reset_server_state(before["a07"], "error")
    for name in ("a03", "a07"):
        told = fleet.stage.told(cursor, f"{NAME}/{name}", "failed")
        assert told["data"]["signal"] == "infrastructure"
    for name in ("a03", "a07"):
        fleet.stage.told(cursor, f"{NAME}/{name}", "running")
    fleet.stage.running(NAME)
    after = fleet.ids(nova)
    assert {name for name in GUESTS if before[name] != after[name]} == {"a03", "a07"}, "the others were left alone"
    assert len(after) == 20
    assert nova.compute.find_server(before["a07"]) is None
    isolations = [(event["subject"], event["data"]["state"]) for event in fleet.about(cursor, ".isolation")]
    assert (f"{NAME}/a07", "stopped") in isolations, "it was seen to be gone before its replacement started"


def test_nova_away_is_one_event_and_no_action(fleet, nova):
    before, cursor = fleet.ids(nova), fleet.stage.cursor()
    fleet.api.forget()
    peer("api-stop")
    try:
        fleet.stage.told(cursor, NAME, "unknown", 30)
        began, asked = time.monotonic(), fleet.api.seen("GET", LIST)
        seconds = float(os.environ.get("OUTAGE_SECONDS", "60"))
        until("an outage of many lists", lambda: fleet.api.seen("GET", LIST) >= asked + 15, 120)
        until("the outage", lambda: time.monotonic() - began > seconds, seconds + 60)
        assert fleet.stage.status(NAME)["state"] == "unknown"
    finally:
        peer("api-start")
    fleet.stage.running(NAME)
    told = [(event["data"]["state"], event["subject"]) for event in fleet.about(cursor, ".infrastructure")]
    assert told == [("unknown", NAME), ("starting", NAME)], "one event of the outage, one of its end"
    assert fleet.about(cursor, ".assembly.state") == []
    assert fleet.ids(nova) == before, "nothing was done to any server"
    changing = [request for request in fleet.api.requests if request[0] != "GET"]
    assert changing == []
    # and it carries on
    cursor = fleet.stage.cursor()
    nova.compute.delete_server(before["a11"])
    fleet.stage.told(cursor, f"{NAME}/a11", "failed")
    fleet.stage.told(cursor, f"{NAME}/a11", "running")
    fleet.stage.running(NAME)


def test_killed_daemons_find_everything_again(fleet, nova):
    before, cursor = fleet.ids(nova), fleet.stage.cursor()
    fleet.stage.kill_all()
    fleet.stage.pcloud("up", "--detach")
    fleet.stage.running(NAME)
    assert fleet.ids(nova) == before
    assert fleet.about(cursor, ".isolation") == []


def test_a_server_that_hangs_in_a_build_is_no_reason_to_give_up(fleet, nova):
    """nova-compute is stopped while a server is replaced: it is built when that goes on."""
    from tests.clouds.peer import FOLDER

    before, cursor = fleet.ids(nova), fleet.stage.cursor()
    compute = int((FOLDER / "run/nova-compute.pid").read_text())
    nova.compute.delete_server(before["a05"])
    nova.compute.wait_for_delete(nova.compute.get_server(before["a05"]))
    os.kill(compute, signal.SIGSTOP)
    try:
        fleet.stage.told(cursor, f"{NAME}/a05", "starting")
        until("its build", lambda: "a05" in fleet.servers(nova), 30)
    finally:
        os.kill(compute, signal.SIGCONT)
    fleet.stage.told(cursor, f"{NAME}/a05", "running")
    fleet.stage.running(NAME)
    assert len(fleet.ids(nova)) == 20


def test_the_example_in_the_documents_is_stopped_started_and_deleted(fleet, nova):
    """And another deployable's end leaves the image that this one has."""
    manifest = tutorial_manifest((ROOT / "docs/infrastructures.md").read_text())
    fleet.stage.apply(manifest)
    assert fleet.stage.status("books")["state"] == "running"

    def servers() -> dict[str, str]:
        return {each.id: each.status for each in nova.compute.servers() if each.name.startswith(f"{PREFIX}books.")}

    before = servers()
    fleet.stage.pcloud("stop", "books", "--wait", "--timeout", "600s")
    assert servers() == dict.fromkeys(before, "SHUTOFF")
    fleet.stage.pcloud("start", "books", "--wait", "--timeout", "600s")
    assert servers() == dict.fromkeys(before, "ACTIVE"), "the same servers"
    fleet.stage.pcloud("delete", "books", "--yes", "--wait", "--timeout", "600s")
    left = [each.name for each in nova.compute.servers() if "books" in each.name]
    assert left == []
    assert [each.name for each in nova.image.images() if each.name.startswith(PREFIX)] != []


@pytest.fixture
def carol(nova) -> Iterator[Any]:
    """Another user of the project."""
    user = nova.identity.create_user(name="carol", password="hers", domain_id="default")
    project, role = nova.identity.find_project("admin"), nova.identity.find_role("member")
    nova.identity.assign_project_role_to_user(project, user, role)
    yield user
    nova.identity.delete_user(user)


def test_the_shell_makes_guests_in_a_users_name(fleet, nova, carol):
    def shell(*words: str) -> str:
        done = subprocess.run(
            [BIN / "pcloudsh", *words], env=fleet.stage.environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    shell("jeos_create", "bookworm", "x86_64")
    shell("assembly_create", "novel", "bookworm", "x86_64")
    shell("deployable_create", "shelf", "openstack", "carol", "none")
    shell("deployable_assembly_add", "shelf", "novel")
    shell("deployable_start", "shelf")
    fleet.stage.running("shelf", 120)
    server = nova.compute.find_server(f"{PREFIX}shelf.novel")
    assert server.user_id == carol.id
    assert {each.user_id for each in fleet.servers(nova).values()} != {carol.id}
    changed = fleet.stage.write("shelf.yaml", fleet.stage.pcloud("manifest", "shelf").replace("carol", "dave"))
    done = fleet.stage.run("apply", "-f", changed)
    assert done.returncode != 0
    assert "in the name of carol" in done.stdout + done.stderr
    shell("deployable_delete", "shelf")
    until("its end", lambda: nova.compute.find_server(server.id) is None, 60)


def test_doctor_asks_the_cloud(fleet):
    said = {each["check"]: each for each in json.loads(fleet.stage.run("doctor", "-o", "json").stdout)}
    assert said["openstack: credentials"]["state"] == "ok"
    assert "admin at http://127.0.0.1:15000/v3 (peer)" in said["openstack: credentials"]["detail"]
    assert said["openstack: quota"]["detail"].startswith("20 of ")
    assert (said["openstack: flavor"]["state"], said["openstack: network"]["state"]) == ("ok", "ok")
    assert "secret" not in str(said)


def test_a_deleted_deployable_leaves_nothing(fleet, nova):
    fleet.stage.pcloud("delete", NAME, "--yes", "--wait", "--timeout", "600s")
    left = {
        "servers": [each.name for each in nova.compute.servers() if each.name.startswith(PREFIX)],
        "ports": [each.id for each in nova.network.ports(device_owner="compute:nova")],
        "key pairs": [each.name for each in nova.compute.keypairs() if each.name.startswith(PREFIX)],
        "server groups": [each.name for each in nova.compute.server_groups() if each.name.startswith(PREFIX)],
        "images": [each.name for each in nova.image.images() if each.name.startswith(PREFIX)],
    }
    assert {what: names for what, names in left.items() if names} == {}
