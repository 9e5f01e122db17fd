"""The libvirt driver: guests are QEMU machines, through libvirt's own API and its events.

Owns the domains whose names begin with `LibvirtSettings.prefix`; what it must remember of them is in their metadata, so
this process keeps nothing. Order of making a guest: address, disk, seed, definition, start; a domain that is defined is
whole, and what a crash left before that is made anew. Concurrency: calls for one guest never overlap (the interface's
rule); starts are bounded by `parallel`; blocking calls run in the connection's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import libvirt
import msgspec

from pcloud.environment.infrastructure import (
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
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure import seed
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.iso import iso_image
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_network import Networks
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.infrastructure.libvirt_storage import Storage
from pcloud.infrastructure.preparing import prepared

GUEST_ID = re.compile(r"[a-z0-9_][a-z0-9._-]{0,126}")
_CONSOLE = 64 * 1024
_RECONNECT = 1.0
_RESYNC = 30.0
"""Seconds between looks at all guests while watching: events are what counts, this is for those that were lost."""

_STOP_REASONS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "killed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: "migrated",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "saved",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "crashed",
}
_EXISTS = {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_PAUSED,
           libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_PMSUSPENDED}  # fmt: skip
_HUNG = {libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_PMSUSPENDED}


class LibvirtInfrastructure:
    """Guests as QEMU machines. Implements `pcloud.environment.infrastructure.Infrastructure`."""

    name = "libvirt"
    capabilities = CAPABILITIES["libvirt"]

    def __init__(self, settings: LibvirtSettings, prepare: Callable[[Image], Awaitable[Image]] | None = None) -> None:
        """`prepare` makes of an image without a disk one that has one; without it such an image is refused."""
        self._settings = settings
        self._prepare = prepare
        self._libvirt = LibvirtConnection(settings.uri, timeout=settings.call_timeout)
        self._storage = Storage(settings)
        self._networks = Networks(settings)
        self._accelerator = "" if settings.accelerator == "auto" else settings.accelerator
        self._slots: asyncio.Semaphore | None = None
        self._uploads: dict[str, asyncio.Lock] = {}

    # --- the interface

    async def places(self) -> Sequence[str]:
        """Return the name of libvirtd's host."""
        return (await self._libvirt.call(lambda c: str(c.getHostname())),)

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return all guests of ours."""
        return await self._libvirt.call(self._all)

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return what libvirt knows of one guest."""
        name = self._domain_name(guest_id)
        return await self._libvirt.call(lambda c: self._look(c, name, guest_id))

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Make the guest's disk and domain where needed and start it. Returns with its address."""
        name = self._domain_name(spec.guest_id)
        known = await self.inspect(spec.guest_id)
        if known.state is GuestState.RUNNING and known.digest == spec.digest:
            return await self._address(spec, known)
        async with await self._parallel():
            if known.state is not GuestState.ABSENT and known.digest != spec.digest:
                await self.delete(spec.guest_id)
                known = GuestInfo(guest_id=spec.guest_id, state=GuestState.ABSENT)
            spec = msgspec.structs.replace(spec, image=await prepared(spec.image, self._prepare))
            await self._bring_image(spec)
            fresh = known.state is GuestState.ABSENT
            timeout = max(spec.start_timeout, self._settings.call_timeout)
            await self._libvirt.call(lambda c: self._make(c, spec, name, fresh=fresh), timeout=timeout)
        return await self._address(spec, await self.inspect(spec.guest_id))

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Ask the guest (its agent, else its power button) to shut down; destroy it after `timeout` seconds."""
        name = self._domain_name(guest_id)

        def ask(connection: Any) -> None:
            domain = _find(connection, name)
            if domain is not None and domain.isActive():
                with contextlib.suppress(libvirt.libvirtError):  # paused, or gone just now: destroyed below
                    domain.shutdownFlags(
                        libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
                    )

        await self._libvirt.call(ask)
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline:
            if not await self._libvirt.call(lambda c: _active(c, name)):
                return
            await asyncio.sleep(0.2)
        await self.destroy(guest_id)

    async def destroy(self, guest_id: str) -> None:
        """Kill the guest's QEMU; returns when libvirt has seen its process end."""
        name = self._domain_name(guest_id)

        def kill(connection: Any) -> None:
            domain = _find(connection, name)
            if domain is None or not domain.isActive():
                return
            try:
                domain.destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                    raise
            if _active(connection, name):
                raise InfrastructureError(f"guest {guest_id} was destroyed, but still exists")

        await self._libvirt.call(kill)

    async def delete(self, guest_id: str) -> None:
        """Destroy the guest, remove its domain, volumes and address, and with the last one the network we made."""
        name = self._domain_name(guest_id)
        await self.destroy(guest_id)

        def remove(connection: Any) -> None:
            self._storage.remove_guest(connection, name)  # before the domain: what is left of it is found again by that
            domain = _find(connection, name)
            if domain is not None:
                flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                domain.undefineFlags(flags)
            if self._settings.network != "user":
                self._networks.release(connection, name)
            if not any(d.name().startswith(self._settings.prefix) for d in connection.listAllDomains(0)):
                self._networks.remove_unused(connection)
                self._storage.remove_pool(connection)

        await self._libvirt.call(remove)

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Tell whether the guest executes, by signals that use no network of the guest: its state as libvirt has it,
        whether its QEMU answers its monitor, and the guest agent where it has one."""
        name = self._domain_name(guest_id)
        try:
            state = await self._libvirt.call(lambda c: _state(c, name), timeout=timeout)
        except InfrastructureError:
            return Vitality.UNKNOWN
        if state in (None, libvirt.VIR_DOMAIN_SHUTOFF):
            return Vitality.GONE
        if state in _HUNG:
            return Vitality.HUNG
        try:
            # asks QEMU through its monitor; a QEMU that is stopped or stuck does not answer
            await self._libvirt.raw(lambda c: c.lookupByName(name).blockStats("vda"), timeout=timeout / 2)
        except TimeoutError:
            return await self._confirm_hung(name, timeout / 2)
        except InfrastructureError:
            return Vitality.UNKNOWN
        try:
            await self._libvirt.raw(lambda c: agent.ask(c.lookupByName(name), "guest-ping"), timeout=timeout / 2)
        except (TimeoutError, InfrastructureError):
            return Vitality.UNKNOWN  # QEMU runs; whether anything runs in it, nobody told
        return Vitality.ALIVE

    async def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield changes as libvirt tells them. While libvirtd is away nothing is told; when it is back, what differs
        is."""
        queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
        known: dict[str, GuestState] = {}

        def heard(name: str, event: int, detail: int) -> None:
            found = self._event(name, event, detail)
            if found is not None:
                queue.put_nowait(found)

        self._libvirt.listen(heard)
        follow = asyncio.create_task(self._follow(known, queue), name="libvirt watch")
        try:
            while True:
                found = await queue.get()
                known[found.guest_id] = found.state
                if found.state is GuestState.ABSENT:
                    known.pop(found.guest_id)
                yield found
        finally:
            self._libvirt.listen(None)
            follow.cancel()
            await asyncio.gather(follow, return_exceptions=True)

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
        await self._libvirt.close()

    # --- in the connection's threads

    def _all(self, connection: Any) -> list[GuestInfo]:
        found = []
        for domain in connection.listAllDomains(0):
            name = domain.name()
            if name.startswith(self._settings.prefix):
                with contextlib.suppress(_Vanished):
                    found.append(self._describe(domain, name[len(self._settings.prefix) :], self._host(connection)))
        return found

    def _look(self, connection: Any, name: str, guest_id: str) -> GuestInfo:
        domain = _find(connection, name)
        if domain is not None:
            with contextlib.suppress(_Vanished):
                return self._describe(domain, guest_id, self._host(connection))
        return GuestInfo(guest_id=guest_id, state=GuestState.ABSENT)

    def _host(self, connection: Any) -> str:
        host: str = connection.getHostname()
        return host

    def _describe(self, domain: Any, guest_id: str, place: str) -> GuestInfo:
        try:
            state = domain.state()[0]
            record = _record(domain)
            number = domain.ID()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise _Vanished from None
            raise
        running = state in _EXISTS
        record = record or xml.Record(guest_id=guest_id, deployable="", hostname="", digest="")
        return GuestInfo(
            guest_id=guest_id,
            state=GuestState.RUNNING if running else GuestState.STOPPED,
            address=record.address,
            port_map=xml.parse_ports(record.ports),
            place=place,
            digest=record.digest,
            boot_id=f"{record.boot}.{number}" if running else "",
        )

    def _make(self, connection: Any, spec: GuestSpec, name: str, *, fresh: bool) -> None:
        """Make what is missing of a guest and start it."""
        user_network = self._settings.network == "user"
        address = "10.0.2.15" if user_network else self._networks.reserve(connection, name)
        disk = "" if fresh else self._storage.overlay_path(connection, name)
        disk = disk or self._storage.make_overlay(connection, name, spec.image.digest)
        hosts = self._hosts(connection, spec)
        ports = xml.format_ports(_free_ports(self._settings.forwarded_ports)) if user_network else ""
        record = xml.Record(
            guest_id=spec.guest_id,
            deployable=spec.deployable,
            hostname=spec.identity.hostname,
            digest=spec.digest,
            address=address,
            boot=os.urandom(4).hex(),
            ports=ports,
        )
        plan = xml.DomainPlan(
            name=name,
            record=record,
            accelerator=self._find_accelerator(connection),
            memory=spec.memory or self._settings.memory,
            cpus=max(1, round(spec.cpus)) if spec.cpus else self._settings.cpus,
            disk=disk,
            network="" if user_network else self._settings.network,
            console=f"{self._storage.folder(connection)}/{name}.console",
            **self._boot(
                connection, spec, name, address, {**hosts, spec.identity.hostname: address} if address else hosts
            ),
        )
        self._define_and_start(connection, plan)

    def _boot(self, connection: Any, spec: GuestSpec, name: str, address: str, hosts: dict[str, str]) -> dict[str, Any]:
        """Write the seed, and return how the machine boots: our own images by kernel, others by their boot loader."""
        image, volume = spec.image, f"{name}.seed"
        if not image.kernel:
            files = seed.nocloud(spec.guest_id, spec.identity, hosts, f"{name}-{spec.digest}")
            path = self._storage.put(connection, volume, iso_image("cidata", files))
            return {"seed": path, "seed_is_cdrom": True}
        if self._settings.network == "user":
            where = "pcloud.address=10.0.2.15/24 pcloud.gateway=10.0.2.2"
            dns = "10.0.2.3"
        else:
            view = self._networks.view(connection)
            where = f"pcloud.address={address}/{view.prefix} pcloud.gateway={view.gateway}" if address and view else ""
            dns = view.gateway if view else ""
        data = seed.tar_seed(spec.guest_id, spec.identity, hosts, dns=dns, dhcp=not where)
        return {
            "seed": self._storage.put(connection, volume, data),
            "kernel": self._storage.image_path(connection, image.digest, "kernel"),
            "initrd": self._storage.image_path(connection, image.digest, "initrd"),
            "command_line": f"root=/dev/vda rw console=ttyS0 net.ifnames=0 {where}".strip(),
        }

    def _define_and_start(self, connection: Any, plan: xml.DomainPlan) -> None:
        domain = connection.defineXML(xml.domain_document(plan))
        try:
            domain.create()
        except libvirt.libvirtError as error:
            if domain.isActive():
                return
            if plan.accelerator == "kvm" and self._settings.accelerator == "auto" and "kvm" in str(error).lower():
                self._accelerator = "tcg"  # the device is there, but it does not work
                self._define_and_start(connection, xml.with_accelerator(plan, "tcg"))
                return
            raise

    def _hosts(self, connection: Any, spec: GuestSpec) -> dict[str, str]:
        """Host names of the deployable's other guests that have an address by now."""
        hosts = {}
        for domain in connection.listAllDomains(0):
            if domain.name().startswith(f"{self._settings.prefix}{spec.deployable}."):
                with contextlib.suppress(libvirt.libvirtError):
                    record = _record(domain)
                    if record is not None and record.guest_id != spec.guest_id and record.address:
                        hosts[record.hostname] = record.address
        return hosts

    def _find_accelerator(self, connection: Any) -> str:
        if not self._accelerator:
            try:
                connection.getDomainCapabilities(None, "x86_64", "q35", "kvm", 0)
                self._accelerator = "kvm"
            except libvirt.libvirtError:
                self._accelerator = "tcg"
        return self._accelerator

    # --- helpers

    async def _parallel(self) -> asyncio.Semaphore:
        if self._slots is None:
            accelerator = await self._libvirt.call(self._find_accelerator)
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
            address = await self._libvirt.call(lambda c: _discover(c, name))
            if address:
                await self._libvirt.call(functools.partial(_remember_address, name=name, address=address))
            elif asyncio.get_running_loop().time() > deadline:
                raise InfrastructureError(f"guest {spec.guest_id} has no address after {spec.start_timeout:g} s")
            else:
                await asyncio.sleep(0.5)
            info = await self.inspect(spec.guest_id)
        return info

    async def _confirm_hung(self, name: str, timeout: float) -> Vitality:
        """Tell a hung QEMU from a hung libvirtd: the latter must answer for itself meanwhile."""
        try:
            state = await self._libvirt.call(lambda c: _state(c, name), timeout=timeout)
        except InfrastructureError:
            return Vitality.UNKNOWN
        return Vitality.GONE if state in (None, libvirt.VIR_DOMAIN_SHUTOFF) else Vitality.HUNG

    async def _follow(self, known: dict[str, GuestState], queue: asyncio.Queue[GuestEvent]) -> None:
        """Look at all guests at first, after each reconnection and now and then; tell what differs from what was told."""
        generation, looked = -1, 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                if (
                    not self._libvirt.connected
                    or generation != self._libvirt.generation
                    or loop.time() - looked > _RESYNC
                ):
                    before = dict(known)
                    seen = {info.guest_id: info.state for info in await self._libvirt.call(self._all)}
                    generation, looked = self._libvirt.generation, loop.time()
                    for guest_id in before.keys() | seen.keys():
                        state = seen.get(guest_id, GuestState.ABSENT)
                        # compared with `known` too: an event may have told it while we were looking
                        if state != before.get(guest_id, GuestState.ABSENT) and known.get(guest_id) != state:
                            queue.put_nowait(GuestEvent(guest_id=guest_id, state=state, reason="seen"))
            except InfrastructureUnavailable:
                pass  # nothing is known: nothing is told
            except InfrastructureError:
                looked = loop.time()
            await asyncio.sleep(_RECONNECT)

    def _event(self, name: str, event: int, detail: int) -> GuestEvent | None:
        if not name.startswith(self._settings.prefix):
            return None
        guest_id = name[len(self._settings.prefix) :]
        match event:
            case libvirt.VIR_DOMAIN_EVENT_STARTED:
                return GuestEvent(guest_id=guest_id, state=GuestState.RUNNING, reason="started")
            case libvirt.VIR_DOMAIN_EVENT_STOPPED:
                reason = _STOP_REASONS.get(detail, "stopped")
                return GuestEvent(guest_id=guest_id, state=GuestState.STOPPED, reason=reason)
            case libvirt.VIR_DOMAIN_EVENT_CRASHED:
                return GuestEvent(guest_id=guest_id, state=GuestState.STOPPED, reason="crashed")
            case libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
                return GuestEvent(guest_id=guest_id, state=GuestState.ABSENT, reason="deleted")
            case _:
                return None

    def _domain_name(self, guest_id: str) -> str:
        if not GUEST_ID.fullmatch(guest_id):
            raise InfrastructureError(f"{guest_id!r} is no guest's id", permanent=True)
        return self._settings.prefix + guest_id


