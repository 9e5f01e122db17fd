"""The native REST interface of volumes and their snapshots, `/v1/volumes` and `/v1/snapshots`.

Concurrency: handlers run on the event loop of the stack manager (`app.state.stacks`) and only await it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request

from pcloud.api.access import need
from pcloud.cpe.tokens import Role
from pcloud.model.errors import Conflict, NotFound
from pcloud.stacks.engine.manager import StackManager

router = APIRouter(tags=["volumes"])


def _manager(request: Request) -> StackManager:
    manager: StackManager = request.app.state.stacks
    return manager


@router.get("/v1/volumes", dependencies=[need(Role.VIEWER)])
async def volumes(request: Request) -> list[dict[str, Any]]:
    """List the volumes, the guest that has each, and the stack that each belongs to."""
    manager = _manager(request)
    return [
        {**msgspec.to_builtins(one), "stack": manager.owner_of_volume(one.volume)}
        for one in await manager.platform.volumes()
    ]


@router.delete("/v1/volumes/{volume}", dependencies=[need(Role.OPERATOR)])
async def delete_volume(request: Request, volume: str) -> dict[str, str]:
    """Remove a volume that no stack and no guest has, with what is in it."""
    manager = _manager(request)
    if volume not in [one.volume for one in await manager.platform.volumes()]:
        raise NotFound.of("NO_SUCH_VOLUME", f"there is no volume {volume}")
    if stack := manager.owner_of_volume(volume):
        raise Conflict.of("IN_USE", f"the volume {volume} belongs to the stack {stack}")
    _, holder = await manager.platform.volume_holder(volume)
    if holder:
        raise Conflict.of("IN_USE", f"the volume {volume} is attached to {holder}")
    await manager.platform.delete_volume(volume)
    return {"volume": volume}


@router.get("/v1/snapshots", dependencies=[need(Role.VIEWER)])
async def snapshots(request: Request) -> list[dict[str, Any]]:
    """List the snapshots of volumes."""
    found: list[dict[str, Any]] = msgspec.to_builtins(await _manager(request).platform.snapshots())
    return found


@router.delete("/v1/snapshots/{snapshot}", dependencies=[need(Role.OPERATOR)])
async def delete_snapshot(request: Request, snapshot: str) -> dict[str, str]:
    """Remove a snapshot; volumes that were made from it stay as they are."""
    platform = _manager(request).platform
    if snapshot not in [one.snapshot for one in await platform.snapshots()]:
        raise NotFound.of("NO_SUCH_SNAPSHOT", f"there is no snapshot {snapshot}")
    await platform.delete_snapshot(snapshot)
    return {"snapshot": snapshot}
