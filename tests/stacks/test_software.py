"""Software configurations and deployments: boot data, scripts that really run, agents that poll and signal."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pcloud.environment.infrastructure import ExecResult
from pcloud.model.errors import InvalidDocument, Unavailable
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source, StackRecord
from pcloud.stacks.schema import anything
from pcloud.stacks.store import SqliteStore
from pcloud.stacks.types import registry, running
from pcloud.stacks.types.base import Context, ResourceType
from pcloud.stacks.types.software import boot_data
from tests.stacks.fake_platform import NotingPlatform


class LocalPlatform(NotingPlatform):
    """Runs what is to run in a guest on this machine, below a folder of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = 0

    async def execute(
        self, deployable: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        if self.failing > 0:
            self.failing -= 1
            raise Unavailable.of("ENGINE_AWAY", "the engine is away")
        assert (deployable, assembly) == ("stack", "server")
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        stdout, stderr = await process.communicate(stdin)
        return ExecResult(returncode=process.returncode or 0, stdout=stdout, stderr=stderr)


class NotedServer(ResourceType):
    """Stands for a guest."""

    names = ("OS::Nova::Server",)
    attributes = frozenset({"boot"})
    schema: ClassVar = {"user_data": anything()}

    async def create(self, context: Context) -> None:
        context.record.physical = f"server-{context.short}"
        context.record.data.update(deployable="stack", assembly="server")
        if context.properties.get("user_data"):
            boot = boot_data(context.services, context.properties["user_data"])
            context.record.attributes = {"boot": boot}

    async def delete(self, context: Context) -> None:
        pass


@pytest.fixture
async def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = {**registry.types(), "OS::Nova::Server": NotedServer()}
    monkeypatch.setattr(registry, "types", lambda: known)
    monkeypatch.setattr(running, "FOLDER", str(tmp_path / "guest"))
    monkeypatch.setattr(running, "_AWAY_SECONDS", 0.02)
    manager = StackManager(SqliteStore(tmp_path / "stacks.db"), LocalPlatform())
    await manager.start()
    yield manager
    await manager.close()


def hot(resources: dict[str, Any], outputs: dict[str, Any] | None = None) -> Source:
    return Source(
        template=json.dumps(
            {
                "heat_template_version": "2018-08-31",
                "resources": resources,
                "outputs": {name: {"value": value} for name, value in (outputs or {}).items()},
            }
        )
    )


async def made(manager: StackManager, source: Source, status: str = "CREATE_COMPLETE") -> StackRecord:
    stack = await manager.create("soft", source)
    async with asyncio.timeout(60):
        await manager.wait(stack)
    assert stack.status == status, stack.reason
    return stack


SCRIPT = """#!/bin/sh -e
echo "foo is $foo, on $deploy_action"
echo "in a hurry" >&2
echo "$count" >>{counter}
printf '%s' "$foo+$bar" >$heat_outputs_path.result
"""


def deployed(counter: Path, script: str = SCRIPT, foo: Any = "fooooo", **changes: Any) -> dict[str, Any]:
    return {
        "server": {"type": "OS::Nova::Server"},
        "config": {
            "type": "OS::Heat::SoftwareConfig",
            "properties": {
                "group": "script",
                "inputs": [{"name": "foo"}, {"name": "bar", "default": "a 'b' $c\n\"d\""}, {"name": "count"}],
                "outputs": [{"name": "result"}, {"name": "why", "error_output": True}],
                "config": script.replace("{counter}", str(counter)),
            },
        },
        "deployment": {
            "type": "OS::Heat::SoftwareDeployment",
            "properties": {
                "config": {"get_resource": "config"},
                "server": {"get_resource": "server"},
                "input_values": {"foo": foo, "count": 1},
                **changes,
            },
        },
    }


OUTPUTS = {
    name: {"get_attr": ["deployment", name]}
    for name in ("result", "deploy_stdout", "deploy_stderr", "deploy_status_code")
}


async def test_a_script_runs_once_with_its_inputs_and_gives_its_outputs(manager: StackManager, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    stack = await made(manager, hot(deployed(counter), OUTPUTS))
    values = {name: entry["value"] for name, entry in stack.outputs.items()}
    assert values == {
        "result": "fooooo+a 'b' $c\n\"d\"",
        "deploy_stdout": "foo is fooooo, on CREATE\n",
        "deploy_stderr": "in a hurry\n",
        "deploy_status_code": 0,
    }
    assert counter.read_text() == "1\n"
    await manager.update(stack, hot(deployed(counter, foo="bar"), OUTPUTS))
    await manager.wait(stack)
    assert stack.outputs["deploy_stdout"]["value"] == "foo is bar, on UPDATE\n"
    assert counter.read_text() == "1\n1\n"
    await manager.update(stack, hot(deployed(counter, foo="bar"), OUTPUTS))
    await manager.wait(stack)
    assert counter.read_text() == "1\n1\n", "nothing changed: nothing runs"


async def test_a_script_that_fails_fails_its_deployment(manager: StackManager, tmp_path: Path) -> None:
    script = "#!/bin/sh\necho no such thing >&2\nexit 17\n"
    stack = await made(manager, hot(deployed(tmp_path / "c", script)), "ROLLBACK_COMPLETE")
    assert "deploy_status_code : 17: no such thing" in stack.reason


async def test_an_error_output_fails_its_deployment(manager: StackManager, tmp_path: Path) -> None:
    script = "#!/bin/sh\necho out of luck >$heat_outputs_path.why\n"
    stack = await made(manager, hot(deployed(tmp_path / "c", script)), "ROLLBACK_COMPLETE")
    assert "why : out of luck" in stack.reason


async def test_an_engine_that_is_away_delays_a_script_and_runs_it_once(manager: StackManager, tmp_path: Path) -> None:
    assert isinstance(manager.platform, LocalPlatform)
    manager.platform.failing = 5
    await made(manager, hot(deployed(tmp_path / "counter")))
    assert (tmp_path / "counter").read_text() == "1\n"


async def test_a_crash_while_a_script_runs_does_not_run_it_twice(manager: StackManager, tmp_path: Path) -> None:
    counter, gate = tmp_path / "counter", tmp_path / "gate"
    script = f"#!/bin/sh\necho begun >>{counter}\nwhile [ ! -e {gate} ]; do sleep 0.05; done\necho done\n"
    source = hot(deployed(counter, script), OUTPUTS)
    stack = await manager.create("soft", source)
    async with asyncio.timeout(60):
        while not counter.exists():
            await asyncio.sleep(0.02)
    await manager.close()
    again = StackManager(SqliteStore(tmp_path / "stacks.db"), LocalPlatform())
    await again.start()
    stack = again.get("soft")
    gate.touch()
    async with asyncio.timeout(60):
        await again.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert stack.outputs["deploy_stdout"]["value"] == "done\n"
    assert counter.read_text() == "begun\n"
    await again.close()


async def test_only_the_named_actions_run(manager: StackManager, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    script = f"#!/bin/sh\necho $deploy_action >>{counter}\n"
    stack = await made(manager, hot(deployed(counter, script, actions=["UPDATE", "DELETE"])))
    assert not counter.exists()
    await manager.update(stack, hot(deployed(counter, script, actions=["UPDATE", "DELETE"], foo="new")))
    await manager.wait(stack)
    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE"
    assert counter.read_text() == "UPDATE\nDELETE\n"


async def test_a_component_has_a_configuration_for_each_action(manager: StackManager, tmp_path: Path) -> None:
    resources = deployed(tmp_path / "c", actions=["CREATE", "DELETE"])
    wanted = tmp_path / "acts"
    resources["config"] = {
        "type": "OS::Heat::SoftwareComponent",
        "properties": {
            "configs": [
                {"actions": ["CREATE"], "tool": "script", "config": f"#!/bin/sh\necho made >>{wanted}\n"},
                {"actions": ["DELETE"], "tool": "script", "config": f"#!/bin/sh\necho gone >>{wanted}\n"},
            ]
        },
    }
    stack = await made(manager, hot(resources))
    await manager.delete(stack)
    await manager.wait(stack)
    assert wanted.read_text() == "made\ngone\n"


async def test_a_group_deploys_to_each_server(manager: StackManager, tmp_path: Path) -> None:
    resources = deployed(tmp_path / "counter")
    resources["other"] = {"type": "OS::Nova::Server"}
    resources["deployment"]["type"] = "OS::Heat::SoftwareDeploymentGroup"
    properties = resources["deployment"]["properties"]
    del properties["server"]
    properties["servers"] = {"a": {"get_resource": "server"}, "b": {"get_resource": "other"}}
    outputs = {name: {"get_attr": ["deployment", name]} for name in ("result", "deploy_stdouts", "deploy_status_codes")}
    stack = await made(manager, hot(resources, outputs))
    assert stack.outputs["deploy_status_codes"]["value"] == {"a": 0, "b": 0}
    assert set(stack.outputs["deploy_stdouts"]["value"]) == {"a", "b"}
    assert stack.outputs["result"]["value"]["a"].startswith("fooooo+")
    assert (tmp_path / "counter").read_text() == "1\n1\n"


STRUCTURED = {
    "server": {"type": "OS::Nova::Server"},
    "config": {
        "type": "OS::Heat::StructuredConfig",
        "properties": {"group": "puppet", "config": {"a": {"get_input": "foo"}, "b": [{"get_input": "bar"}]}},
    },
    "deployment": {
        "type": "OS::Heat::StructuredDeployment",
        "properties": {
            "config": {"get_resource": "config"},
            "server": {"get_resource": "server"},
            "input_values": {"foo": "fooooo", "bar": "baaaaa"},
        },
    },
}


async def test_another_tools_configuration_waits_for_an_agent_that_polls_and_signals(manager: StackManager) -> None:
    outputs = {"stdout": {"get_attr": ["deployment", "deploy_stdout"]}}
    stack = await manager.create("soft", hot(STRUCTURED, outputs))
    async with asyncio.timeout(60):
        while not manager.current(stack).get("server") or not manager.current(stack)["server"].data.get("deployments"):
            await asyncio.sleep(0.01)
    (entry,) = manager.current(stack)["server"].shown_metadata["deployments"]
    assert json.loads(entry["config"]) == {"a": "fooooo", "b": ["baaaaa"]}
    assert entry["group"] == "puppet"
    inputs = {item["name"]: item["value"] for item in entry["inputs"]}
    target = manager.target_of(inputs["deploy_signal_id"])
    assert target is manager.current(stack)["deployment"]
    details = {"deploy_stdout": "applied", "deploy_stderr": "", "deploy_status_code": 0}
    await manager.signal(target, {"status": "SUCCESS", "reason": "", "id": "", "data": "", "details": details})
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert stack.outputs["stdout"]["value"] == "applied"
    server = manager.current(stack)["server"]
    await manager.delete(stack)
    await manager.wait(stack)
    assert server.data["deployments"] == []


async def test_without_a_signal_it_is_only_published(manager: StackManager) -> None:
    resources = json.loads(json.dumps(STRUCTURED))
    resources["deployment"]["properties"]["signal_transport"] = "NO_SIGNAL"
    stack = await made(manager, hot(resources))
    assert len(manager.current(stack)["server"].shown_metadata["deployments"]) == 1


async def test_no_message_queue(manager: StackManager) -> None:
    resources = json.loads(json.dumps(STRUCTURED))
    resources["deployment"]["properties"]["signal_transport"] = "ZAQAR_SIGNAL"
    with pytest.raises(InvalidDocument, match="message queue"):
        await manager.create("soft", hot(resources))


async def test_boot_data_from_configurations_and_parts(manager: StackManager) -> None:
    resources = {
        "one": {
            "type": "OS::Heat::CloudConfig",
            "properties": {"cloud_config": {"write_files": [{"path": "/tmp/one", "content": "The one is bär"}]}},
        },
        "two": {"type": "OS::Heat::SoftwareConfig", "properties": {"config": "#!/bin/sh\necho two\n"}},
        "three": {"type": "OS::Heat::SoftwareConfig", "properties": {"config": "#!/bin/sh\necho three\n"}},
        "inner": {
            "type": "OS::Heat::MultipartMime",
            "properties": {"parts": [{"config": {"get_resource": "three"}, "filename": "three.sh"}]},
        },
        "outer": {
            "type": "OS::Heat::MultipartMime",
            "properties": {
                "parts": [
                    {"config": {"get_resource": "one"}},
                    {"config": {"get_resource": "two"}},
                    {"config": {"get_resource": "inner"}, "type": "multipart"},
                    {"config": "plain text", "subtype": "x-other"},
                ]
            },
        },
        "server": {"type": "OS::Nova::Server", "properties": {"user_data": {"get_resource": "outer"}}},
        "simple": {"type": "OS::Nova::Server", "properties": {"user_data": {"get_resource": "two"}}},
    }
    stack = await made(manager, hot(resources))
    current = manager.current(stack)
    assert current["simple"].attributes["boot"] == "#!/bin/sh\necho two\n"
    message = email.message_from_string(current["server"].attributes["boot"])
    parts = [part for part in message.walk() if not part.is_multipart()]
    kinds = ["text/cloud-config", "text/x-shellscript", "text/x-shellscript", "text/x-other"]
    assert [part.get_content_type() for part in parts] == kinds
    assert "The one is" in parts[0].get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert parts[2].get_filename() == "three.sh"
