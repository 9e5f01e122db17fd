"""Puts HTTP in front of the engine: what the daemon starts once the engines are adopted.

Returns a list of servers so that further interfaces (ports of their own) can be added beside the native one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pcloud.api.app import make_app
from pcloud.api.metrics import Metrics
from pcloud.api.server import HttpServer, native_server
from pcloud.api.stacks import Closing, open_stacks, stack_servers
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.tokens import TokenBook
from pcloud.model.errors import PcloudError
from pcloud.objects.store import ObjectStore
from pcloud.stacks.guests.platform import EnginePlatform


async def start(
    engine: CloudPolicyEngine, tokens: TokenBook, shutdown: Callable[[bool, bool], Any]
) -> tuple[list[HttpServer | Closing], Coroutine[Any, Any, None]]:
    """Start every server; return them (the native one first) and what counts events. PcloudError when one can not."""
    metrics = Metrics(engine)
    stacks = engine.settings.stacks
    objects = await asyncio.to_thread(ObjectStore, engine.settings.object_store)
    manager = await open_stacks(engine.home.path, EnginePlatform(engine, stacks, objects), tokens, stacks)
    app = make_app(engine, tokens, metrics, shutdown, manager)
    try:
        server = await native_server(app, engine.home.path, engine.settings.api)
        await server.start()
    except PcloudError:
        await manager.close()
        raise
    servers: list[HttpServer | Closing] = [server]
    for other in stack_servers(manager, tokens, stacks):
        try:
            await other.start()
        except (
            PcloudError
        ) as error:  # another daemon of this host has the port: the native interface serves all the same
            engine.emit("daemon.stacks", error.problems[0].message)
            continue
        servers.append(other)
    return [*servers, Closing(manager)], metrics.run()
