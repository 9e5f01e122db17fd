"""A record that can not be read keeps its own stack from work, and the daemon from nothing."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pcloud.model.errors import Conflict
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source
from tests.stacks.damage import spoil
from tests.stacks.lifecycle import opened
from tests.stacks.test_engine import hot, made


async def filled(folder: Path) -> dict[str, str]:
    """Store three stacks, one of them with a nested one; return what they and their resources are called."""
    manager = await opened(folder, NoPlatform())
    inner = {"heat_template_version": "2018-08-31", "resources": {"deep": made()}}
    family = Source(
        template=json.dumps({"heat_template_version": "2018-08-31", "resources": {"nested": {"type": "inner.yaml"}}}),
        files={"inner.yaml": json.dumps(inner)},
    )
    ids: dict[str, str] = {}
    for name, source in (("broken", hot({"a": made()})), ("whole", hot({"a": made()})), ("family", family)):
        stack = await manager.create(name, source)
        await manager.wait(stack)
        assert stack.status == "CREATE_COMPLETE", stack.reason
    for stack in manager.stacks.values():
        ids["child" if stack.parent else stack.name] = stack.id
        ids.update({f"{stack.name}.{record.name}": record.id for record in manager.records(stack)})
        if stack.parent:
            (ids["deep"],) = [record.id for record in manager.records(stack)]
    await manager.close()
    return ids


async def test_a_resource_that_can_not_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = await filled(tmp_path)
    spoil(tmp_path, "resource", ids["broken.a"], deletion_policy={"Ref": "P"})
    with caplog.at_level(logging.ERROR):
        manager = await opened(tmp_path, NoPlatform())
    assert ids["broken.a"] in caplog.text
    sentence = r"Stack \[broken\] can not be used: the record of its resource a can not be read .*deletion_policy"
    with pytest.raises(Conflict, match=sentence):
        manager.get("broken")
    stack = manager.stacks[ids["broken"]]
    with pytest.raises(Conflict, match=sentence):
        await manager.update(stack, hot({"a": made("2")}))
    with pytest.raises(Conflict, match="already exists"):
        await manager.create("broken", hot({"a": made()}))
    await manager.store.flush()
    assert "can not be read" in manager.events(stack)[-1].reason
    assert stack.status == "CREATE_COMPLETE"

    whole = manager.get("whole")
    await manager.update(whole, hot({"a": made("2")}))
    await manager.wait(whole)
    assert whole.status == "UPDATE_COMPLETE"
    await manager.close()


@pytest.mark.parametrize("changes", [{"status": 7}, {}])
async def test_a_stack_that_can_not_be_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    ids = await filled(tmp_path)
    spoil(tmp_path, "stack", ids["broken"], **changes)
    manager = await opened(tmp_path, NoPlatform())
    name = "broken" if changes else ids["broken"]  # nothing more is known of bytes that are no record
    with pytest.raises(Conflict, match="its record can not be read"):
        manager.get(name)
    assert manager.get("whole").status == "CREATE_COMPLETE"
    await manager.close()
    with sqlite3.connect(tmp_path / "stacks.db") as store:  # it is left as it was, for whoever mends it
        (left,) = store.execute("SELECT count(*) FROM resource WHERE stack = ?", (ids["broken"],)).fetchone()
    store.close()
    assert left == 1


async def test_a_nested_stack_takes_its_family_aside(tmp_path: Path) -> None:
    ids = await filled(tmp_path)
    spoil(tmp_path, "resource", ids["deep"], requires=7)
    manager = await opened(tmp_path, NoPlatform())
    for name in ("family", ids["child"]):
        with pytest.raises(Conflict, match="the record of its resource deep of the stack family-nested"):
            manager.get(name)
    assert manager.get("broken").status == "CREATE_COMPLETE"
    await manager.close()


async def test_an_operation_under_way_is_not_carried_on(tmp_path: Path) -> None:
    manager = await opened(tmp_path, NoPlatform())
    slow = made(properties={"action_wait_secs": {"create": 3600}})
    stack = await manager.create("slow", hot({"a": slow}))
    await manager.store.flush()
    await manager.close()
    spoil(tmp_path, "stack", stack.id, generation="many")
    again = await opened(tmp_path, NoPlatform())
    assert again.stacks[stack.id].status == "CREATE_IN_PROGRESS"
    with pytest.raises(Conflict, match="can not be read"):
        again.get("slow")
    await again.wait(again.stacks[stack.id])  # nothing runs that it would wait for
    await again.close()


async def test_a_change_set_and_a_key_that_can_not_be_read_are_not_there(tmp_path: Path) -> None:
    manager = await opened(tmp_path, NoPlatform())
    stack = await manager.create("one", hot({"a": made()}))
    await manager.wait(stack)
    change_set = await manager.create_change_set("one", "next", hot({"a": made("2")}), kind="UPDATE")
    key, _ = manager.make_key("somebody", stack.id, "token")
    await manager.close()
    spoil(tmp_path, "thing", change_set.id)
    spoil(tmp_path, "thing", key, secret=7)
    again = await opened(tmp_path, NoPlatform())
    assert (again.change_sets, again.keys) == ({}, {})
    assert again.get("one").status == "CREATE_COMPLETE"
    await again.close()
