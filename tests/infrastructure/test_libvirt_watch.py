"""What the libvirt driver's watch tells while libvirtd is away, in virtual time on a connection of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import pytest

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import GuestInfo, GuestState, InfrastructureUnavailable
from pcloud.infrastructure import libvirt_domains
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_watch import watch
from pcloud.simulator.loop import run


class Connection:
    """A connection to a libvirtd that goes (`away`: `refuses`, or says `nothing`) and has guests."""

    def __init__(self) -> None:
        self.guests = {"shop.web": GuestState.RUNNING, "shop.db": GuestState.RUNNING}
        self.generation = 1
        self.away = ""

    @property
    def connected(self) -> bool:
        return not self.away

    def listen(self, listener: object) -> None:
        """No event is ever told: all that the watch tells it has seen."""

    async def reach(self, timeout: float) -> None:
        if self.away == "nothing":
            await asyncio.sleep(timeout)
        if self.away:
            raise InfrastructureUnavailable("gone")

    async def call(self, look: Callable[[Any], list[GuestInfo]]) -> list[GuestInfo]:
        assert not self.away
        return look(self)

    def back(self) -> None:
        self.away = ""
        self.generation += 1


class Watched:
    """What a watch told."""

    def __init__(self, connection: Connection) -> None:
        self.known: dict[str, GuestState] = {}
        self.told: list[tuple[str, GuestState]] = []
        self.connection = connection
        self.silence: float | None = None

    async def follow(self) -> None:
        """Watch until libvirtd is told to be away."""
        began = asyncio.get_running_loop().time()
        try:
            async for event in watch(cast("LibvirtConnection", self.connection), "pct-", self.known):
                self.told.append((event.guest_id, event.state))
        except InfrastructureUnavailable:
            self.silence = asyncio.get_running_loop().time() - began

    @contextlib.asynccontextmanager
    async def following(self) -> Any:
        task = asyncio.create_task(self.follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_at_all(connection: Connection, prefix: str) -> list[GuestInfo]:
        return [GuestInfo(guest_id=name, state=state) for name, state in connection.guests.items()]

    monkeypatch.setattr(libvirt_domains, "look_at_all", look_at_all)


def test_a_short_absence_is_nothing_to_tell() -> None:
    async def story() -> Watched:
        connection = Connection()
        watched = Watched(connection)
        async with watched.following():
            await asyncio.sleep(5)
            watched.told.clear()
            connection.away = "refuses"
            await asyncio.sleep(8)
            connection.guests["shop.db"] = GuestState.STOPPED
            connection.back()
            await asyncio.sleep(5)
        return watched

    watched = run(story())
    assert watched.silence is None
    assert watched.told == [("shop.db", GuestState.STOPPED)]


@pytest.mark.parametrize("away", ["refuses", "nothing"])
def test_a_long_absence_is_told_and_then_what_differs(away: str) -> None:
    async def story() -> Watched:
        connection = Connection()
        watched = Watched(connection)
        async with watched.following():
            await asyncio.sleep(5)
            watched.told.clear()
            connection.away = away
            await asyncio.sleep(60)
        silence, watched.silence = watched.silence, None
        assert silence is not None
        assert 14 <= silence <= 5 + 10 + 2 * 6, "it went after 5 s, a second after it was last asked"
        await watched.follow()
        again = watched.silence
        assert again is not None
        assert 10 <= again <= 10 + 6, "the next one has its own time"
        assert watched.told == []
        connection.guests["shop.db"] = GuestState.STOPPED
        del connection.guests["shop.web"]
        connection.back()
        async with watched.following():
            await asyncio.sleep(5)
        return watched

    assert sorted(run(story()).told) == [("shop.db", GuestState.STOPPED), ("shop.web", GuestState.ABSENT)]
