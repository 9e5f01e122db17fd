"""Stack policies: what they deny an update is not done, deletions included, whichever way they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from pcloud.api.aws.app import cloudformation_app
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.engine.policy import ALLOW_ALL, denied, read_policy
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import ResourceRecord, StackRecord
from pcloud.stacks.store import SqliteStore
from tests.stacks.serving import serving
from tests.stacks.test_cloudformation_api import Server
from tests.stacks.test_engine import hot, made


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    allow = {"Effect": "Allow", "Action": "Update:*", "Principal": "*", "Resource": "*"}
    return {"Statement": [allow, *({"Principal": "*", **each} for each in statements)]}


def deny(action: str, name: str = "a") -> dict[str, Any]:
    return policy({"Effect": "Deny", "Action": action, "Resource": f"LogicalResourceId/{name}"})


OLD = {"a": made("1", properties={"update_replace_value": "x"}), "b": made("1", depends_on="a")}
CHANGES: dict[str, dict[str, Any]] = {
    "Update:Modify": {**OLD, "a": made("2", properties={"update_replace_value": "x"})},
    "Update:Replace": {**OLD, "a": made("1", properties={"update_replace_value": "y"})},
    "Update:Delete": {"b": made("2")},
}


async def created(manager: StackManager, given: dict[str, Any] | None) -> StackRecord:
    stack = await manager.create("one", hot(OLD), policy=given)
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    return stack


@pytest.mark.parametrize("action", CHANGES)
async def test_what_is_denied_is_not_done(manager: StackManager, action: str) -> None:
    stack = await created(manager, deny(action))
    before = {name: record.physical for name, record in manager.current(stack).items()}
    await manager.update(stack, hot(CHANGES[action]))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    reasons = [event.reason for event in manager.events(stack) if "ROLLBACK_IN_PROGRESS" in event.status]
    assert f"Action denied by stack policy: {action} of a (OS::Heat::TestResource)" in reasons[0]
    assert {name: record.physical for name, record in manager.current(stack).items()} == before
    assert manager.current(stack)["a"].attributes == manager.current(stack)["b"].attributes == {"output": "1"}
    assert not [event for event in manager.events(stack) if event.status.startswith("DELETE")]


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("others", [set(CHANGES), {"Update:Modify"}])
async def test_what_is_allowed_is_done(manager: StackManager, action: str, others: set[str]) -> None:
    """Other actions may be denied, and a policy for one update goes before the stack's own."""
    elsewhere = policy(*({"Effect": "Deny", "Action": each, "Resource": "*"} for each in others - {action}))
    stack = await created(manager, policy({"Effect": "Deny", "Action": "Update:*", "Resource": "*"}))
    wanted = CHANGES[action] if action != "Update:Delete" else {"b": made("1")}
    await manager.update(stack, hot(wanted), policy=elsewhere)
    await manager.wait(stack)
    assert stack.status == "UPDATE_COMPLETE", stack.reason
    assert ("a" in manager.current(stack)) == (action != "Update:Delete")


async def test_a_change_of_metadata_is_a_change(manager: StackManager) -> None:
    stack = await created(manager, deny("Update:Modify"))
    await manager.update(stack, hot({**OLD, "a": {**OLD["a"], "metadata": {"k": "v"}}}))
    await manager.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    assert manager.current(stack)["a"].metadata == {}


async def test_a_policy_keeps_nothing_from_deletion_of_the_stack(manager: StackManager) -> None:
    stack = await created(manager, deny("Update:*", "*"))
    await manager.delete(stack)
    await manager.wait(stack)
    assert stack.status == "DELETE_COMPLETE"


