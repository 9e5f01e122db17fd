"""The Heat endpoint with its real clients: `openstack stack …` and openstacksdk, on templates of the corpus."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pcloud.api.heat import heat_app
from pcloud.stacks.engine.manager import StackManager
from tests.stacks.serving import serving

ROOT = Path(__file__).resolve().parents[2]
OPENSTACK = ROOT / ".tools/stack-clients/bin/openstack"


@pytest.fixture
async def served(manager: StackManager) -> AsyncIterator[tuple[StackManager, str]]:
    async with serving(heat_app(manager, {"good": "admin", "look": "viewer"}.get, open_loopback=True)) as url:
        yield manager, url


async def openstack(url: str, *arguments: str, ok: bool = True) -> Any:
    program = str(OPENSTACK) if OPENSTACK.exists() else shutil.which("openstack")
    if program is None:
        pytest.skip("the openstack client is not installed (.tools/stack-clients or Debian's python3-openstackclient)")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(Path(tempfile.gettempdir()) / "stacks-openstack-home"),
        "OS_AUTH_TYPE": "none",
        "OS_ENDPOINT": f"{url}/v1/admin",
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    out, err = await asyncio.wait_for(process.communicate(), 300)
    if not ok:
        assert process.returncode != 0
        return err.decode()
    assert process.returncode == 0, err.decode()
    return json.loads(out) if "json" in arguments else out.decode()


@pytest.mark.real
async def test_openstack_stack_commands(served: tuple[StackManager, str], tmp_path: Path) -> None:
    manager, url = served
    template = tmp_path / "group.yaml"
    template.write_text(
        """
heat_template_version: 2013-05-23
parameters:
  size: {type: number, default: 2}
resources:
  random_group:
    type: OS::Heat::ResourceGroup
    properties:
      count: {get_param: size}
      resource_def: {type: OS::Heat::RandomString}
outputs:
  first: {value: {get_attr: [random_group, resource.0.value]}}
  all: {value: {get_attr: [random_group, value]}}
"""
    )
    await openstack(url, "stack", "create", "--wait", "--poll", "1", "-t", str(template), "g")
    shown = await openstack(url, "stack", "show", "g", "-f", "json")
    assert shown["stack_status"] == "CREATE_COMPLETE"
    first = (await openstack(url, "stack", "output", "show", "g", "first", "-f", "json"))["output_value"]
    assert len(first) == 32
    rows = await openstack(url, "stack", "resource", "list", "-n", "2", "g", "-f", "json")
    assert {row["resource_name"] for row in rows} == {"random_group", "0", "1"}
    await openstack(url, "stack", "update", "--wait", "-t", str(template), "--parameter", "size=3", "g")
    everything = manager.get("g").outputs["all"]["value"]
    assert len(everything) == 3
    assert everything[0] == first
    assert "UPDATE_COMPLETE" in await openstack(url, "stack", "event", "list", "g")
    await openstack(url, "stack", "delete", "-y", "--wait", "g")
    assert await openstack(url, "stack", "list", "-f", "json") == []
    assert "not found" in (await openstack(url, "stack", "show", "g", ok=False)).lower()


@pytest.mark.real
async def test_suspend_resume_check_and_what_is_refused(served: tuple[StackManager, str], tmp_path: Path) -> None:
    manager, url = served
    template = tmp_path / "value.yaml"
    body = "heat_template_version: 2013-05-23\nresources: {r: {type: OS::Heat::RandomString}}\n"
    template.write_text(body)
    await openstack(url, "stack", "create", "--wait", "--poll", "1", "-t", str(template), "one")
    stack = manager.get("one")
    for action in ("suspend", "resume", "check"):
        await openstack(url, "stack", action, "--wait", "one")
        assert stack.status == f"{action.upper()}_COMPLETE"
        assert manager.current(stack)["r"].status == f"{action.upper()}_COMPLETE"
    assert "it is not suspended" in await openstack(url, "stack", "resume", "one", ok=False)
    assert await openstack(url, "stack", "snapshot", "list", "one", "-f", "json") == []
    for words, says in (
        (("snapshot", "create", "one"), "Stack Snapshot is not supported"),
        (("snapshot", "restore", "one", "x"), "snapshot x not found"),
        (("abandon", "one"), "Stack Abandon is not supported"),
        (("export", "one"), "Stack Abandon is not supported"),
    ):
        assert says in await openstack(url, "stack", *words, ok=False)
    adopted = tmp_path / "adopted.json"
    adopted.write_text(json.dumps({"action": "CREATE", "resources": {}, "template": {}}))
    said = await openstack(url, "stack", "adopt", "--adopt-file", str(adopted), "two", ok=False)
    assert "Stack Adopt is not supported" in said
    await openstack(url, "stack", "delete", "-y", "--wait", "one")
    assert stack.status == "DELETE_COMPLETE"


async def test_scaling_group_follows_its_policy(served: tuple[StackManager, str]) -> None:
    from pcloud.stacks.records import Source

    manager, _ = served
    body = {
        "heat_template_version": "2016-10-14",
        "resources": {
            "asg": {
                "type": "OS::Heat::AutoScalingGroup",
                "properties": {"min_size": 1, "max_size": 3, "resource": {"type": "OS::Heat::RandomString"}},
            },
            "up": {
                "type": "OS::Heat::ScalingPolicy",
                "properties": {
                    "auto_scaling_group_id": {"get_resource": "asg"},
                    "adjustment_type": "change_in_capacity",
                    "scaling_adjustment": 1,
                },
            },
        },
        "outputs": {"size": {"value": {"get_attr": ["asg", "current_size"]}}},
    }
    stack = await manager.create("s", Source(template=json.dumps(body)))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    for size in (2, 3, 3):
        await manager.signal(manager.current(stack)["up"], {"status": "SUCCESS"})
        await manager.settled()
        child = manager.child(manager.current(stack)["asg"].physical)
        assert child is not None
        assert len(manager.current(child)) == size
    await manager.delete(stack)
    await manager.wait(stack)
    assert not child.live


@pytest.mark.filterwarnings("ignore")  # openstacksdk warns of its own parts
async def test_sdk_through_the_catalogue(served: tuple[StackManager, str]) -> None:
    import openstack as sdk

    _, url = served

    def work() -> list[str]:
        connection = sdk.connect(
            auth_url=f"{url}/identity/v3",
            username="admin",
            password="good",
            project_name="admin",
            user_domain_name="Default",
            project_domain_name="Default",
            region_name="local",
        )
        try:
            stack = connection.orchestration.create_stack(
                name="sdk",
                template={
                    "heat_template_version": "2018-08-31",
                    "resources": {"a": {"type": "OS::Heat::TestResource"}},
                },
            )
            connection.orchestration.wait_for_status(stack, status="CREATE_COMPLETE", interval=1, wait=300)
            return [item.name for item in connection.orchestration.stacks()]
        finally:
            connection.close()

    assert await asyncio.to_thread(work) == ["sdk"]
