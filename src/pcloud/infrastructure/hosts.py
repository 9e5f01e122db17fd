"""The driver of hosts that are there already: physical machines, or any others that something else made.

Nothing is made and nothing wiped: a guest *is* a host, claimed for as long as the guest exists. Starting it is switching
the host on where it is off, and reaching it; isolating it is its fence device's work, confirmed by that. What is not
confirmed is an error: nothing else is started then.

Owns the claims and locks in its state folder. Concurrency: calls for one guest never overlap (the interface's rule); a
device is asked by one of us at a time, whichever process that is in (`fencing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from pcloud.environment.infrastructure import (
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    InfrastructureError,
    Vitality,
)
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.fencing import FenceDevice
from pcloud.infrastructure.hosts_claims import Claim, Claims
from pcloud.infrastructure.hosts_reach import Voice, boot_of, power_off, reached, voice
from pcloud.infrastructure.hosts_settings import HostSettings, HostsSettings

_PLACE = "hosts"
"""The one place: an assembly's host is named, so there is nowhere else to go."""


class HostsInfrastructure:
    """Guests that are hosts. Implements `pcloud.environment.infrastructure.Infrastructure`."""

    name = "hosts"
    capabilities = CAPABILITIES["hosts"]

    def __init__(self, settings: HostsSettings) -> None:
        self._settings = settings
        self._folder = Path(settings.state) / "hosts"
        self._claims = Claims(self._folder)
        self._devices = {
            name: FenceDevice(name, host.fence, self._folder / f"{name}.fence.lock")
            for name, host in settings.host.items()
            if host.fence is not None
        }
        self._ours: set[str] = set()
        """Guests that this process was asked about: of their hosts the fence devices are asked, too, while watching."""
        self._slots = asyncio.Semaphore(settings.parallel)

    async def places(self) -> Sequence[str]:
        """Return the one place there is: no host replaces another."""
        return (_PLACE,)

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return every guest that has a host."""
        return await asyncio.gather(*(self._info(claim) for claim in self._claims.all()))

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return what is known of a guest. One that was started counts as running until its fence device says that it is
        off: a host that nobody can ask about is for its transport to judge."""
        self._ours.add(guest_id)
        claim = self._claims.of(guest_id)
        return GuestInfo(guest_id=guest_id, state=GuestState.ABSENT) if claim is None else await self._info(claim)

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Claim the host, switch it on where it is off, and return when it lets us in. Nothing that runs is touched. A host
        that we switched on and that is not reached in time is switched off again, so that the next try boots it anew."""
        self._ours.add(spec.guest_id)
        host = self._host(spec.host)
        claim = self._claims.take(Claim(host=spec.host, guest_id=spec.guest_id))
        others = [each for each in self._claims.all() if each.guest_id == spec.guest_id and each.host != spec.host]
        if any(each.started for each in others):  # it was another host until now
            await self.destroy(spec.guest_id)
        if others:
            self._claims.give_up(spec.guest_id, but=spec.host)
        device = self._devices.get(spec.host)
        is_on = device is None or await device.on()
        if claim.started and claim.digest == spec.digest and is_on:
            return self._seen(claim, GuestState.RUNNING)
        if device is not None and not is_on:
            claim = self._claims.put(replace(claim, started=False, switched=True))
            await device.switch(on=True)
        try:
            await reached(spec.host, host, self._folder, spec.start_timeout)
        except InfrastructureError as error:
            if claim.switched and device is not None and not error.permanent:
                await device.switch(on=False)
            raise
        booted = await boot_of(spec.host, host, self._folder)
        claim = replace(
            claim, digest=spec.digest, boot_id=secrets.token_hex(8), booted=booted, started=True, switched=False
        )
        return self._seen(self._claims.put(claim), GuestState.RUNNING)

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Let the host go: its services are stopped by now. With `power = "managed"` it is shut down, and switched off
        after `timeout` seconds; else it stays on."""
        claim = self._claims.of(guest_id)
        if claim is None or not claim.started:
            return
        host, device = self._settings.host.get(claim.host), self._devices.get(claim.host)
        if host is not None and device is not None and host.power == "managed" and await device.on():
            await power_off(claim.host, host, self._folder)
            if not await device.until(timeout, wanted=False):
                await device.switch(on=False)
        self._claims.put(replace(claim, started=False))

    async def destroy(self, guest_id: str) -> None:
        """Fence the host, confirmed by its device; InfrastructureError when that is not to be had. Of a host without one
        only another boot than the one it was started in is a proof. One that the configuration does not know any more was
        taken out by whoever answers for it: that is its confirmation."""
        claim = self._claims.of(guest_id)
        if claim is None or not claim.started:
            return
        host, device, left_on = self._settings.host.get(claim.host), self._devices.get(claim.host), False
        if device is not None:
            left_on = await device.isolate()
        elif host is not None:
            booted = await boot_of(claim.host, host, self._folder) if claim.booted else ""
            if booted in ("", claim.booted):
                raise InfrastructureError(
                    f"host {claim.host} has no fence device: its isolation can not be confirmed, so nothing is started; "
                    "it goes on when the host was rebooted and can be reached"
                )
        self._claims.put(replace(claim, started=False, switched=left_on))

    async def delete(self, guest_id: str) -> None:
        """Give the host up. Neither its power nor anything on it is touched."""
        self._ours.discard(guest_id)
        self._claims.give_up(guest_id)

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Say how a host is whose transport is silent. A new connection tells whether programs run in it; only where the
        fence device answers too, and says that it is on, does silence make it hung: a device that does not answer may mean
        that it is we who are cut off. Takes as long as the device and `silence` do, whatever `timeout` says."""
        claim = self._claims.of(guest_id)
        if claim is None or not claim.started:
            return Vitality.GONE
        host, device = self._settings.host.get(claim.host), self._devices.get(claim.host)
        if host is None:
            return Vitality.UNKNOWN
        try:
            if device is not None and not await device.on():
                return Vitality.GONE
        except InfrastructureError:
            device = None
        heard = await voice(host)
        if heard is Voice.SPEAKS:
            return Vitality.ALIVE
        return Vitality.HUNG if heard is Voice.SILENT and device is not None else Vitality.UNKNOWN

    async def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield what differs between two looks: at the claims and, for guests that this process has, at their fence
        devices. A device that does not answer tells nothing."""
        known = {claim.guest_id: (_claimed(claim), claim.boot_id) for claim in self._claims.all()}
        while True:
            await asyncio.sleep(self._settings.poll)
            claims = {claim.guest_id: claim for claim in self._claims.all()}
            for gone in known.keys() - claims.keys():
                del known[gone]
                yield GuestEvent(guest_id=gone, state=GuestState.ABSENT, reason="its host was given up")
            for info in await asyncio.gather(*(self._info(claim) for claim in claims.values())):
                now = (info.state, info.boot_id)
                if known.get(info.guest_id) != now:
                    known[info.guest_id] = now
                    off = info.state is GuestState.STOPPED and claims[info.guest_id].started
                    reason = "its fence device says that the host is off" if off else ""
                    yield GuestEvent(guest_id=info.guest_id, state=info.state, reason=reason)

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """There is no way in but ssh: always a permanent InfrastructureError."""
        raise InfrastructureError("commands in hosts go by ssh", permanent=True)

    async def console(self, guest_id: str) -> bytes:
        """Return nothing: a host's console is not ours."""
        return b""

    async def close(self) -> None:
        """Nothing is held."""

    # --- helpers

    def _host(self, name: str) -> HostSettings:
        host = self._settings.host.get(name)
        if host is None:
            raise InfrastructureError(f"there is no host {name!r} in the configuration", permanent=True)
        return host

    async def _info(self, claim: Claim) -> GuestInfo:
        device = self._devices.get(claim.host)
        state = _claimed(claim)
        if state is GuestState.RUNNING and device is not None and claim.guest_id in self._ours:
            with contextlib.suppress(InfrastructureError):
                async with self._slots:
                    state = GuestState.RUNNING if await device.on() else GuestState.STOPPED
        elif claim.host not in self._settings.host:
            state = GuestState.STOPPED
        return self._seen(claim, state)

    def _seen(self, claim: Claim, state: GuestState) -> GuestInfo:
        host = self._settings.host.get(claim.host)
        ports = {} if host is None else {22: (host.address, host.ssh_port), 3121: (host.address, host.agent_port)}
        return GuestInfo(
            guest_id=claim.guest_id, state=state, address=host.address if host else "", port_map=ports, place=_PLACE,
            digest=claim.digest, boot_id=claim.boot_id,
        )  # fmt: skip


def _claimed(claim: Claim) -> GuestState:
    return GuestState.RUNNING if claim.started else GuestState.STOPPED
