"""The native REST interface of stacks, `/v1/stacks…` and `/v1/access-keys`, and the ports of CloudFormation and Heat.

Concurrency: handlers run on the event loop of the stack manager (`app.state.stacks`) and only await it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from pcloud.api.access import need
from pcloud.api.aws.app import cloudformation_app
from pcloud.api.aws.cloudformation.views import event_view, plan_view, resource_view, stack_view
from pcloud.api.heat import heat_app
from pcloud.api.heat.views import source_from
from pcloud.api.server import HttpServer
from pcloud.cpe.settings import StackSettings, split_address
from pcloud.cpe.tokens import Role, TokenBook
from pcloud.model.errors import NotFound, PcloudError
from pcloud.stacks.engine.manager import StackManager
from pcloud.stacks.guests.platform import EnginePlatform
from pcloud.stacks.plan_tree import tree
from pcloud.stacks.platform import Platform
from pcloud.stacks.records import new_id
from pcloud.stacks.store import SqliteStore

router = APIRouter(tags=["stacks"])
Given = Annotated[dict[str, Any], Body()]


def _manager(request: Request) -> StackManager:
    manager: StackManager = request.app.state.stacks
    return manager


def _name(given: dict[str, Any]) -> str:
    name = given.get("name")
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 128
        or not name[0].isalpha()
        or not name.replace("-", "a").isalnum()
    ):
        raise PcloudError.of(
            "BAD_NAME", "a stack's name is letters, digits and hyphens, and begins with a letter", path="name"
        )
    return name


@router.get("/v1/stacks", dependencies=[need(Role.VIEWER)])
async def stacks(request: Request) -> list[dict[str, Any]]:
    """List the live stacks."""
    manager = _manager(request)
    return [stack_view(manager, stack) for stack in manager.stacks.values() if stack.live and not stack.parent]


@router.post("/v1/stacks", dependencies=[need(Role.OPERATOR)])
async def create(request: Request, given: Given) -> dict[str, Any]:
    """Create a stack: `name`, `template`, `parameters`, `environment`, `files`, `on_failure`, `timeout` (minutes)."""
    manager = _manager(request)
    on_failure = given.get("on_failure", "ROLLBACK")
    if on_failure not in ("ROLLBACK", "DELETE", "DO_NOTHING"):
        raise PcloudError.of("BAD_VALUE", "on_failure is ROLLBACK, DELETE or DO_NOTHING", path="on_failure")
    timeout = given.get("timeout") or 0
    if not isinstance(timeout, int) or timeout < 0:
        raise PcloudError.of("BAD_VALUE", "timeout is a number of minutes", path="timeout")
    stack = await manager.create(
        _name(given), source_from(given, None), on_failure=on_failure, timeout=timeout, owner="native"
    )
    return stack_view(manager, stack)


@router.post("/v1/stacks/plan", dependencies=[need(Role.VIEWER)])
async def plan(request: Request, given: Given) -> dict[str, Any]:
    """Say what a create or an update of `name` would do; nothing happens."""
    manager = _manager(request)
    name = _name(given)
    try:
        stack = manager.get(name)
    except NotFound:
        stack = None
    judged = manager.plan(stack, source_from(given, None, stack.source if stack else None), name, nested=True)
    return {
        "changes": [plan_view(change) for change in judged.changes],
        "notes": list(judged.notes),
        "tree": tree(judged),
    }


@router.get("/v1/stacks/{name}", dependencies=[need(Role.VIEWER)])
async def show(request: Request, name: str) -> dict[str, Any]:
    """Show a stack with its resources."""
    manager = _manager(request)
    stack = manager.get(name, aside=True)
    rows = [resource_view(manager, stack, record) for record in manager.current(stack).values()]
    return {**stack_view(manager, stack), "Resources": rows}


@router.put("/v1/stacks/{name}", dependencies=[need(Role.OPERATOR)])
async def update(request: Request, name: str, given: Given) -> dict[str, Any]:
    """Update a stack."""
    manager = _manager(request)
    stack = manager.get(name)
    await manager.update(stack, source_from(given, None, stack.source))
    return stack_view(manager, stack)


@router.delete("/v1/stacks/{name}", dependencies=[need(Role.OPERATOR)], status_code=202)
async def delete(request: Request, name: str) -> dict[str, Any]:
    """Delete a stack."""
    manager = _manager(request)
    stack = manager.get(name, aside=True)
    await manager.delete(stack)
    return stack_view(manager, stack)


@router.get("/v1/stacks/{name}/events", dependencies=[need(Role.VIEWER)])
async def events(request: Request, name: str, after: str = "") -> list[dict[str, Any]]:
    """List a stack's events, oldest first; with `after` those that came after the event of that id."""
    manager = _manager(request)
    stack = manager.get(name, aside=True)
    found = manager.events(stack)
    seen = next((number for number, event in enumerate(found, 1) if event.id == after), 0) if after else 0
    return [event_view(manager, stack, event) for event in found[seen:]]


