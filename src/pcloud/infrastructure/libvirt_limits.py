"""Memory of machines that run, by their balloon; what a balloon can not do is written into the domain for its next start.

A balloon takes memory back from a guest and returns it, up to what the machine was started with; processors of a machine
that runs stay as they are. Owns nothing: what libvirt says is compared to what shall be. Concurrency: blocking parts run in
the connection's threads; calls for one guest never overlap.
"""

from __future__ import annotations

import asyncio
from typing import Any

import libvirt
import msgspec

from pcloud.environment.infrastructure import Bounded, InfrastructureError
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_settings import LibvirtSettings

_PATIENCE = 60.0
"""Seconds in which a guest must have told what memory it can spare, and then have given it."""
_PERIOD = 2
"""Seconds between a guest's reports of its memory, while it is asked."""
_PAUSE = 0.5
_MIB = 1024
"""KiB, libvirt's unit of memory."""


class _Seen(msgspec.Struct, frozen=True):
    """What a running machine has: KiB and processors."""

    memory: int
    most: int
    """What it was started with: the balloon can return that much."""
    cpus: int


class LibvirtLimits:
    """The limits of one driver's guests. Implements `pcloud.environment.infrastructure.Limits`."""

    def __init__(self, settings: LibvirtSettings, connection: LibvirtConnection) -> None:
        self._settings = settings
        self._libvirt = connection

    async def bound(self, guest_id: str, *, memory: int, cpus: float) -> Bounded:
        """Bring a guest's memory to this where it can have it while it runs, and its definition to all of it."""
        name = f"{self._settings.prefix}{guest_id}"
        mebibytes, processors = self._settings.size(memory, cpus)
        wanted = mebibytes * _MIB
        seen = await self._libvirt.call(lambda c: _look(c, name))
        if seen is None:
            return Bounded()
        changed = []
        if wanted != seen.memory and wanted <= seen.most:
            await self._inflate(name, seen.memory, wanted)
            changed.append(f"{mebibytes} MiB of memory")
        written = await self._libvirt.call(lambda c: _define(c, name, wanted, processors), changes=name)
        later = []
        if "memory" in written and wanted > seen.most:
            later.append(f"{mebibytes} MiB of memory")
        if "cpus" in written and processors != seen.cpus:
            later.append(f"{processors} processors")
        return Bounded(changed=tuple(changed), later=tuple(later))

    async def _inflate(self, name: str, now: int, wanted: int) -> None:
        """Have the balloon take or return memory; InfrastructureError when the guest can not spare it, or has no driver."""
        if wanted < now:
            spare = await self._spare(name)
            if spare < now - wanted:
                taken = -(-(now - spare) // _MIB)
                raise InfrastructureError(
                    f"it uses {taken} MiB of memory now and can not be limited to {wanted // _MIB} MiB"
                )
        await self._libvirt.call(lambda c: _set(c, name, wanted), changes=name)
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            seen = await self._libvirt.call(lambda c: _look(c, name))
            if seen is None or seen.memory == wanted:
                return
            if asyncio.get_running_loop().time() > deadline:
                await self._libvirt.call(lambda c: _set(c, name, now), changes=name)
                raise InfrastructureError(f"its balloon driver did not bring it to {wanted // _MIB} MiB")
            await asyncio.sleep(_PAUSE)

    async def _spare(self, name: str) -> int:
        """Return the KiB that the guest says it can do without; InfrastructureError when it says nothing."""
        began = await self._libvirt.call(lambda c: _report(c, name, _PERIOD).get("last_update", 0))
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        try:
            while asyncio.get_running_loop().time() < deadline:
                told = await self._libvirt.call(lambda c: _report(c, name, _PERIOD))
                if "usable" in told and told.get("last_update", 0) > began:
                    return int(told["usable"])
                await asyncio.sleep(_PAUSE)
        finally:
            await self._libvirt.call(lambda c: _report(c, name, 0))
        raise InfrastructureError("it does not tell what memory it can spare: it has no balloon driver, or still boots")


def _look(connection: Any, name: str) -> _Seen | None:
    domain = domains.find(connection, name)
    if domain is None or not domain.isActive():
        return None
    _, most, memory, cpus, _ = domain.info()
    return _Seen(int(memory), int(most), int(cpus))


def _set(connection: Any, name: str, wanted: int) -> None:
    connection.lookupByName(name).setMemoryFlags(wanted, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _report(connection: Any, name: str, period: int) -> dict[str, int]:
    """Set the period of a guest's reports of its memory, and return the newest."""
    domain = domains.find(connection, name)
    if domain is None or not domain.isActive():
        return {}
    domain.setMemoryStatsPeriod(period, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return dict(domain.memoryStats())


def _define(connection: Any, name: str, memory: int, cpus: int) -> set[str]:
    """Bring the persistent definition of a domain to these; return what was changed in it."""
    domain, config = connection.lookupByName(name), libvirt.VIR_DOMAIN_AFFECT_CONFIG
    changed = set()
    if domains.defined_memory(domain) != memory:
        changed.add("memory")
        domain.setMemoryFlags(memory, config | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
        domain.setMemoryFlags(memory, config)
    if domain.vcpusFlags(config) != cpus:
        changed.add("cpus")
        domain.setVcpusFlags(cpus, config | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
        domain.setVcpusFlags(cpus, config)
    return changed
