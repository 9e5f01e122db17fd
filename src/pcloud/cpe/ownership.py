"""Owning the store: taking the lease, keeping it, and what must have happened before and after another owned it.

Concurrency: `take` and `keep` run one after the other in the loop. What makes an owner harmless whose lease is over is
not here: the kernel's timer (`dpe.deadline`), in this process and in every engine process, and the fence of the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pcloud.cpe import processes
from pcloud.cpe.home import Home, write_private
from pcloud.cpe.settings import ApiSettings, DaemonSettings, split_address
from pcloud.model.errors import PcloudError, Problem, Unavailable
from pcloud.store.database import Fence
from pcloud.store.lease import Grant, Holder, Lease, Tenure, open_lease

_log = logging.getLogger(__name__)
POLL = 2.0
"""Seconds at most between two looks of whoever stands by."""
_HERE = ("localhost", "127.0.0.1", "::1")
"""Addresses that say nothing to another machine."""
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_ANEW = "PCLOUD_CPED_ANEW"
SILENCE = 30.0
"""Seconds after which a try to take the lease is given up."""
UNHURRIED = 10.0
"""Seconds between two looks at a lease that does not end by itself."""


class Ownership:
    """One daemon's claim to a store."""

    def __init__(self, lease: Lease, home: Home) -> None:
        self._lease = lease
        self._home = home
        self._given_up: set[asyncio.Task[Grant | None]] = set()
        self.tenure: Tenure | None = None
        """Who is in the way; None while that is not known."""
        self.trouble = ""
        """Why the store does not say who owns it; empty when it does."""
        self.grant: Grant | None = None

    @property
    def who(self) -> Holder | None:
        """Who this daemon is; None where its store has no other."""
        return self._lease.who if self.grant is not None and self.grant.token else None

    @property
    def poll(self) -> float:
        """Seconds between two tries to take the lease."""
        return min(POLL, self._lease.length / 10) if self._lease.length else POLL

    async def claim(self) -> Grant | None:
        """Take the lease, or return None while another holds it. PcloudError when the store does not answer."""
        try:
            async with asyncio.timeout(SILENCE):
                return await self._claim()
        except TimeoutError as error:
            message = f"the store does not answer for {SILENCE:g} s"
            raise Unavailable(Problem(code="STORE_SILENT", message=message)) from error

    async def _claim(self) -> Grant | None:
        row = await self._lease.look()
        if row is not None and row.holder != self._lease.who.id:
            await self._set_aside()
        found = await self._lease.claim()
        if isinstance(found, Tenure):
            self.tenure = found
            await self._set_aside()
            return None
        if found.former not in ("", self._lease.who.id):
            await self._set_aside()
        self.grant, self.tenure = found, None
        return found

    async def stand_by(self) -> Grant:
        """Wait until the lease can be taken, and take it."""
        told: tuple[str, str] = ("", "")
        while True:
            try:
                grant = await self.claim()
            except PcloudError as error:
                self.trouble = error.problems[0].message
            else:
                if grant is not None:
                    return grant
                self.trouble = ""
            now = (self.trouble, self.tenure.holder if self.tenure else "")
            if now != told:
                told = now
                _log.warning("%s", self.standing_by().problems[0].message)
            await asyncio.sleep(self.poll)

    async def keep(self, grant: Grant, renewed: Callable[[Grant], None]) -> None:
        """Renew the lease for ever; returns when another holds it."""
        interval = self._lease.length / 4 if self._lease.length else UNHURRIED
        while True:
            await asyncio.sleep(interval)
            while True:
                trying = asyncio.create_task(self._lease.renew(grant), name="lease")
                done, _ = await asyncio.wait({trying}, timeout=interval)
                if not done:  # half open: another try has a connection of its own
                    self._give_up(trying)
                    _log.warning("the lease was not renewed: the store does not answer")
                    continue
                try:
                    found = trying.result()
                except PcloudError as error:
                    _log.warning("the lease was not renewed: %s", error)
                    await asyncio.sleep(min(1.0, interval))
                    continue
                break
            if found is None:
                return
            self.grant = grant = found
            renewed(grant)

    def _give_up(self, trying: asyncio.Task[Grant | None]) -> None:
        trying.cancel()
        self._given_up.add(trying)
        trying.add_done_callback(self._forget)

    def _forget(self, trying: asyncio.Task[Grant | None]) -> None:
        self._given_up.discard(trying)
        if not trying.cancelled() and trying.exception() is not None:
            _log.debug("a renewal that was given up ended: %s", trying.exception())

    async def release(self) -> None:
        """Let another daemon have it; whoever acted for this one has ended. It ends by itself where that can not be said."""
        if self.grant is not None:
            with contextlib.suppress(PcloudError, TimeoutError):
                async with asyncio.timeout(5):
                    await self._lease.release(self.grant)

    def fence(self, lost: Callable[[], None]) -> Fence | None:
        """Return what the store must compare with every write, None where there is no other; `lost` is called when another
        owns the store."""
        if self.grant is None or not self.grant.token:
            return None
        from pcloud.store.lease_table import TokenFence  # here: a store of one daemon needs none of it

        return TokenFence(self.grant.token, self._lease.length, lost)

    async def _set_aside(self) -> None:
        """Another owned the store since we did: end what still acts for us, and mark what it left as late."""
        await asyncio.to_thread(end_engines, self._home)
        await asyncio.to_thread(self._home.mark_late)

    def standing_by(self) -> Unavailable:
        """Return why nothing is done here, and who does it."""
        if self.trouble or self.tenure is None:
            return Unavailable(
                Problem(
                    code="STANDBY",
                    message=f"this daemon stands by: it is not known who owns the store ({self.trouble or 'not asked yet'})",
                    hint="it takes over by itself when the store answers and nobody else owns it",
                )
            )
        owner = f"{self.tenure.host} ({self.tenure.url})" if self.tenure.url else self.tenure.host
        when, then = "and renews its lease", "this daemon takes over by itself once the lease ends"
        if self.tenure.expires is None:
            when, then = "until it releases it", "its lease does not end by itself (`store.lease = 0`)"
        return Unavailable(
            Problem(
                code="STANDBY",
                message=f"this daemon stands by: {owner} owns the store {when}",
                hint=f"ask the owner; {then}",
            )
        )


