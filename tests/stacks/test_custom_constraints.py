"""Heat's custom constraints of parameters hold for what is here, and refuse as Heat does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pcloud.api.heat import heat_app
from pcloud.model.errors import InvalidDocument
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.platform import NoPlatform
from pcloud.stacks.records import Source, StackRecord
from tests.stacks.lifecycle import changed, made, opened
from tests.stacks.memory_platform import MemoryPlatform
from tests.stacks.serving import serving

SERVER = {"type": "OS::Nova::Server", "properties": {"image": "bookworm", "flavor": "m1.small"}}


def constrained(name: str, value: Any, *, type_name: str = "string", **more: Any) -> Source:
    """A template whose parameter `x` has a custom constraint, and a value for it."""
    body = {
        "heat_template_version": "2018-08-31",
        "parameters": {"x": {"type": type_name, **more, "constraints": [{"custom_constraint": name}]}},
        "resources": {"a": {"type": "OS::Heat::Value", "properties": {"value": {"get_param": "x"}}}},
    }
    return Source(template=json.dumps(body), parameters={"x": value})


def refusal(manager: StackManager, source: Source) -> str:
    """Why a source is refused; empty when it is not."""
    subject = StackRecord(id="i", name="n", status="REVIEW_IN_PROGRESS")
    try:
        manager.validate(subject, source)
    except InvalidDocument as problem:
        return problem.problems[0].message
    return ""


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform()


@pytest.mark.parametrize(
    ("name", "good", "bad", "sentence"),
    [
        ("nova.flavor", "m1.small", "m1.none", "The Flavor (m1.none) could not be found."),
        ("glance.image", "bookworm", "none", "The Image (none) could not be found."),
        (
            "neutron.network",
            "public",
            "net-aaaaaaaaaaaaaaaa",
            "Unable to find network with name or id 'net-aaaaaaaaaaaaaaaa'",
        ),
        ("cinder.volume", "vol-aaaaaaaaaaaaaaaa", "mine", "The Volume (mine) could not be found."),
        ("ip_addr", "10.0.0.1", "10.0.0", "Invalid IP address"),
        ("ip_addr", "fe80::1", "none", "Invalid IP address"),
        ("mac_addr", "00:16:3e:00:00:01", "00:16:3e", "Invalid MAC address."),
        ("net_cidr", "10.0.0.0/8", "10.0.0.0/40", "Invalid net cidr 10.0.0.0/40"),
        ("ip_or_cidr", "10.0.0.1", "10.0.0.1.2", "10.0.0.1.2 is not a valid IP or CIDR"),
        ("dns_name", "a.example.org", "a..b", "'a..b' not in valid format."),
        ("dns_domain", "example.org.", "example.org", "'example.org' not in valid format."),
        ("rel_dns_name", "www", "www.", "'www.' not in valid format."),
        ("iso_8601", "2026-01-01T00:00:00Z", "soon", "'soon' is not a moment as ISO 8601 writes it"),
        ("expiration", "2999-01-01T00:00:00", "1999-01-01T00:00:00", "Expiration 1999-01-01T00:00:00 is invalid"),
        ("cron_expression", "*/5 0 * * 1-5", "often", "Invalid CRON expression: often"),
    ],
)
async def test_values_hold_or_are_refused(manager: StackManager, name: str, good: str, bad: str, sentence: str) -> None:
    assert refusal(manager, constrained(name, good)) == ""
    said = f"Parameter 'x' is invalid: Error validating value '{bad}': {sentence}"
    assert refusal(manager, constrained(name, bad)) == said
    assert refusal(manager, constrained(name, f"{good},{bad}", type_name="comma_delimited_list")) == said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my.thing", '"v" does not validate my.thing (constraint not found)'),
        ("barbican.secret", "Error validating value 'v': there is no secret store (Barbican) here"),
        ("neutron.qos_policy", "Error validating value 'v': The policy (v) could not be found."),
    ],
)
async def test_what_nobody_can_answer_holds_for_nothing(manager: StackManager, name: str, sentence: str) -> None:
    assert refusal(manager, constrained(name, "v")) == f"Parameter 'x' is invalid: {sentence}"
    assert "v'" not in refusal(manager, constrained(name, "v", hidden=True))


async def test_servers_of_any_stack(tmp_path: Path, platform: MemoryPlatform, manager: StackManager) -> None:
    body = {"heat_template_version": "2018-08-31", "resources": {"s": SERVER}}
    stack = await made(manager, "one", Source(template=json.dumps(body)))
    server = manager.current(stack)["s"].physical
    assert refusal(manager, constrained("nova.server", server)) == ""
    user = await made(manager, "user", constrained("nova.server", server))
    await manager.delete(stack)
    await manager.wait(stack)
    assert refusal(manager, constrained("nova.server", server)).endswith(f"The Server ({server}) could not be found.")
    await changed(manager, user, Source(template=json.dumps(body)))  # which has no such parameter


async def test_a_default_and_a_description_count(manager: StackManager) -> None:
    body = {
        "heat_template_version": "2018-08-31",
        "parameters": {
            "x": {
                "type": "string",
                "default": "m1.none",
                "constraints": [{"custom_constraint": "nova.flavor", "description": "Must be a flavor"}],
            }
        },
    }
    assert refusal(manager, Source(template=json.dumps(body))) == "Parameter 'x' is invalid: Must be a flavor"


async def test_nested_templates_are_judged_as_well(manager: StackManager) -> None:
    inner = constrained("nova.flavor", "").template
    body = {
        "heat_template_version": "2018-08-31",
        "resources": {"n": {"type": "inner.yaml", "properties": {"x": "m1.none"}}},
    }
    source = Source(template=json.dumps(body), files={"inner.yaml": inner})
    assert "The Flavor (m1.none)" in refusal(manager, source)


async def test_without_guests_nothing_is_known_of_flavors(tmp_path: Path) -> None:
    manager = await opened(tmp_path, NoPlatform())
    assert refusal(manager, constrained("nova.flavor", "whatever")) == ""
    await manager.close()


async def test_heat_answers_400(manager: StackManager) -> None:
    source = constrained("nova.flavor", "m1.none")
    body = {"stack_name": "s", "template": json.loads(source.template), "parameters": source.parameters}
    async with (
        serving(heat_app(manager, {"good": "admin"}.get)) as url,
        httpx2.AsyncClient(headers={"X-Auth-Token": "good"}) as client,
    ):
        answer = await client.post(f"{url}/v1/admin/stacks", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "StackValidationFailed")
    assert "Parameter 'x' is invalid: Error validating value 'm1.none'" in answer.json()["error"]["message"]
