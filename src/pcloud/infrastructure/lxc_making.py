"""How an LXC guest is made and started, and taken away: its lease, bridges and names, its definition and hooks, LXC's start.

Owns nothing but the order of these steps. After a crash between any two the same call, made again, finishes what the first
began. Concurrency: one guest's calls never overlap; those of different guests, and of other processes, may.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pcloud.environment.infrastructure import GuestSpec, InfrastructureError
from pcloud.infrastructure import lxc_firewall, lxc_process, lxc_rootfs, lxc_ways
from pcloud.infrastructure.host import ip
from pcloud.infrastructure.lxc_groups import Groups
from pcloud.infrastructure.lxc_network import Bridge, Leases, Network
from pcloud.infrastructure.lxc_segments import Segments
from pcloud.infrastructure.lxc_settings import LxcSettings, mac_address, render, veth_name
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.infrastructure.lxc_watch import Tracker


class Making:
    """Makes, starts and removes the guests of one state folder."""

    def __init__(
        self,
        settings: LxcSettings,
        state: Path,
        tracker: Tracker,
        leases: Leases,
        bridge: Bridge,
        end: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """`end(guest id, reason)` ends what runs of a guest."""
        self._settings = settings
        self._guests = state / "guests"
        self._tracker = tracker
        self._leases = leases
        self._bridge = bridge
        self._end = end
        self._volumes = LxcVolumes(state)
        self._groups = Groups(state)
        self._segments = Segments(state)

    async def start(self, spec: GuestSpec, *, made: bool) -> None:
        """Start a guest that does not run; `made`: what it is made of is there. InfrastructureError, OSError."""
        folder = self._guests / spec.guest_id
        # The lease comes before the bridge: see lxc_network.
        index = self._lease(spec)
        network = await self._bridge.ensure()
        if spec.address and index != network.index(spec.address):
            raise InfrastructureError(f"the guests' network became another one, {network.subnet}, meanwhile")
        address = network.address(index)
        bridges: list[str] = []
        if spec.interfaces:
            wanted = [interface.network for interface in spec.interfaces]
            bridges = await asyncio.to_thread(self._segments.connect, wanted, network)
        config = render(
            spec,
            folder,
            self._settings,
            bridge=network.bridge,
            address=address,
            gateway=network.gateway,
            bridges=bridges,
        )
        names = self._names(spec, address.ip, network)
        await asyncio.to_thread(self._prepare, spec, config, made, names, address, network.gateway)
        for bridge in (network.bridge, *bridges):
            veth = veth_name(bridge, spec.guest_id)
            if os.path.exists(f"/sys/class/net/{veth}"):  # noqa: PTH110, ASYNC240 - left by an aborted run; sysfs never blocks
                with contextlib.suppress(InfrastructureError):
                    await ip("link", "del", veth)
        await self._lxc_start(spec)
        # Who asked for the guest while it was away is not answered by it: the kernel repeats such a question once a second.
        await self._bridge.introduce(network, address.ip, mac_address(spec.guest_id))
        deadline = time.monotonic() + 2.0
        while self._tracker.find(spec.guest_id) is None:
            if time.monotonic() > deadline:
                raise InfrastructureError(f"guest {spec.guest_id} ended at once: {self._error(spec.guest_id)}")
            # An lxc-start that outlived its killed driver was faster than ours, whose pid file is then not the monitor's.
            await asyncio.to_thread(lxc_process.rewrite_pid_file, folder / "lxc.pid", self._guests, spec.guest_id)
            await asyncio.sleep(0.05)

    def _lease(self, spec: GuestSpec) -> int:
        if spec.address:
            return self._leases.claim(spec.guest_id, self._bridge.planned().index(spec.address))
        return self._leases.take(spec.guest_id, self._bridge.size())

    async def remove(self, guest_id: str) -> None:
        """Remove all of a guest that does not run, and after the last one the bridge. OSError."""
        await asyncio.to_thread(self._volumes.forget, self._guests / guest_id)
        await asyncio.to_thread(self._groups.forget, guest_id)  # before its address may be another guest's
        await asyncio.to_thread(lxc_rootfs.remove, self._guests, guest_id)
        await asyncio.to_thread(lxc_process.remove_left_groups, guest_id)
        self._leases.release(guest_id)
        # Also what a delete that was killed in its middle had renamed already: nobody will ask for it by its name again.
        await asyncio.to_thread(lxc_rootfs.clean, self._guests)
        if not self._tracker.names():
            with contextlib.suppress(OSError):  # not empty: another process is making a guest
                self._guests.rmdir()
        await self._bridge.remove_unused()

    def _names(
        self, spec: GuestSpec, address: ipaddress.IPv4Address, network: Network
    ) -> dict[str, ipaddress.IPv4Address]:
        """Host names of the deployable's guests that have an address by now."""
        inside = [interface.network for interface in spec.interfaces]
        own = ipaddress.IPv4Interface(spec.interfaces[0].address).ip if inside else address
        names = {spec.identity.hostname: own}
        for guest_id, index in self._leases.all().items():
            if guest_id.startswith(f"{spec.deployable}.") and guest_id != spec.guest_id:
                record = lxc_rootfs.read_record(self._guests / guest_id)
                if record is not None:
                    there = lxc_ways.address_of(self._guests / guest_id, inside) if inside else None
                    names.setdefault(record.hostname, there or network.address(index).ip)
        return names

    def _prepare(
        self,
        spec: GuestSpec,
        config: str,
        made: bool,
        names: dict[str, ipaddress.IPv4Address],
        address: ipaddress.IPv4Interface,
        gateway: ipaddress.IPv4Address,
    ) -> None:
        folder = self._guests / spec.guest_id
        if not made:
            self._volumes.forget(folder)
            lxc_rootfs.remove(self._guests, spec.guest_id)
            lxc_rootfs.create(self._guests, spec)
        lxc_rootfs.write_hosts(folder / "upper", spec, names)
        hooks = lxc_firewall.prepare(folder, spec.firewall, gateway, self._groups)
        hooks += lxc_ways.prepare(folder, spec.interfaces, address, gateway)
        addresses = [str(address.ip), *spec.addresses, *(one.address for one in spec.interfaces)]
        self._groups.join(spec.guest_id, spec.groups, addresses)
        hooks += self._volumes.prepare(folder, spec.volumes)
        (folder / "config").write_text(config + "".join(f"{line}\n" for line in hooks))
        for old in ("lxc.pid", "lxc.log", "init"):
            (folder / old).unlink(missing_ok=True)

    async def _lxc_start(self, spec: GuestSpec) -> None:
        folder = self._guests / spec.guest_id
        process = await asyncio.create_subprocess_exec(
            "lxc-start", "-P", str(self._guests), "-n", spec.guest_id, "-d",
            "-p", str(folder / "lxc.pid"), "-o", str(folder / "lxc.log"), "-l", "ERROR",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(spec.start_timeout):
                returncode = await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await self._end(spec.guest_id, "killed")
            raise InfrastructureError(
                f"guest {spec.guest_id} did not start within {spec.start_timeout:g} s: {self._error(spec.guest_id)}"
            ) from None
        if returncode:
            raise InfrastructureError(f"guest {spec.guest_id} did not start: {self._error(spec.guest_id)}")

    def _error(self, guest_id: str) -> str:
        """The last errors that LXC wrote, one line."""
        text = tail(self._guests / guest_id / "lxc.log", 4096).decode(errors="replace")
        errors = [line.split(" - ")[-1].strip() for line in text.splitlines() if " ERROR " in line]
        return "; ".join(errors[:3]) or "LXC wrote no reason"


def tail(path: Path, size: int) -> bytes:
    """Return the last bytes of a log and of the older part that LXC rotated away."""
    kept = b""
    for part in (path, path.with_name(f"{path.name}.1")):
        if len(kept) < size:
            with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - (size - len(kept))))
                kept = file.read() + kept
    return kept
