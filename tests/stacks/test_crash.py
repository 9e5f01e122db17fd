"""A crash at every single store write: the next run carries the operation on to the same end, and makes nothing twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source
from pcloud.stacks.store import SqliteStore
from tests.stacks.crashes import CrashingStore
from tests.stacks.lifecycle import settle


def template(**values: Any) -> Source:
    resources: dict[str, Any] = {
        "a": {"type": "OS::Heat::RandomString", "properties": {"length": values.get("length", 8)}},
        "b": {"type": "OS::Heat::TestResource", "properties": {"value": {"get_attr": ["a", "value"]}}},
        "g": {
            "type": "OS::Heat::ResourceGroup",
            "properties": {"count": 2, "resource_def": {"type": "OS::Heat::RandomString"}},
        },
    }
    if values.get("fail"):
        resources["x"] = {"type": "OS::Heat::TestResource", "depends_on": "b", "properties": {"fail": True}}
    return Source(template=json.dumps({"heat_template_version": "2018-08-31", "resources": resources}))


SCENARIOS = {
    "create": (None, template(), "CREATE_COMPLETE"),
    "failed-create": (None, template(fail=True), "ROLLBACK_COMPLETE"),
    "update-with-replacement": (template(), template(length=9), "UPDATE_COMPLETE"),
    "failed-update": (template(), template(length=9, fail=True), "UPDATE_ROLLBACK_COMPLETE"),
    "delete": (template(), None, "DELETE_COMPLETE"),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_crash_at_every_write(name: str, tmp_path: Path) -> None:
    before, after, end = SCENARIOS[name]
    points = 0
    for point in range(10_000):
        path = tmp_path / f"{point}.db"
        store = CrashingStore(path)
        manager = StackManager(store, NoPlatform())
        await manager.start()
        stack = None
        if before is not None:
            stack = await manager.create("s", before)
            await settle(manager)
        store.left = point

        async def operate(manager: StackManager = manager, stack: Any = stack) -> None:
            if after is None:
                await manager.delete(stack)
            elif stack is None:
                await manager.create("s", after)
            else:
                await manager.update(stack, after)
            await settle(manager)

        work = asyncio.ensure_future(operate())
        deadline = asyncio.get_running_loop().time() + 60
        while not work.done() and not store.crashed:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.001)
        finished = not store.crashed
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await manager.close()
        again = StackManager(SqliteStore(path), NoPlatform())
        await again.start()
        await settle(again)
        found = [item for item in again.stacks.values() if not item.parent]
        if found and not (before is not None and found[0].status == "CREATE_COMPLETE" and point == 0):
            assert found[0].status == end, (point, found[0].status, found[0].reason)
            records = again.records(found[0])
            names = sorted(record.name for record in records)
            assert names == ([] if end in ("DELETE_COMPLETE", "ROLLBACK_COMPLETE") else ["a", "b", "g"]), point
            live = [item for item in again.stacks.values() if item.parent and item.live]
            assert len(live) == (1 if names else 0), point
            if names:
                current = again.current(found[0])
                assert current["b"].attributes["output"] == current["a"].attributes["value"]
        await again.close()
        points += 1
        if finished:
            break
    print(f"{name}: {points} crash points")
    assert points > 5
