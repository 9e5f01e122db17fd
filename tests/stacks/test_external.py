"""`external_id`: a resource of one stack that stands for a thing of another, which is looked at and never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.records import Source
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_platform import MemoryPlatform, guests

SERVER = {"type": "OS::Nova::Server", "properties": {"image": "bookworm", "flavor": "m1.small"}}


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform()


def hot(outputs: dict[str, Any] | None = None, **resources: Any) -> Source:
    told = {name: {"value": value} for name, value in (outputs or {}).items()}
    return Source(template=json.dumps({"heat_template_version": "2018-08-31", "resources": resources, "outputs": told}))


def standing(identity: str, **more: Any) -> dict[str, Any]:
    return {"type": "OS::Nova::Server", "external_id": identity, **more}


TOLD = {"address": {"get_attr": ["there", "first_address"]}, "id": {"get_resource": "there"}}


async def test_it_is_used_and_outlives_its_user(
    manager: StackManager, platform: MemoryPlatform, tmp_path: Path
) -> None:
    owner = await made(manager, "owner", hot(server=SERVER))
    server = manager.current(owner)["server"].physical
    source = hot(TOLD, there=standing(server))
    (planned,) = manager.plan(None, source, "user").changes
    assert (planned.action, planned.type) == ("create", "OS::Nova::Server")
    user = await made(manager, "user", source)
    assert {name: told["value"] for name, told in user.outputs.items()} == {"address": "10.88.0.9", "id": server}
    assert [change.action for change in manager.plan(user, source).changes] == ["none"]
    assert list(guests(platform)) == ["server"]
    found = manager.find(server)
    assert found is not None
    assert found.stack == owner.id
    await manager.close()

    manager = await opened(tmp_path, platform)
    user = manager.get("user")
    await manager.detect_drift(user)
    assert user.drift["status"] == "IN_SYNC"
    await changed(manager, user, hot(more={"type": "OS::Heat::Value", "properties": {"value": "v"}}))
    assert list(guests(platform)) == ["server"], "an update that no longer names it"
    again = await made(manager, "again", hot(there=standing(server, deletion_policy="delete")))
    await manager.delete(again)
    await manager.wait(again)
    assert again.status == "DELETE_COMPLETE"
    assert list(guests(platform)) == ["server"], "a delete"
    await manager.close()


async def test_what_is_not_there_is_refused_before_anything_starts(manager: StackManager) -> None:
    value = await made(manager, "value", hot(a={"type": "OS::Heat::TestResource", "properties": {"value": "v"}}))
    for wanted in ("nothing", manager.current(value)["a"].physical):
        sentence = rf"Invalid external resource: Resource {wanted} \(OS::Nova::Server\) can not be found"
        with pytest.raises(InvalidDocument, match=sentence):
            await manager.create("user", hot(there=standing(wanted)))
    with pytest.raises(InvalidDocument, match="can not depend on others: a"):
        await manager.create("user", hot(a=SERVER, there=standing("x", depends_on="a")))
    with pytest.raises(InvalidDocument, match="'external_id' is needed"):
        await manager.create("user", hot(there={"type": "pcloud:external"}))
    assert [stack.name for stack in manager.stacks.values()] == ["value"]


async def test_it_does_not_become_another_nor_our_own(manager: StackManager, platform: MemoryPlatform) -> None:
    owner = await made(manager, "owner", hot(one=SERVER, two=SERVER))
    one, two = (manager.current(owner)[name].physical for name in ("one", "two"))
    user = await made(manager, "user", hot(TOLD, there=standing(one)))
    for other in (standing(two), SERVER):
        await manager.update(user, hot(TOLD, there=other))
        await manager.wait(user)
        assert user.status == "UPDATE_ROLLBACK_COMPLETE"
        assert "Update to property external_id of there" in manager.events(user)[-1].reason
        assert user.outputs["id"]["value"] == one
    await manager.update(owner, hot(one=standing(one), two=SERVER))
    await manager.wait(owner)
    assert owner.status == "UPDATE_ROLLBACK_COMPLETE"
    assert sorted(guests(platform)) == ["one", "two"]


async def test_of_what_is_gone_nothing_is_told(manager: StackManager) -> None:
    owner = await made(manager, "owner", hot(server=SERVER))
    user = await made(manager, "user", hot(TOLD, there=standing(manager.current(owner)["server"].physical)))
    await manager.delete(owner)
    await manager.wait(owner)
    await manager.detect_drift(user)
    assert user.drift["status"] == "DRIFTED"
    assert manager.resource_value(manager.current(user)["there"], "first_address", []) is None
    await manager.delete(user)
    await manager.wait(user)
    assert user.status == "DELETE_COMPLETE"
