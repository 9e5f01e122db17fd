"""Plans as trees: what waits under what it waits for, and what is nested beneath its stack, in text and as data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pcloud.api.aws.cloudformation.views import plan_view
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.plan import Change, Plan
from pcloud.stacks.plan_tree import tree
from pcloud.stacks.records import Source
from tests.stacks.test_engine import made


def heat(resources: dict[str, Any], parameters: dict[str, Any] | None = None) -> str:
    return json.dumps({"heat_template_version": "2018-08-31", "parameters": parameters or {}, "resources": resources})


WORD = {"word": {"type": "string"}}
INNER = heat({"one": made({"get_param": "word"}), "two": made("2", depends_on="one")}, WORD)


def outer(word: Any = "w", count: int = 2) -> dict[str, Any]:
    member = {"type": "OS::Heat::TestResource", "properties": {"value": word}}
    return {
        "base": made("1"),
        "web": {"type": "inner.yaml", "properties": {"word": word}, "depends_on": "base"},
        "last": made("3", depends_on=["web", "base"]),
        "group": {"type": "OS::Heat::ResourceGroup", "properties": {"count": count, "resource_def": member}},
    }


def source(resources: dict[str, Any], inner: str = INNER) -> Source:
    return Source(template=heat(resources), files={"inner.yaml": inner})


def shape(text: str) -> list[str]:
    """The lines without types and reasons."""
    return [line.split("  OS::")[0].split("  inner")[0] for line in text.splitlines()]


async def test_a_new_stack(manager: StackManager) -> None:
    plan = manager.plan(None, source(outer()), nested=True)
    assert shape(tree(plan)) == [
        "+ create   base",
        "  + create   web",
        "    + create   web/one",
        "      + create   web/two",
        "    + create   last",
        "+ create   group",
        "  + create   group/0",
        "  + create   group/1",
    ]
    assert "[after base too]" in tree(plan)
    rows = {row["name"]: row for row in map(plan_view, plan.changes)}
    assert rows["last"]["waits_for"] == ["base", "web"]
    assert [row["name"] for row in rows["web"]["beneath"]] == ["one", "two"]
    assert rows["web"]["beneath"][1]["waits_for"] == ["one"]
    assert [row["name"] for row in rows["group"]["beneath"]] == ["0", "1"]
    assert json.loads(json.dumps(rows)) == rows
    assert all(not change.beneath for change in manager.plan(None, source(outer())).changes)


async def test_an_update_of_what_is_nested(manager: StackManager) -> None:
    stack = await manager.create("s", source(outer()))
    await manager.wait(stack)
    assert stack.status == "CREATE_COMPLETE", stack.reason
    assert shape(tree(manager.plan(stack, source(outer()), nested=True))) == [
        "  none     base",
        "    none     web",
        "      none     last",
        "  none     group",
    ]
    other = heat({"one": made({"get_param": "word"}), "three": made("3")}, WORD)
    changed = manager.plan(stack, source(outer(word="new", count=3), other), nested=True)
    assert shape(tree(changed)) == [
        "  none     base",
        "  ~ update   web",
        "    ~ update   web/one",
        "    + create   web/three",
        "    - delete   web/two",
        "      none     last",
        "~ update   group",
        "  ~ update   group/0",
        "  ~ update   group/1",
        "  + create   group/2",
    ]
    gone = manager.plan(stack, source({"base": made("1")}), nested=True)
    assert shape(tree(gone)) == [
        "  none     base",
        "- delete   group",
        "  - delete   group/0",
        "  - delete   group/1",
        "- delete   last",
        "  - delete   web",
        "    - delete   web/two",
        "      - delete   web/one",
    ]


async def test_what_is_not_known_yet_is_said_to_be_so(manager: StackManager) -> None:
    resources = outer(word={"get_attr": ["base", "output"]})
    assert "create   web/one" in tree(manager.plan(None, source(resources), nested=True))
    stack = await manager.create("s", source(resources))
    await manager.wait(stack)
    plan = manager.plan(stack, source({**resources, "base": made("other")}), nested=True)
    (line,) = [line for line in tree(plan).splitlines() if "web/one" in line]
    assert "[if the value turns out to differ]" in line


async def test_what_can_not_be_planned_is_refused_with_its_place(manager: StackManager) -> None:
    bad = heat({"one": {"type": "OS::Zaqar::Queue"}}, WORD)
    with pytest.raises(InvalidDocument, match=r"resources/web/inner\.yaml/resources/one"):
        manager.plan(None, source(outer(), bad), nested=True)


def test_a_chain_of_any_length() -> None:
    rows = [Change(action="create", name=f"r{n}", type="T", waits_for=(f"r{n - 1}",) if n else ()) for n in range(3000)]
    lines = tree(Plan(changes=tuple(rows), notes=("said",))).splitlines()
    assert [line.split()[2] for line in lines[:-1]] == [f"r{n}" for n in range(3000)]
    assert lines[-1] == "note: said"
    assert max(len(line) - len(line.lstrip()) for line in lines) == 32


def test_a_resource_stands_under_the_last_that_it_waits_for() -> None:
    """Whatever the order in which the changes come."""
    needs = {"d": ("a", "c"), "c": ("b",), "b": ("a",), "a": (), "e": ("a",), "f": ("elsewhere",)}
    rows = tuple(Change(action="create", name=name, type="T", waits_for=first) for name, first in needs.items())
    lines = [line.removesuffix("  T") for line in tree(Plan(changes=rows)).splitlines()]
    assert lines == [
        "+ create   a",
        "  + create   b",
        "    + create   c",
        "      + create   d  T  [after a too]",
        "  + create   e",
        "+ create   f",
    ]