class _Vanished(Exception):
    """The domain went while it was looked at."""


def _find(connection: Any, name: str) -> Any:
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _active(connection: Any, name: str) -> bool:
    domain = _find(connection, name)
    return domain is not None and bool(domain.isActive())


def _state(connection: Any, name: str) -> int | None:
    domain = _find(connection, name)
    return int(domain.state()[0]) if domain is not None else None


def _record(domain: Any) -> xml.Record | None:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml.NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise
    return xml.parse_record(text)


def _remember_address(connection: Any, *, name: str, address: str) -> None:
    domain = connection.lookupByName(name)
    record = _record(domain)
    if record is not None:
        changed = xml.record_text(record, address=address)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, changed, "pcloud", xml.NAMESPACE, flags)


def _discover(connection: Any, name: str) -> str:
    domain = connection.lookupByName(name)
    sources = (
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    )
    for source in sources:
        with contextlib.suppress(libvirt.libvirtError):  # this source knows nothing
            for interface in domain.interfaceAddresses(source, 0).values():
                for address in interface["addrs"] or ():
                    if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4 and not address["addr"].startswith("127."):
                        return str(address["addr"])
    return ""


def _free_ports(wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of a guest's port and a free one of this host's loopback. Somebody may take it before QEMU does: the start
    then fails, and the next try chooses another."""
    with contextlib.ExitStack() as held:
        pairs = []
        for port in wanted:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            pairs.append((port, int(probe.getsockname()[1])))
    return pairs
