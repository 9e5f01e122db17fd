"""Servers as Nova lists them: what their states mean, and one shared look at all of them.

Owns the poll: however many guests are waited for, there is one list call at a time, and its answer serves everybody who
asked before it was sent. Whatever a list was asked for, it is compared with the one before, so that no change is missed
between two polls. Sources: Nova's API guide, "Server concepts" (states), compute API reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pcloud.environment.infrastructure import GuestInfo, GuestState, Vitality
from pcloud.infrastructure.openstack_session import OpenStackSession

_RUNNING = {"ACTIVE", "REBOOT", "HARD_REBOOT", "PASSWORD", "RESIZE", "VERIFY_RESIZE", "REVERT_RESIZE", "MIGRATING",
            "PAUSED", "SUSPENDED", "RESCUE"}  # fmt: skip
_STOPPED = {"SHUTOFF", "ERROR", "SHELVED", "SHELVED_OFFLOADED"}
_GONE = {"DELETED", "SOFT_DELETED"}


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server of ours."""

    id: str
    name: str
    status: str
    task: str = ""
    addresses: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    metadata: Mapping[str, str] = {}
    zone: str = ""
    created: str = ""
    fault: str = ""

    @property
    def state(self) -> GuestState:
        """What the status means. ERROR counts as ended: whether anything of it still runs, only its deletion can settle,
        and that is what its next start begins with."""
        if self.status in _RUNNING:
            return GuestState.RUNNING
        if self.status in _STOPPED:
            return GuestState.STOPPED
        return GuestState.ABSENT if self.status in _GONE else GuestState.UNKNOWN

    @property
    def address(self) -> str:
        """A floating IPv4 address where there is one, else the first fixed one, else an IPv6 address."""
        found = [entry for entries in self.addresses.values() for entry in entries]
        found.sort(key=lambda entry: (entry.get("version") != 4, entry.get("OS-EXT-IPS:type") != "floating"))
        return str(found[0]["addr"]) if found else ""

    @property
    def vitality(self) -> Vitality:
        """What the status says of the guest's execution. ACTIVE proves nothing."""
        match self.status:
            case "PAUSED" | "SUSPENDED":
                return Vitality.HUNG
            case "SHUTOFF" | "SHELVED" | "SHELVED_OFFLOADED" | "DELETED" | "SOFT_DELETED":
                return Vitality.GONE
            case _:
                return Vitality.UNKNOWN

    def info(self, guest_id: str) -> GuestInfo:
        """Return what the engine is told."""
        running = self.state is GuestState.RUNNING
        return GuestInfo(
            guest_id=guest_id,
            state=self.state,
            address=self.address,
            place=self.zone,
            digest=self.metadata.get("pcloud_digest", ""),
            boot_id=f"{self.id}.{self.metadata.get('pcloud_boot', '')}" if running else "",
        )


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is different in a list from the one before."""

    name: str
    state: GuestState
    reason: str


class Servers:
    """All servers of ours, by name."""

    def __init__(self, session: OpenStackSession, prefix: str) -> None:
        self._session = session
        self._prefix = prefix
        self._next: asyncio.Future[dict[str, list[Server]]] | None = None
        self._current: asyncio.Task[None] | None = None
        self._known: dict[str, tuple[GuestState, str]] = {}
        """Name → (state, id) as the newest list had it."""
        self._changes: dict[str, Change] = {}
        """The newest change of each name that nobody has taken yet."""
        self._changed = asyncio.Event()
        self.calls = 0
        """List calls made so far."""

    async def all(self) -> dict[str, list[Server]]:
        """Return the servers of ours by name, seen after this was called. More than one of a name is a create that was
        repeated; the one to keep comes first: not in ERROR, then the oldest."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waiting = self._next
        if self._current is None or self._current.done():
            self._current = asyncio.create_task(self._look(), name="openstack list")
        return await asyncio.shield(waiting)

    async def one(self, name: str) -> Server | None:
        """Return one server, None when there is none."""
        found = (await self.all()).get(name)
        return found[0] if found else None

    async def changes(self, timeout: float) -> list[Change]:
        """Return the changes since the last call, after `timeout` seconds at the latest, when there may be none."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return []
        self._changed.clear()
        taken, self._changes = list(self._changes.values()), {}
        return taken

    def _compare(self, found: dict[str, list[Server]]) -> None:
        for name in self._known.keys() - found.keys():
            del self._known[name]
            self._note(name, GuestState.ABSENT, "deleted")
        for name, servers in found.items():
            server = servers[0]
            now, former = (server.state, server.id), self._known.get(name)
            if server.state is GuestState.UNKNOWN or former == now:
                continue
            self._known[name] = now
            fault = f"error: {server.fault}".rstrip(": ")
            reason = {"ERROR": fault, "SHUTOFF": "shutdown"}.get(server.status, "seen")
            replaced = former is not None and former[1] != server.id
            self._note(name, server.state, "replaced" if replaced and reason == "seen" else reason)

    def _note(self, name: str, state: GuestState, reason: str) -> None:
        self._changes[name] = Change(name=name, state=state, reason=reason)
        self._changed.set()

    async def _look(self) -> None:
        while self._next is not None:
            waiting, self._next = self._next, None
            try:
                found = await self._session.call(self._list)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits, whatever it is
                waiting.set_exception(error)
                waiting.exception()  # nobody may be waiting any more
            else:
                self._compare(found)
                waiting.set_result(found)

    def _list(self, connection: Any) -> dict[str, list[Server]]:
        self.calls += 1
        found: dict[str, list[Server]] = {}
        for raw in connection.compute.servers(details=True, name=f"^{self._prefix.replace('.', '[.]')}"):
            server = _server(raw)
            if server.state is not GuestState.ABSENT and server.name.startswith(self._prefix):
                found.setdefault(server.name, []).append(server)
        for servers in found.values():
            servers.sort(key=lambda server: (server.status == "ERROR", server.created, server.id))
        return found


def _server(raw: Any) -> Server:
    fault = raw.fault or {}
    return Server(
        id=raw.id,
        name=raw.name,
        status=(raw.status or "").upper(),
        task=raw.task_state or "",
        addresses=raw.addresses or {},
        metadata=raw.metadata or {},
        zone=raw.availability_zone or "",
        created=raw.created_at or "",
        fault=str(fault.get("message", "")),
    )
