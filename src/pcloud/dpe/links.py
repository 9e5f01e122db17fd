"""The connections of one deployable to its guests: made, lost, asked a second opinion about, made again.

Runs beside the control loop in tasks of its own: one a guest while it reconnects, one a recurring monitor whose first
result is still to come (`watch`). Everything it learns becomes an observation. It decides nothing: whether a silent guest
is dead is for `pcloud.policy` to say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial

from pcloud.dpe.environment import Environment
from pcloud.environment.infrastructure import InfrastructureError, Vitality
from pcloud.environment.transport import (
    Connection,
    Endpoint,
    Operation,
    OperationResult,
    OperationStatus,
    TransportError,
)
from pcloud.policy.observation import LinkLost, LinkRestored, Observation, SecondOpinion

log = logging.getLogger(__name__)

ATTEMPT_TIMEOUT = 5.0
"""Seconds for one attempt to connect, and for one second opinion."""
FIRST_WAIT = 0.1
LONGEST_WAIT = 5.0
BOOT_SHARE = 0.1
"""A starting guest is tried again after this share of the time waited for it so far: noticing adds no more than that."""
BOOT_FIRST, BOOT_LONGEST = 0.02, 1.0


class Links:
    """One deployable's connections, by assembly."""

    __slots__ = ("_changed", "_connections", "_environment", "_post", "_reconnecting", "_watching")

    def __init__(
        self,
        environment: Environment,
        post: Callable[[Observation], None],
        changed: Callable[[str, OperationResult], None],
    ) -> None:
        """`post` takes observations; `changed` takes results of recurring operations, by assembly."""
        self._environment = environment
        self._post = post
        self._changed = changed
        self._connections: dict[str, Connection] = {}
        self._reconnecting: dict[str, asyncio.Task[None]] = {}
        self._watching: dict[str, set[asyncio.Task[None]]] = {}

    def get(self, assembly: str) -> Connection:
        """Return the live connection; TransportError when there is none."""
        connection = self._connections.get(assembly)
        if connection is None:
            raise TransportError("NOT_CONNECTED", f"there is no connection to {assembly}")
        return connection

    def watch(self, assembly: str, operation: Operation) -> None:
        """Have a recurring monitor begin after its start delay, and do not wait for it: its first result, too, is told as a
        change. TransportError when there is no connection."""
        task = asyncio.get_running_loop().create_task(self._watch(assembly, self.get(assembly), operation))
        tasks = self._watching.setdefault(assembly, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _watch(self, assembly: str, connection: Connection, operation: Operation) -> None:
        try:
            result = await connection.execute(operation)
        except TransportError as error:
            if self._connections.get(assembly) is connection:  # refused; the loss of a connection is told by itself
                log.warning("%s of %s is not repeated in %s: %s", operation.action, operation.resource, assembly, error)
            return
        if result.status is not OperationStatus.CANCELLED and self._connections.get(assembly) is connection:
            self._changed(assembly, result)

    async def connect(self, assembly: str, transport: str, endpoint: Callable[[], Endpoint], timeout: float) -> None:
        """Connect, trying again until `timeout` seconds are over; then the last TransportError is raised. `endpoint` is
        asked before every attempt, then and later: a guest may come back elsewhere."""
        await self.drop(assembly)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            try:
                await self._attempt(assembly, transport, endpoint, min(ATTEMPT_TIMEOUT, timeout))
                return
            except TransportError:
                wait = min(max((loop.time() - begun) * BOOT_SHARE, BOOT_FIRST), BOOT_LONGEST)
                if loop.time() + wait >= begun + timeout:
                    raise
            await asyncio.sleep(wait)

    async def _attempt(self, assembly: str, transport: str, endpoint: Callable[[], Endpoint], timeout: float) -> None:
        """Connect once. A connection that is lost before anybody could hold it was never made: TransportError."""
        holder: list[Connection] = []
        early: list[TransportError] = []

        def lost(error: TransportError) -> None:
            if not holder:
                early.append(error)
            elif self._connections.get(assembly) is holder[0]:
                self._lost(assembly, transport, endpoint, str(error))

        connection = await self._environment.transports[transport].connect(
            endpoint(), on_result=partial(self._changed, assembly), on_lost=lost, timeout=timeout
        )
        if early:
            raise early[0]
        holder.append(connection)
        self._connections[assembly] = connection

    def _lost(self, assembly: str, transport: str, endpoint: Callable[[], Endpoint], reason: str) -> None:
        del self._connections[assembly]
        for watching in self._watching.pop(assembly, ()):
            watching.cancel()
        self._post(LinkLost(assembly=assembly, reason=reason))
        again = asyncio.get_running_loop().create_task(self._reconnect(assembly, transport, endpoint))
        self._reconnecting[assembly] = again

    async def cut(self, assembly: str, transport: str, endpoint: Callable[[], Endpoint]) -> None:
        """Tear a connection as a network would; TransportError when there is none."""
        connection = self.get(assembly)
        self._lost(assembly, transport, endpoint, "it was cut by a drill")
        await connection.close()

    async def _reconnect(self, assembly: str, transport: str, endpoint: Callable[[], Endpoint]) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                await self._attempt(assembly, transport, endpoint, ATTEMPT_TIMEOUT)
            except TransportError:
                self._post(SecondOpinion(assembly=assembly, vitality=await self._opinion(endpoint().guest_id)))
            else:
                self._reconnecting.pop(assembly, None)
                self._post(LinkRestored(assembly=assembly))
                return
            # Jitter, so that a thousand guests that fell silent together do not come back together.
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))  # noqa: S311
            wait = min(wait * 2, LONGEST_WAIT)

    async def _opinion(self, guest_id: str) -> Vitality:
        try:
            return await self._environment.infrastructure.check(guest_id, timeout=ATTEMPT_TIMEOUT)
        except InfrastructureError:
            return Vitality.UNKNOWN

    async def drop(self, assembly: str) -> None:
        """Close a guest's connection and stop trying to reach it."""
        task = self._reconnecting.pop(assembly, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        connection = self._connections.pop(assembly, None)
        watching = self._watching.pop(assembly, set())
        for late in watching:
            late.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close all connections; guests go on."""
        for assembly in {*self._connections, *self._reconnecting}:
            await self.drop(assembly)