@router.post("/v1/access-keys", dependencies=[need(Role.ADMIN)])
async def create_key(request: Request) -> dict[str, str]:
    """Make an access key for the CloudFormation endpoint. The secret is shown this once."""
    manager = _manager(request)
    key, secret = manager.make_key("native", "", new_id())
    await manager.store.flush()
    return {"access_key_id": key, "secret_access_key": secret}


@router.get("/v1/access-keys", dependencies=[need(Role.ADMIN)])
async def keys(request: Request) -> list[dict[str, Any]]:
    """List access keys, without their secrets."""
    known = _manager(request).keys.values()
    return [{"access_key_id": key.id, "user": key.user, "stack": key.stack, "created": key.created} for key in known]


@router.delete("/v1/access-keys/{key}", dependencies=[need(Role.ADMIN)])
async def delete_key(request: Request, key: str) -> dict[str, str]:
    """Remove an access key."""
    manager = _manager(request)
    if key not in manager.keys:
        raise NotFound.of("NO_SUCH_KEY", f"there is no access key {key}")
    manager.drop_key(key)
    await manager.store.flush()
    return {"access_key_id": key}


async def open_stacks(home: Path, platform: Platform, tokens: TokenBook, settings: StackSettings) -> StackManager:
    """Open `stacks.db` in the daemon's home and carry on with what was under way."""
    manager = StackManager(
        SqliteStore(home / "stacks.db"),
        platform,
        metadata_url=f"http://{settings.cloudformation}",
        keep_deleted=settings.keep_deleted_days * 86400,
    )
    if isinstance(platform, EnginePlatform):
        platform.serve = lambda host, port: HttpServer(cloudformation_app(manager, _authentication(tokens)), host, port)
    await manager.start()
    return manager


def _authentication(tokens: TokenBook) -> Callable[[str], str | None]:
    def authenticate(token: str) -> str | None:
        role = tokens.role(token)
        return role.name.lower() if role is not None else None

    return authenticate


def stack_servers(manager: StackManager, tokens: TokenBook, settings: StackSettings) -> list[HttpServer]:
    """Return the servers of the CloudFormation port (8000), CloudWatch's (8003) and Heat's (8004), not started yet."""
    authenticate = _authentication(tokens)
    query = cloudformation_app(manager, authenticate)
    return [
        HttpServer(query, *split_address(settings.cloudformation)),
        HttpServer(query, *split_address(settings.cloudwatch)),
        HttpServer(
            heat_app(manager, authenticate, open_loopback=settings.heat_without_token), *split_address(settings.heat)
        ),
    ]


class Closing:
    """Ends the stack manager in the daemon's list of servers, after them."""

    url = ""

    def __init__(self, manager: StackManager) -> None:
        self._manager = manager

    async def close(self) -> None:
        """Stop; what is under way is carried on at the next start."""
        await self._manager.close()
        platform = self._manager.platform
        if isinstance(platform, EnginePlatform):
            await platform.close()
