"""Saved-state starts: a guest boots once, its memory and disk are kept, and every later start restores them.

Owns three things of each such guest in the storage pool: `GUEST.base.qcow2` (its disk when it had booted, never written
again), `GUEST.state` (its memory then) and the mark `GUEST.FINGERPRINT.saved`, made last: without it, or with another
fingerprint (address, keys, memory, image … have changed), there is no state and the guest boots. The guest writes to
`GUEST.qcow2`, made anew over the base at each start: it keeps nothing. A state is of one guest only and never used for
another, so address, MAC, keys and machine id are its own. Before anyone connects, the guest's clock is set and its kernel
given fresh random numbers: it would else repeat those it made after the last restore. Concurrency: calls for one guest
never overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

import libvirt

from pcloud.environment.infrastructure import GuestSpec, InfrastructureError, InfrastructureUnavailable
from pcloud.infrastructure import libvirt_agent as agent
from pcloud.infrastructure import libvirt_domains as domains
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt_connection import LibvirtConnection
from pcloud.infrastructure.libvirt_making import Maker, Making
from pcloud.infrastructure.libvirt_storage import Storage

_log = logging.getLogger(__name__)
_PATIENCE = 120.0
"""Seconds in which a restored guest's agent must have set its clock and random numbers: a guest that is emulated on a busy
host takes many of them, and a guest that is not told draws the random numbers that it drew before."""
_COMMAND = 30.0
"""Seconds for one command in it."""
_FRESHEN = (
    'date -s "@$1" >/dev/null; cat >/dev/urandom; '
    # RNDRESEEDCRNG: at once, not with the kernel's next reseeding (60 s at most). perl is on every Debian.
    "perl -e 'open(R, q(+<), q(/dev/urandom)) && ioctl(R, 0x5207, 0) or exit 1' || exit 0"
)


class SavedStates:
    """Starts guests from their saved states, and saves the states of those that have none."""

    def __init__(self, connection: LibvirtConnection, storage: Storage, maker: Maker) -> None:
        self._libvirt = connection
        self._storage = storage
        self._maker = maker

    async def start(self, spec: GuestSpec, name: str, *, timeout: float) -> None:
        """Restore the guest; where it has no state that fits, boot it and save one for the next time.

        A guest without an agent that answers within `spec.start_timeout` is left running as it booted, without a state.
        """
        if await self._libvirt.call(lambda c: self._restore(c, spec, name), timeout=timeout, changes=name):
            await self._freshen(name)
            return
        making = await self._libvirt.call(lambda c: self._boot(c, spec, name), timeout=timeout, changes=name)
        if not await self._booted(name, spec.start_timeout):
            _log.warning("%s: no guest agent answered, so its state was not saved", name)
            return
        try:
            await self._libvirt.call(lambda c: self._save(c, name, making), timeout=timeout, changes=name)
        except InfrastructureUnavailable:
            raise
        except InfrastructureError as error:  # the guest runs; only its next start will take longer
            _log.warning("%s: its state could not be saved: %s", name, error)
        await self._freshen(name)

    def _boot(self, connection: Any, spec: GuestSpec, name: str) -> Making:
        self._storage.forget_state(connection, name)
        disk = self._storage.make_overlay(connection, f"{name}.base", spec.image.digest)
        making = self._maker.prepare(connection, spec, name, disk)
        self._maker.boot(connection, making)
        return making

    def _save(self, connection: Any, name: str, making: Making) -> None:
        """Save memory and disk in one step; the guest goes on on a disk over the saved one."""
        document = xml.snapshot_document(
            memory=self._storage.path(connection, f"{name}.state"),
            disk=self._storage.path(connection, f"{name}.qcow2"),
        )
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        connection.lookupByName(name).snapshotCreateXML(document, flags)
        self._storage.put(connection, f"{name}.{making.fingerprint}.saved", b"whole\n")

    def _restore(self, connection: Any, spec: GuestSpec, name: str) -> bool:
        making = self._maker.prepare(connection, spec, name, self._storage.path(connection, f"{name}.qcow2"))
        if not self._storage.exists(connection, f"{name}.{making.fingerprint}.saved"):
            return False
        try:
            state = self._storage.path(connection, f"{name}.state")
            self._storage.make_overlay_over(connection, name, f"{name}.base.qcow2")
            saved = connection.saveImageGetXMLDesc(state, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
            document = xml.restored_document(saved, disk=making.plan.disk, record=making.plan.record)
            connection.defineXML(xml.domain_document(making.plan))
            connection.restoreFlags(state, document, libvirt.VIR_DOMAIN_SAVE_RUNNING)
        except libvirt.libvirtError as error:
            # Another QEMU than the one that saved it, say: the guest can always boot.
            _log.warning("%s: its saved state can not be restored, it boots: %s", name, error)
            domain = connection.lookupByName(name)
            if domain.isActive():
                domain.destroy()
            # libvirt may take this QEMU's end, told late, for the end of the next one of the same domain.
            domain.undefine()
            return False
        return True

    async def _booted(self, name: str, timeout: float) -> bool:
        """Wait until the guest agent answers and systemd, where that runs there, has started everything."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while loop.time() < deadline:
            with contextlib.suppress(TimeoutError, InfrastructureError):  # not yet
                if await self._ready(name):
                    return True
            await asyncio.sleep(0.25)
        return False

    async def _ready(self, name: str) -> bool:
        result = await self._run(name, "systemctl", "is-system-running")
        return result is None or result.strip() in (b"running", b"degraded")

    async def _freshen(self, name: str) -> None:
        """Set the guest's clock, which stood still since its state was saved, and give its kernel fresh random numbers."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    with contextlib.suppress(TimeoutError, InfrastructureError):  # it is asked again
                        if not await self._libvirt.call(lambda c: domains.active(c, name)):
                            return
                        words = ("sh", "-c", _FRESHEN, "sh", f"{time.time():.3f}")
                        await self._run(name, *words, stdin=os.urandom(64))
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            _log.warning("%s: the guest agent set neither clock nor random numbers of the restored guest", name)

    async def _run(self, name: str, *argv: str, stdin: bytes = b"") -> bytes | None:
        """Run a short command through the agent and return what it printed; None when there is no such program."""
        try:
            pid = await self._libvirt.raw(lambda c: agent.start_command(c.lookupByName(name), argv, stdin), timeout=6.0)
        except InfrastructureUnavailable:
            raise
        except InfrastructureError as error:
            if "No such file" in str(error):
                return None
            raise
        async with asyncio.timeout(_COMMAND):
            while True:
                result = await self._libvirt.raw(lambda c: agent.command_result(c.lookupByName(name), pid), timeout=6.0)
                if result is not None:
                    return result.stdout
                await asyncio.sleep(0.05)
