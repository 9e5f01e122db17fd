"""What the Heat endpoint takes, masks and refuses: environments, tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from pcloud.api.heat import heat_app
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.heat_environment import HeatEnvironment, read_environments
from tests.stacks.serving import serving

TEMPLATE = {
    "heat_template_version": "2018-08-31",
    "parameters": {"pw": {"type": "string", "hidden": True}, "word": {"type": "string", "default": "x"}},
    "resources": {"a": {"type": "OS::Heat::TestResource", "properties": {"value": {"get_param": "word"}}}},
}


def app(manager: StackManager, **options: Any) -> Any:
    return serving(heat_app(manager, {"good": "admin"}.get, **options))


async def create(url: str, environment: Any, **more: Any) -> httpx2.Response:
    body = {"stack_name": "s", "template": TEMPLATE, "environment": environment, **more}
    async with httpx2.AsyncClient(headers={"X-Auth-Token": "good"}) as client:
        return await client.post(f"{url}/v1/admin/stacks", json=body)


async def test_hidden_defaults_are_not_shown(manager: StackManager) -> None:
    """Nor those that this template does not know: one within it may hide them."""
    async with app(manager) as url:
        given = {"parameters": {"word": "seen"}, "parameter_defaults": {"pw": "SECRET", "other": "HIDDEN", "word": "y"}}
        made = (await create(url, given)).json()["stack"]
        async with httpx2.AsyncClient(headers={"X-Auth-Token": "good"}) as client:
            shown = await client.get(f"{url}/v1/admin/stacks/s/{made['id']}/environment")
    assert "SECRET" not in shown.text
    assert "HIDDEN" not in shown.text
    assert shown.json()["parameters"] == {"word": "seen"}
    assert shown.json()["parameter_defaults"]["word"] == "y"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"resource_registry": {"resources": {"a": {"hooks": "pre-create"}}}}, "hooks of the resource a"),
        ({"resource_registry": {"resources": {"a": {"restricted_actions": "replace"}}}}, "stack policy"),
        ({"resource_registry": {"resources": {"a": {"OS::Heat::TestResource": "x.yaml"}}}}, "whole stack"),
        ({"event_sinks": [{"type": "zaqar-queue"}]}, "no message queue"),
        ({"encrypted_param_names": ["pw"]}, "decrypted"),
        ({"parameter_merge_strategies": {"word": "merge"}}, "'merge'"),
        ({"paramters": {"pw": "x"}}, "'paramters' is no part"),
        ({"parameters": ["pw"]}, "parameters must be a map"),
    ],
)
async def test_nothing_in_an_environment_is_ignored(manager: StackManager, environment: Any, sentence: str) -> None:
    async with app(manager) as url:
        answer = await create(url, environment)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
    assert not list(manager.stacks.values())


def test_environments_lie_upon_each_other() -> None:
    first = "parameters: {a: 1, b: 2}\nresource_registry: {base_url: 'file:///x/', 'My::Type': one.yaml}\n"
    second = json.dumps({"parameters": {"b": 3}, "parameter_defaults": {"c": 4}, "event_sinks": []})
    assert read_environments([first, second, "", None]) == HeatEnvironment(
        parameters={"a": 1, "b": 3}, defaults={"c": 4}, registry={"My::Type": "one.yaml"}
    )
    with pytest.raises(InvalidDocument):
        read_environments(["- a list"])


async def test_without_a_token_only_as_configured_and_only_programs_of_this_host(manager: StackManager) -> None:
    async with app(manager) as closed, app(manager, open_loopback=True) as opened, httpx2.AsyncClient() as client:
        assert (await client.get(f"{closed}/v1/admin/stacks")).status_code == 401
        assert (await client.get(f"{opened}/v1/admin/stacks")).status_code == 200
        # A page in a browser of this host is no program that its user started.
        for headers in ({"Origin": "http://evil.test"}, {"Host": "evil.test"}):
            assert (await client.get(f"{opened}/v1/admin/stacks", headers=headers)).status_code == 401
