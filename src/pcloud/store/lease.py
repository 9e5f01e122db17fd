"""Who owns a store that several daemons can reach: the interface, and the rule itself, pure.

One row a scope holds the owner, its token and when that ends *by the database's clock*. Every tenure has a token greater
than all before it; what writes to the store compares it in the same transaction (`store.database`), so an older owner's
write is not done. Beyond the store an owner acts only before `Grant.until`, which it counts by its own clock *from before it
asked*: that moment is never later than the one at which the database lets another take over, however long the answer took.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

import msgspec

SCOPE = "store"
"""The scope of a daemon: the whole store."""
SAFETY = 0.1
"""Part of a lease in which its owner no longer acts: for what is on its way out, and for clocks that do not run alike."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for a lease."""

    id: str
    """The same for every run of the same daemon (its state folder on its machine), different for any other."""
    host: str
    """The machine's name, for people."""
    url: str = ""
    """Where its API is, for people; empty when that is not known."""


class Tenure(msgspec.Struct, frozen=True, kw_only=True):
    """The row: who was given the lease last."""

    holder: str
    host: str
    url: str
    token: int
    expires: float | None
    """Seconds of the database's clock; None never ends by itself."""

    def over(self, now: float) -> bool:
        """Tell whether another may take it."""
        return self.expires is not None and self.expires <= now


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner has in hand."""

    token: int
    """0 where the store has no leases."""
    until: float
    """CLOCK_BOOTTIME seconds before which the owner may act; infinite where it may for ever."""
    former: str = ""
    """Id of the holder before; empty where there was none."""


class Lease(Protocol):
    """The way to own a store. Methods raise StoreError when the database does not answer."""

    length: float
    """Seconds from one grant to the moment at which another may take over; 0 for ever."""
    who: Holder
    """Who asks for it here."""

    async def look(self) -> Tenure | None:
        """Return the newest tenure, or None before the first."""
        ...

    async def claim(self) -> Grant | Tenure:
        """Take the lease, or return the tenure that stands in the way."""
        ...

    async def renew(self, grant: Grant) -> Grant | None:
        """Have it last longer; None when another holds it."""
        ...

    async def release(self, grant: Grant) -> None:
        """Let another take it at once. Whoever acted for this owner must have ended before."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


def claimed(row: Tenure | None, now: float, who: Holder, length: float) -> Tenure | None:
    """Return the tenure of whoever claims; None while another's lasts. A holder's own may be claimed at any time: it is the
    same daemon after a crash, and the token of its former run ends with it."""
    if row is not None and row.holder != who.id and not row.over(now):
        return None
    return Tenure(
        holder=who.id, host=who.host, url=who.url, token=row.token + 1 if row else 1, expires=_end(now, length)
    )


def renewed(row: Tenure | None, now: float, token: int, length: float) -> Tenure | None:
    """Return the longer tenure; None when the token is old. One that is over, and that nobody took, goes on."""
    if row is None or row.token != token:
        return None
    return msgspec.structs.replace(row, expires=_end(now, length))


def released(row: Tenure | None, now: float, token: int) -> Tenure | None:
    """Return the tenure at its end; None when the token is old. The row stays: tokens must go on rising."""
    if row is None or row.token != token:
        return None
    return msgspec.structs.replace(row, expires=now)


def until(asked: float, length: float) -> float:
    """Return before when the owner may act, given when (by its own clock) it had asked."""
    return asked + length * (1 - SAFETY) if length else math.inf


def _end(now: float, length: float) -> float | None:
    return now + length if length else None


def boot_time() -> float:
    """Return CLOCK_BOOTTIME in seconds: the same for all processes of a machine, and it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LocalLease:
    """The lease of a store that only one daemon can reach (SQLite in its state folder, which that daemon holds locked)."""

    length = 0.0

    def __init__(self, who: Holder) -> None:
        self.who = who

    async def look(self) -> Tenure | None:
        """There is no other."""
        return None

    async def claim(self) -> Grant | Tenure:
        """Have it."""
        return Grant(token=0, until=math.inf)

    async def renew(self, grant: Grant) -> Grant | None:
        """Keep it."""
        return grant

    async def release(self, grant: Grant) -> None:
        """Nothing waits for it."""

    async def close(self) -> None:
        """Nothing is open."""


def open_lease(url: str, who: Holder, length: float) -> Lease:
    """Return the lease of a store by its URL; StoreError where the database's driver is not installed."""
    if url.startswith("sqlite"):
        return LocalLease(who)
    from pcloud.store.lease_table import TableLease

    return TableLease(url, who, length)
