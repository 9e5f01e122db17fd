"""A platform whose guests are only noted: what the stack engine asked of it, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pcloud.environment.infrastructure import ExecResult
from pcloud.events.event import Event
from pcloud.model.deployable import Deployable
from pcloud.model.errors import Unavailable
from pcloud.model.status import DeployableStatus
from pcloud.objects.store import ObjectStore


class Ending:
    """Part of a platform whose daemon ends at the call of a number: nobody learns what became of it."""

    left = -1
    ended = False

    async def spend(self) -> None:
        """Count a moment at which the daemon may end; whoever comes to it afterwards waits for ever."""
        self.ended = self.ended or self.left == 0
        self.left -= 1
        if self.ended:
            await asyncio.Event().wait()


class NotingPlatform:
    """Notes what it is asked to do; events are put in by the test."""

    capabilities = frozenset({"guests", "access"})
    infrastructure = "noted"
    transport = "remote"
    start_timeout = 0.0
    catalogue = None
    networks: Any = None
    objects = ObjectStore()

    def __init__(self) -> None:
        self.recovered: list[tuple[str, str, str]] = []
        self.away = False
        """Whether the engine does not answer."""
        self.answer = ""
        """What every command in a guest prints; nothing can be run while it is empty."""
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    def why(self, lacking: Sequence[str]) -> str:
        return "guests that are only noted have none"

    def read(self, document: Mapping[str, Any]) -> Deployable:
        raise NotImplementedError

    async def prepare(self) -> str:
        return ""

    async def release(self) -> None:
        pass

    async def holds_guest(self, deployable: str, assembly: str) -> bool:
        return False

    async def allocate_address(self, holder: str, wanted: str = "") -> str:
        raise NotImplementedError

    def address_refusal(self, address: str, guests: Sequence[tuple[str, str]], holders: Sequence[str]) -> str:
        return ""

    async def offers_addresses(self) -> None:
        pass

    async def release_address(self, holder: str, infrastructure: str = "") -> None:
        pass

    async def settle(self, deployable: str, assembly: str) -> None:
        pass

    def images(self) -> Sequence[str]:
        return ("test",)

    async def deployables(self) -> Sequence[str]:
        return ()

    async def volume_holder(self, volume: str) -> tuple[bool, str]:
        return False, ""

    async def definition(self, name: str) -> Deployable | None:
        return None

    async def apply(self, deployable: Deployable) -> None:
        raise NotImplementedError

    async def status(self, name: str) -> DeployableStatus | None:
        return None

    async def delete(self, name: str) -> None:
        raise NotImplementedError

    async def recover(self, deployable: str, assembly: str, *, reason: str) -> None:
        if self.away:
            raise Unavailable.of("ENGINE_AWAY", "the engine is away")
        self.recovered.append((deployable, assembly, reason))

    async def execute(
        self, deployable: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        if not self.answer:
            raise Unavailable.of("ENGINE_AWAY", "the engine is away")
        return ExecResult(returncode=0, stdout=self.answer.encode(), stderr=b"")

    async def events(self) -> AsyncIterator[Event]:
        while True:
            yield await self.queue.get()