def end_engines(home: Home, *, wait: bool = True) -> None:
    """End every engine process of a home, and wait until they have (blocking) if asked to; guests go on."""
    for lock in sorted(home.run.glob("dped-*.lock")):
        slot = lock.name.removeprefix("dped-").removesuffix(".lock")
        if pid := processes.holder(home, slot):
            processes.kill(pid, slot, wait=wait)


def lease_of(home: Home, url: str, settings: DaemonSettings) -> Lease:
    """Return the lease of the store at a URL, asked for by the daemon of this home."""
    # Where there is no other, nobody needs to know who this is, and a full disk hinders nothing.
    who = Holder(id="", host="") if url.startswith("sqlite") else holder_of(home, settings.api)
    return open_lease(url, who, settings.store.lease)


def holder_of(home: Home, api: ApiSettings) -> Holder:
    """Return who this daemon is: its state folder on its machine. A copy of the folder on another machine is another.

    Unavailable when the folder can not be written.
    """
    mark = home.path / "identity"
    try:
        text = mark.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        text = secrets.token_hex(16)
        try:
            write_private(mark, text.encode() + b"\n")
        except OSError as error:
            raise Unavailable.of("HOME_UNUSABLE", f"{mark} can not be written: {error.strerror}") from error
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    host = socket.gethostname()
    whole = "\0".join((text, machine, host, str(home.path)))
    scheme = "https" if api.tls or api.tls_certificate else "http"
    address, port = split_address(api.listen)
    there = f"[{address}]" if ":" in address else address
    if address in _EVERYWHERE:
        there = host
    url = f"{scheme}://{there}:{port}" if port and address not in _HERE else ""
    return Holder(id=hashlib.sha256(whole.encode()).hexdigest()[:32], host=host[:255], url=url[:1024])


def start_anew(home: Home, why: str) -> NoReturn:
    """Become a fresh run of this program, which stands by: nothing that was begun as the owner is left in this process.

    May be called at any moment, by the handler of a signal as well; that is why it does not log.
    """
    end_engines(home, wait=False)
    os.write(2, f"pcloud-cped: {why}: starting anew, to stand by; guests go on\n".encode())
    os.environ[_ANEW] = why
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this program, no shell
    except OSError as error:
        os.write(2, f"pcloud-cped: that was not possible: {error}\n".encode())
        os._exit(75)


def started_anew() -> str:
    """Return why this run follows another in the same process; empty where it does not. Takes in the ends of its engines."""
    why = os.environ.pop(_ANEW, "")
    with contextlib.suppress(ChildProcessError):
        while why and os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return why
