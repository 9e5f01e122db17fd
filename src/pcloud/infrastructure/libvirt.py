"""The libvirt driver: guests are QEMU machines, through libvirt's own API and its events.

Owns the domains whose names begin with `LibvirtSettings.prefix`; what it must remember of them is in their metadata, so
this process keeps nothing. Order of making a guest: disk, address, seed, definition, start; a domain that is defined is
whole, and what a crash left before that is made anew. Concurrency: calls for one guest never overlap (the interface's
rule); starts are bounded by `parallel`; blocking calls run in the connection's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import libvirt
import msgspec

from pcloud.environment.infrastructure import (
    Capability,
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    Image,
    InfrastructureError,
    InfrastructureUnavailable,
    Vitality,
)
from pcloud.infrastructure import libvirt_agent as agent
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure import libvirt_firewall as firewall
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.libvirt_accelerator import Accelerator
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_disks import LibvirtVolumeStore
from pcloud.infrastructure.libvirt_guest_network import LibvirtGuestNetwork
from pcloud.infrastructure.libvirt_limits import LibvirtLimits
from pcloud.infrastructure.libvirt_making import Maker
from pcloud.infrastructure.libvirt_network import Networks
from pcloud.infrastructure.libvirt_saved import SavedStates
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.libvirt_storage import Storage
from pcloud.infrastructure.libvirt_volumes import LibvirtVolumes, refuse_volumes
from pcloud.infrastructure.libvirt_watch import watch
from pcloud.infrastructure.preparing import prepared

GUEST_ID = re.compile(r"[a-z0-9_][a-z0-9._-]{0,126}")
_CONSOLE = 64 * 1024
_LONG_CONSOLE = 4 << 20
"""Bytes of earlier starts' consoles of which, at a start, only the newest `_CONSOLE` are kept. virtlogd, libvirt's default,
begins another file at 2 MiB by itself: this is for where QEMU itself writes."""
_PROBE = 60.0
"""Seconds after which a question to a QEMU that did not answer is put once more."""


class LibvirtInfrastructure:
    """Guests as QEMU machines. Implements `pcloud.environment.infrastructure.Infrastructure`."""

    name = "libvirt"
    capabilities = CAPABILITIES["libvirt"]

    def __init__(self, settings: LibvirtSettings, prepare: Callable[[Image], Awaitable[Image]] | None = None) -> None:
        """`prepare` makes of an image without a disk one that has one; without it such an image is refused."""
        self._settings = settings
        self._prepare = prepare
        self._libvirt = LibvirtConnection(settings.uri, timeout=settings.call_timeout)
        # libvirtd works on few requests of a connection at once: those that hung guests hold for ever get one of their own.
        self._probing = LibvirtConnection(settings.uri, timeout=settings.call_timeout)
        self._probes: dict[str, asyncio.Task[object]] = {}
        self._storage = Storage(settings)
        self._networks = Networks(settings)
        self._accelerator = Accelerator(settings.accelerator)
        volumes = LibvirtVolumes(settings)
        self._maker = Maker(settings, self._storage, self._networks, self._accelerator, volumes)
        self._saved = SavedStates(self._libvirt, self._storage, self._maker)
        self.network = self.changes = LibvirtGuestNetwork(settings, self._libvirt, self._networks, self._unused)
        self.limits = LibvirtLimits(settings, self._libvirt)
        self.volumes = LibvirtVolumeStore(settings, volumes, self._libvirt)
        if settings.elsewhere or not settings.state:
            self.capabilities -= {Capability.VOLUMES, Capability.SNAPSHOTS}
        self._told: dict[str, GuestState] = {}
        """What the watch told of guests before libvirtd went silent."""
        self._slots: asyncio.Semaphore | None = None
        self._starts = 0
        self._uploads: dict[str, asyncio.Lock] = {}

    # --- the interface

    async def places(self) -> Sequence[str]:
        """Return the name of libvirtd's host."""
        return (await self._libvirt.call(lambda c: str(c.getHostname())),)

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return all guests of ours."""
        return await self._libvirt.call(lambda c: domains.look_at_all(c, self._settings.prefix))

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return what libvirt knows of one guest."""
        name = self._domain_name(guest_id)
        return await self._libvirt.call(lambda c: domains.look(c, name, guest_id))

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Make the guest's disk and domain where needed and start it. Returns with its address."""
        name = self._domain_name(spec.guest_id)
        known = await self.inspect(spec.guest_id)
        if known.state is GuestState.RUNNING and known.digest == spec.digest:
            return await self._address(spec, known)
        refuse_volumes(spec, self.capabilities)
        async with self._making():
            if known.state is not GuestState.ABSENT and known.digest != spec.digest:
                await self.delete(spec.guest_id)
                known = GuestInfo(guest_id=spec.guest_id, state=GuestState.ABSENT)
            spec = msgspec.structs.replace(spec, image=await prepared(spec.image, self._prepare))
            await self._bring_image(spec)
            fresh = known.state is GuestState.ABSENT
            if not fresh:
                log = f"{name}.console"
                await self._libvirt.call(lambda c: self._storage.shorten(c, log, _LONG_CONSOLE, _CONSOLE), changes=name)
            timeout = max(spec.start_timeout, self._settings.call_timeout)
            if spec.saved_state:
                if self._settings.network == "user":
                    raise InfrastructureError("saved_state needs a libvirt network, not `user`", permanent=True)
                await self._saved.start(spec, name, timeout=timeout)
            else:
                await self._libvirt.call(
                    lambda c: self._boot(c, spec, name, fresh=fresh), timeout=timeout, changes=name
                )
        return await self._address(spec, await self.inspect(spec.guest_id))

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Ask the guest (its agent, else its power button) to shut down; destroy it after `timeout` seconds."""
        name = self._domain_name(guest_id)

        def ask(connection: Any) -> None:
            domain = domains.find(connection, name)
            if domain is not None and domain.isActive():
                with contextlib.suppress(libvirt.libvirtError):  # paused, or gone just now: destroyed below
                    domain.shutdownFlags(
                        libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
                    )

        await self._libvirt.call(ask, changes=name)
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline:
            if not await self._libvirt.call(lambda c: domains.active(c, name)):
                return
            await asyncio.sleep(0.2)
        await self.destroy(guest_id)

    async def destroy(self, guest_id: str) -> None:
        """Kill the guest's QEMU; returns when libvirt has seen its process end."""
        name = self._domain_name(guest_id)

        def kill(connection: Any) -> None:
            domain = domains.find(connection, name)
            if domain is None or not domain.isActive():
                return
            try:
                domain.destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
            if domains.active(connection, name):
                raise InfrastructureError(f"guest {guest_id} was destroyed, but still exists")

        await self._libvirt.call(kill, changes=name)

    async def delete(self, guest_id: str) -> None:
        """Destroy the guest, remove its domain, volumes and address, and with the last one the network we made."""
        name = self._domain_name(guest_id)
        await self.destroy(guest_id)

        def remove(connection: Any) -> None:
            self._storage.remove_guest(connection, name)  # before the domain: what is left of it is found again by that
            domain = domains.find(connection, name)
            if domain is not None:
                flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                domain.undefineFlags(flags)
            firewall.remove(connection, name)
            if self._settings.network != "user":
                self._networks.release(connection, name)
            self._networks.remove_unused(connection, lambda: self._unused(connection))
            self._storage.remove_pool(connection, lambda: self._unused(connection))

        await self._libvirt.call(remove, changes=name)

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Tell whether the guest executes, by signals that use no network of the guest: its state as libvirt has it,
        whether its QEMU answers its monitor, and the guest agent where it has one."""
        name = self._domain_name(guest_id)
        try:
            state = await self._libvirt.call(lambda c: domains.state_of(c, name), timeout=timeout)
        except InfrastructureError:
            return Vitality.UNKNOWN
        if state in (None, libvirt.VIR_DOMAIN_SHUTOFF):
            return Vitality.GONE
        if state in domains.HUNG_STATES:
            return Vitality.HUNG
        try:
            # asks QEMU through its monitor; a QEMU that is stopped or stuck does not answer
            await asyncio.wait_for(asyncio.shield(self._probe(name)), timeout / 2)
        except TimeoutError:
            return await self._confirm_hung(name, timeout / 2)
        except InfrastructureError:
            return Vitality.UNKNOWN
        try:
            await self._probing.raw(lambda c: agent.ask(c.lookupByName(name), "guest-ping"), timeout=timeout / 2)
        except (TimeoutError, InfrastructureError):
            return Vitality.UNKNOWN  # QEMU runs; whether anything runs in it, nobody told
        return Vitality.ALIVE

    async def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield changes as libvirt tells them, of guests that are there first what they are. While libvirtd is away nothing
        is told of guests: InfrastructureUnavailable. A later watch goes on from what was known then."""
        known, self._told = self._told, {}
        try:
            async with contextlib.aclosing(watch(self._libvirt, self._settings.prefix, known)) as told:
                async for event in told:
                    yield event
        except InfrastructureUnavailable:
            self._told = known
            raise

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command through the guest agent. InfrastructureError when the guest has none that answers."""
        name = self._domain_name(guest_id)
        if any("\0" in word for word in argv):
            raise InfrastructureError("an argument holds a NUL character", permanent=True)
        command = argv[0]
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + timeout, 0.05
        pid = await self._libvirt.call(lambda c: agent.start_command(c.lookupByName(name), argv, stdin))
        while loop.time() < deadline:
            result = await self._libvirt.call(lambda c: agent.command_result(c.lookupByName(name), pid))
            if result is not None:
                return result
            await asyncio.sleep(delay)
            delay = min(0.5, delay * 1.5)
        with contextlib.suppress(InfrastructureError):
            await self._libvirt.call(lambda c: agent.start_command(c.lookupByName(name), ["kill", "-9", str(pid)], b""))
        raise InfrastructureError(f"{command} in guest {guest_id} did not end within {timeout:g} s")

    async def console(self, guest_id: str) -> bytes:
        """Return the newest part of what the guest wrote to its serial console, of earlier starts too."""
        name = self._domain_name(guest_id)
        return await self._libvirt.call(lambda c: self._storage.tail(c, f"{name}.console", _CONSOLE))

    async def close(self) -> None:
        """Close the connection; guests go on running."""
        for probe in tuple(self._probes.values()):
            probe.cancel()
        await self.volumes.close()
        await self._probing.close()
        await self._libvirt.close()

    # --- helpers

    @contextlib.asynccontextmanager
    async def _making(self) -> AsyncIterator[None]:
        """Hold one of the slots for starts; keep what guests share (pool, network) meanwhile, for a guest that is being made
        has no domain yet which would tell of it."""
        self._starts += 1
        try:
            async with await self._parallel():
                yield
        finally:
            self._starts -= 1

    def _unused(self, connection: Any) -> bool:
        """Tell whether there is no guest of ours, and none is being made."""
        return not self._starts and not any(
            domain.name().startswith(self._settings.prefix) for domain in connection.listAllDomains(0)
        )

    async def _parallel(self) -> asyncio.Semaphore:
        if self._slots is None:
            accelerator = await self._libvirt.call(self._accelerator.choose)
            if self._slots is None:
                self._slots = asyncio.Semaphore(self._settings.parallel or (8 if accelerator == "kvm" else 2))
        return self._slots

    async def _bring_image(self, spec: GuestSpec) -> None:
        async with self._uploads.setdefault(spec.image.digest, asyncio.Lock()):
            if not await self._libvirt.call(lambda c: self._storage.has_image(c, spec.image)):
                await self._libvirt.call(lambda c: self._storage.upload_image(c, spec.image), timeout=3600.0)

    async def _address(self, spec: GuestSpec, info: GuestInfo) -> GuestInfo:
        """Return the guest's facts with an address; where we did not give it one, ask the lease, the agent and the
        host's ARP table until one is known."""
        name = self._domain_name(spec.guest_id)
        deadline = asyncio.get_running_loop().time() + spec.start_timeout
        while not info.address:
            if info.state is not GuestState.RUNNING:
                raise InfrastructureError(f"guest {spec.guest_id} ended before it had an address")
            address = await self._libvirt.call(lambda c: domains.discover(c, name))
            if address:
                await self._libvirt.call(functools.partial(domains.remember_address, name=name, address=address))
            elif asyncio.get_running_loop().time() > deadline:
                raise InfrastructureError(f"guest {spec.guest_id} has no address after {spec.start_timeout:g} s")
            else:
                await asyncio.sleep(0.5)
            info = await self.inspect(spec.guest_id)
        return info

    def _probe(self, name: str) -> asyncio.Task[object]:
        """Ask a guest's QEMU through its monitor. One question at a time: while one is unanswered, the next would only wait
        behind it."""
        probe = self._probes.get(name)
        if probe is None:
            probe = asyncio.create_task(
                self._probing.raw(lambda c: c.lookupByName(name).blockStats("vda"), timeout=_PROBE),
                name=f"probe {name}",
            )
            self._probes[name] = probe
            probe.add_done_callback(functools.partial(self._probed, name))
        return probe

    def _probed(self, name: str, probe: asyncio.Task[object]) -> None:
        del self._probes[name]
        if not probe.cancelled():
            probe.exception()  # whoever still waited was told

    async def _confirm_hung(self, name: str, timeout: float) -> Vitality:
        """Tell a hung QEMU from a hung libvirtd: the latter must answer for itself meanwhile, on the connection that the
        probes use (where hung guests take up all that it serves at once, nothing is known of the others)."""
        try:
            state = await self._probing.call(lambda c: domains.state_of(c, name), timeout=timeout)
        except InfrastructureError:
            return Vitality.UNKNOWN
        return Vitality.GONE if state in (None, libvirt.VIR_DOMAIN_SHUTOFF) else Vitality.HUNG

    def _boot(self, connection: Any, spec: GuestSpec, name: str, *, fresh: bool) -> None:
        """Make what is missing of a guest and start it."""
        disk = "" if fresh else self._storage.overlay_path(connection, name)
        disk = disk or self._storage.make_overlay(connection, name, spec.image.digest)
        self._maker.boot(connection, self._maker.prepare(connection, spec, name, disk), spec.volumes)

    def _domain_name(self, guest_id: str) -> str:
        if not GUEST_ID.fullmatch(guest_id):
            raise InfrastructureError(f"{guest_id!r} is no guest's id", permanent=True)
        return self._settings.prefix + guest_id
