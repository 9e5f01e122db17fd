"""The Heat endpoint's smaller operations: lists and their filters, marks, times, what it tells of types and functions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest

from pcloud.api.heat import heat_app
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.hot import VERSIONS
from pcloud.stacks.reading import read_template
from pcloud.stacks.types.registry import types
from tests.stacks.serving import serving

TEMPLATE = {
    "heat_template_version": "2018-08-31",
    "parameters": {
        "word": {"type": "string", "default": "x"},
        "fixed": {"type": "string", "default": "y", "immutable": True},
        "fail": {"type": "boolean", "default": False},
    },
    "resources": {
        "a": {
            "type": "OS::Heat::TestResource",
            "properties": {"value": {"get_param": "word"}, "fail": {"get_param": "fail"}},
        },
    },
}


class Heat:
    """The endpoint, and its manager."""

    def __init__(self, manager: StackManager, client: httpx2.AsyncClient) -> None:
        self.manager, self._client = manager, client

    async def __call__(self, method: str, path: str, body: Any = None, expected: int = 200, **query: Any) -> Any:
        answer = await self._client.request(method, path, json=body, params=query)
        assert answer.status_code == expected, answer.text
        return answer.json() if answer.text else None

    async def create(self, name: str, **more: Any) -> str:
        """Make a stack that is at its end on return; return its path."""
        made = await self("POST", "/stacks", {"stack_name": name, "template": TEMPLATE, **more}, 201)
        await self.manager.wait(self.manager.get(name))
        return f"/stacks/{name}/{made['stack']['id']}"

    async def update(self, path: str, method: str = "PATCH", status: int = 202, **body: Any) -> Any:
        answer = await self(method, path, body, status)
        await self.manager.wait(self.manager.get(path.rsplit("/", 1)[-1]))
        return answer

    async def names(self, **query: Any) -> list[str]:
        return [item["stack_name"] for item in (await self("GET", "/stacks", **query))["stacks"]]


@pytest.fixture
async def heat(manager: StackManager) -> AsyncIterator[Heat]:
    async with (
        serving(heat_app(manager, {"good": "admin"}.get)) as url,
        httpx2.AsyncClient(base_url=f"{url}/v1/admin", headers={"X-Auth-Token": "good"}, timeout=120) as client,
    ):
        yield Heat(manager, client)


async def test_a_marked_resource_is_replaced_by_the_next_update(heat: Heat) -> None:
    path = await heat.create("s")
    before = heat.manager.current(heat.manager.get("s"))["a"]
    mark: Mapping[str, Any] = {"mark_unhealthy": True, "resource_status_reason": "smoke"}
    await heat("PATCH", f"{path}/resources/a", mark)
    shown = (await heat("GET", f"{path}/resources/a"))["resource"]
    assert shown["resource_status"] == "CHECK_FAILED"
    events = (await heat("GET", f"{path}/resources/a/events"))["events"]
    assert (events[-1]["resource_status"], events[-1]["resource_status_reason"]) == ("CHECK_FAILED", "smoke")
    await heat.update(path)
    after = heat.manager.current(heat.manager.get("s"))["a"]
    assert after.id != before.id
    assert (await heat("GET", f"{path}/resources/a"))["resource"]["resource_status"] == "CREATE_COMPLETE"


async def test_a_mark_can_be_taken_back(heat: Heat) -> None:
    path = await heat.create("s")
    before = heat.manager.current(heat.manager.get("s"))["a"]
    await heat("PATCH", f"{path}/resources/a", {"mark_unhealthy": True})
    await heat("PATCH", f"{path}/resources/a", {"mark_unhealthy": False})
    await heat.update(path)
    assert heat.manager.current(heat.manager.get("s"))["a"].id == before.id
    await heat("PATCH", f"{path}/resources/a", {"mark_unhealthy": "maybe"}, 400)
    await heat("PATCH", f"{path}/resources/b", {"mark_unhealthy": True}, 404)


async def test_lists_are_filtered_sorted_and_cut(heat: Heat) -> None:
    for name, tags in (("b", "red,large"), ("a", "red"), ("c", "blue")):
        await heat.create(name, tags=tags)
    await heat.create("bad", parameters={"fail": True})
    assert await heat.names(sort_keys="stack_name", tags="red") == ["a", "b"]
    assert await heat.names(tags="red,large") == ["b"]
    assert await heat.names(sort_keys="stack_name", tags_any="large,blue") == ["b", "c"]
    assert await heat.names(sort_keys="stack_name", not_tags="red,large") == ["a", "bad", "c"]
    assert await heat.names(sort_keys="stack_name", not_tags_any="red,blue") == ["bad"]
    assert await heat.names(status="FAILED") == ["bad"]
    assert await heat.names(status="CREATE_FAILED") == ["bad"]
    assert await heat.names(status="COMPLETE", action="CREATE", sort_keys="stack_name") == ["a", "b", "c"]
    assert await heat.names(sort_keys="stack_name", sort_dir="desc") == ["c", "bad", "b", "a"]
    assert await heat.names() == ["bad", "c", "a", "b"]
    first = await heat("GET", "/stacks", sort_keys="stack_name", limit=2, with_count="true")
    assert ([item["stack_name"] for item in first["stacks"]], first["count"]) == (["a", "b"], 4)
    marker = first["stacks"][-1]["id"]
    assert await heat.names(sort_keys="stack_name", limit=2, marker=marker) == ["bad", "c"]
    for query in ({"sort_keys": "colour"}, {"sort_dir": "up"}, {"limit": "few"}):
        await heat("GET", "/stacks", None, 400, **query)
    await heat("GET", "/stacks", None, 404, marker="none")


async def test_an_update_has_the_time_it_is_given(heat: Heat) -> None:
    path = await heat.create("s")
    slow = {
        **TEMPLATE,
        "resources": {"b": {"type": "OS::Heat::WaitCondition", "properties": {"handle": "x", "timeout": 9}}},
    }
    assert "timeout_mins" in (await heat("PUT", path, {"template": slow, "timeout_mins": "soon"}, 400))["explanation"]
    assert "stack check" in (await heat("PUT", path, {"template": TEMPLATE, "converge": True}, 400))["explanation"]
    updated = heat.manager.get("s")
    waiting = json.loads(json.dumps(TEMPLATE))
    waiting["resources"]["a"]["properties"]["action_wait_secs"] = {"update": 3600}
    await heat("PUT", path, {"template": waiting, "timeout_mins": 7}, 202)
    assert updated.operation is not None
    assert updated.operation.deadline == updated.operation.started + 7 * 60
    await heat("POST", f"{path}/actions", {"cancel_without_rollback": None}, 201)
    await heat.manager.wait(updated)


async def test_what_a_patch_clears_and_what_must_stay(heat: Heat) -> None:
    path = await heat.create("s", parameters={"word": "given"})

    def value() -> Any:
        return heat.manager.current(heat.manager.get("s"))["a"].properties["value"]

    await heat.update(path)
    assert value() == "given"
    await heat.update(path, clear_parameters=["word"])
    assert value() == "x"
    refused = await heat.update(path, status=400, parameters={"fixed": "z"})
    assert "immutable" in refused["explanation"]


async def test_environment_files_lie_upon_each_other(heat: Heat) -> None:
    files = {"one.yaml": "parameters: {word: one, fixed: one}", "two.yaml": '{"parameters": {"word": "two"}}'}
    path = await heat.create("s", files=files, environment_files=["one.yaml", "two.yaml"])
    shown = (await heat("GET", path))["stack"]["parameters"]
    assert (shown["word"], shown["fixed"]) == ("two", "one")


@pytest.mark.parametrize("language", ["hot", "cfn"])
async def test_every_type_gives_a_template_that_can_be_read(heat: Heat, language: str) -> None:
    for name in sorted(name for name in types() if "::" in name):
        told = await heat("GET", f"/resource_types/{name}/template", template_type=language)
        read = read_template(json.dumps(told))
        (resource,) = read.resources.values()
        assert resource.type == name
        assert len(resource.properties) == len(read.parameters)
        assert set(resource.properties) <= set(types()[name].schema)
    await heat("GET", "/resource_types/No::Such/template", None, 404)
    await heat("GET", "/resource_types/OS::Heat::None/template", None, 400, template_type="xml")


async def test_functions_of_a_version(heat: Heat) -> None:
    async def names(version: str) -> set[str]:
        told = (await heat("GET", f"/template_versions/{version}/functions"))["template_functions"]
        assert all(set(row) == {"functions", "description"} for row in told)
        assert any(row["description"] for row in told)
        return {row["functions"] for row in told}

    oldest, newest = [await names(f"heat_template_version.{version}") for version in (VERSIONS[0], VERSIONS[-1])]
    assert "Fn::Select" in oldest - newest
    assert {"yaql", "if", "make_url"} <= newest - oldest
    assert "Fn::Sub" in await names("AWSTemplateFormatVersion.2010-09-09")
    await heat("GET", "/template_versions/heat_template_version.1999-01-01/functions", None, 404)