async def test_policies_over_the_api(manager: StackManager) -> None:
    async with serving(cloudformation_app(manager, {"good": "admin"}.get)) as url:
        server = Server(manager, url)
        await created(manager, None)
        assert "StackPolicyBody" not in await server.call("get_stack_policy", StackName="one")
        wanted = json.dumps(deny("Update:Delete"))
        await server.call("set_stack_policy", StackName="one", StackPolicyBody=wanted)
        answer = await server.call("get_stack_policy", StackName="one")
        assert json.loads(answer["StackPolicyBody"]) == json.loads(wanted)
        for bad in ("{", "[]", '{"Statement": [{"Effect": "Perhaps"}]}'):
            with pytest.raises(botocore.exceptions.ClientError):
                await server.call("set_stack_policy", StackName="one", StackPolicyBody=bad)
        less = hot({"b": OLD["b"] | {"depends_on": []}}).template
        await server.call("update_stack", StackName="one", TemplateBody=less)
        await manager.wait(manager.get("one"))
        assert manager.get("one").status == "UPDATE_ROLLBACK_COMPLETE"

        other = json.dumps(deny("Update:Replace"))  # a new policy holds for the updates after the one that brings it
        await server.call("update_stack", StackName="one", TemplateBody=less, StackPolicyBody=other)
        await manager.wait(manager.get("one"))
        assert manager.get("one").status == "UPDATE_ROLLBACK_COMPLETE"
        assert manager.get("one").policy == json.loads(other)
        await server.call("update_stack", StackName="one", TemplateBody=less)
        await manager.wait(manager.get("one"))
        assert manager.get("one").status == "UPDATE_COMPLETE", manager.get("one").reason
        everything = json.dumps(ALLOW_ALL)
        with pytest.raises(botocore.exceptions.ClientError):
            await server.call("update_stack", StackName="one", TemplateBody="{}", StackPolicyBody=everything)
        assert manager.get("one").policy == json.loads(other)


async def test_a_policy_survives_a_restart(tmp_path: Path, manager: StackManager) -> None:
    await created(manager, deny("Update:Delete"))
    again = StackManager(SqliteStore(tmp_path / "stacks.db"), NoPlatform())
    await again.start()
    stack = again.get("one")
    await again.update(stack, hot({"b": made("2")}))
    await again.wait(stack)
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    await again.close()


RULES: list[tuple[dict[str, Any], str, bool]] = [
    ({"Effect": "Deny", "Action": "Update:Delete", "Resource": "LogicalResourceId/web*"}, "Update:Delete", True),
    ({"Effect": "Deny", "Action": "Update:Delete", "Resource": "LogicalResourceId/db"}, "Update:Delete", False),
    ({"Effect": "Deny", "NotAction": "Update:Modify", "Resource": "*"}, "Update:Modify", False),
    ({"Effect": "Deny", "NotAction": "Update:Modify", "Resource": "*"}, "Update:Delete", True),
    ({"Effect": "Deny", "Action": "Update:*", "NotResource": "LogicalResourceId/web1"}, "Update:Delete", False),
    ({"Effect": "Deny", "Action": "Update:*", "NotResource": "LogicalResourceId/db"}, "Update:Delete", True),
    (
        {"Effect": "Deny", "Action": ["Update:Replace", "Update:Delete"], "Resource": "*"}
        | {"Condition": {"StringEquals": {"ResourceType": ["AWS::EC2::Instance"]}}},
        "Update:Delete",
        True,
    ),
    (
        {"Effect": "Deny", "Action": "Update:*", "Resource": "*"}
        | {"Condition": {"StringLike": {"ResourceType": "AWS::RDS::*"}}},
        "Update:Delete",
        False,
    ),
]


@pytest.mark.parametrize(("statement", "action", "refused"), RULES)
def test_statements(statement: dict[str, Any], action: str, refused: bool) -> None:
    record = ResourceRecord(id="1", stack="1", name="web1", type="AWS::EC2::Instance", status="CREATE_COMPLETE")
    given = read_policy(json.dumps(policy(statement)))
    assert bool(denied(given, record, action)) == refused
    assert denied(
        {"Statement": [{"Effect": "Allow", "Action": "Update:Modify", "Resource": "*"}]}, record, "Update:Delete"
    )
    assert denied(None, record, action) == ""
    with pytest.raises(InvalidDocument):
        read_policy("x" * 20_000)
