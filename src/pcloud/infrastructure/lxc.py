"""The LXC driver: guests are system containers on overlay root file systems, made by LXC's own tools, without a daemon.

Everything of ours is in one state folder: `guests/ID/` (LXC's `config`, our `guest.json`, the `upper` layer, `lxc.pid`,
`console.log`), `leases/`, `network.json`. LXC's path is `guests/`, so `lxc-ls -P STATE/guests` shows what we see.

Concurrency: calls for one guest never overlap (the interface's rule); starts and ends are bounded by `parallel`. Several
processes may use one state folder. Guests outlive this process: `lxc-start -d` gives each a monitor of its own. After a
crash at any point the same call, made again, finishes what the first began; what it can not reach is removed by `clean`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path

from pcloud.environment.infrastructure import (
    ExecResult,
    GuestEvent,
    GuestInfo,
    GuestSpec,
    GuestState,
    InfrastructureError,
    Vitality,
)
from pcloud.infrastructure import lxc_firewall, lxc_process, lxc_rootfs, lxc_ways
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.lxc_attach import attach, run
from pcloud.infrastructure.lxc_disks import LxcVolumeStore
from pcloud.infrastructure.lxc_groups import Groups
from pcloud.infrastructure.lxc_guest_network import LxcGuestNetwork
from pcloud.infrastructure.lxc_network import Bridge, Leases, Network, ip
from pcloud.infrastructure.lxc_process import Process
from pcloud.infrastructure.lxc_segments import Segments
from pcloud.infrastructure.lxc_settings import LxcSettings, mac_address, render, veth_name
from pcloud.infrastructure.lxc_volumes import LxcVolumes
from pcloud.infrastructure.lxc_watch import Running, Tracker

CONSOLE = 64 * 1024
GUEST_ID = re.compile(r"[a-z0-9_][a-z0-9._-]{0,126}")
HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?")


class LxcInfrastructure:
    """Guests on this host as LXC containers. Implements `pcloud.environment.infrastructure.Infrastructure`."""

    name = "lxc"
    capabilities = CAPABILITIES["lxc"]

    def __init__(self, settings: LxcSettings) -> None:
        if not settings.state:
            raise ValueError("LxcSettings.state names no folder")
        self._settings = settings
        self._state = Path(settings.state).absolute()
        self._guests = self._state / "guests"
        self._leases = Leases(self._state)
        self._bridge = Bridge(settings, self._leases)
        self._volumes = LxcVolumes(self._state)
        self.volumes = LxcVolumeStore(self._state)
        self.network = self.changes = LxcGuestNetwork(settings)
        self._groups = Groups(self._state)
        self._segments = Segments(self._state)
        self._tracker = Tracker(self._guests, settings.rescan)
        self._slots = asyncio.Semaphore(settings.parallel)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._cleaned = False

    async def places(self) -> Sequence[str]:
        """Return this host's name: LXC has one place."""
        return (os.uname().nodename,)

    async def list_guests(self) -> Sequence[GuestInfo]:
        """Return all guests of the state folder. Starts no process."""
        leases = self._leases.all()
        return [self._info(name, leases.get(name, 0)) for name in self._tracker.names()]

    async def inspect(self, guest_id: str) -> GuestInfo:
        """Return what is known of one guest. Starts no process."""
        _valid(guest_id)
        return self._info(guest_id, self._leases.all().get(guest_id, 0))

    async def start(self, spec: GuestSpec) -> GuestInfo:
        """Make the guest where needed and start it. Returns when LXC says that it runs, with its static address."""
        _valid(spec.guest_id)
        if not HOSTNAME.fullmatch(spec.identity.hostname):
            raise InfrastructureError(f"{spec.identity.hostname!r} is not a host name", permanent=True)
        async with self._slots:
            await self._settled(spec.guest_id)
            record = lxc_rootfs.read_record(self._guests / spec.guest_id)
            running = self._tracker.find(spec.guest_id)
            if running is not None and record is not None and record.digest == spec.digest:
                return await self.inspect(spec.guest_id)
            if not self._cleaned:
                self._cleaned = True
                await asyncio.to_thread(lxc_rootfs.clean, self._guests)
            await self._end(spec.guest_id, "replaced" if running else "killed")
            try:
                await self._whole(
                    spec.guest_id, self._start(spec, made=record is not None and record.digest == spec.digest)
                )
            except OSError as error:
                raise InfrastructureError(f"guest {spec.guest_id} can not be made: {error}") from error
            return await self.inspect(spec.guest_id)

    async def stop(self, guest_id: str, *, timeout: float) -> None:
        """Ask the guest's init to shut down, kill it after `timeout` seconds."""
        _valid(guest_id)
        await self._settled(guest_id)
        running = self._tracker.find(guest_id)
        if running is not None:
            self._tracker.expect_end(guest_id, "shutdown")
            if not lxc_process.is_frozen(lxc_process.cgroups(running.init)):
                # Again each second: one that has just begun to boot does not hear it yet, and for systemd twice is once.
                deadline = asyncio.get_running_loop().time() + timeout
                while (left := deadline - asyncio.get_running_loop().time()) > 0:
                    lxc_process.send(running.init, lxc_process.HALT)
                    if await _wait_gone(running.init, min(left, 1.0)):
                        break
        async with self._slots:
            await self._settled(guest_id)
            await self._end(guest_id, "shutdown")

    async def destroy(self, guest_id: str) -> None:
        """Kill the guest and return when none of its processes is left. InfrastructureError when one stays."""
        _valid(guest_id)
        async with self._slots:
            await self._settled(guest_id)
            await self._end(guest_id, "killed")

    async def delete(self, guest_id: str) -> None:
        """Destroy the guest and remove its folder, address, network interface and, after the last guest, the bridge."""
        _valid(guest_id)
        async with self._slots:
            await self._settled(guest_id)
            await self._end(guest_id, "deleted")
            try:
                await self._whole(guest_id, self._remove(guest_id))
            except OSError as error:
                raise InfrastructureError(f"guest {guest_id} can not be removed: {error}") from error

    async def check(self, guest_id: str, *, timeout: float) -> Vitality:
        """Tell whether the guest executes: its freezer, its init's state, and a command in it, which needs no network.

        A command that does not return counts as HUNG only when one on the host returns in time meanwhile.
        """
        _valid(guest_id)
        running = self._tracker.find(guest_id)
        if running is None:
            return Vitality.GONE
        if lxc_process.is_frozen(lxc_process.cgroups(running.init)) or lxc_process.state(running.init) in ("T", "t"):
            return Vitality.HUNG
        inside, control = await asyncio.gather(
            attach(self._guests, guest_id, ["/bin/true"], stdin=b"", timeout=timeout, wait_killed=False),
            run(["true"], timeout=timeout / 2),
            return_exceptions=True,
        )
        if not lxc_process.is_alive(running.init):
            return Vitality.GONE
        if isinstance(inside, ExecResult):
            return Vitality.ALIVE if inside.returncode == 0 else Vitality.UNKNOWN
        if isinstance(inside, TimeoutError) and isinstance(control, ExecResult):
            return Vitality.HUNG
        return Vitality.UNKNOWN

    async def watch(self) -> AsyncIterator[GuestEvent]:
        """Yield guests' starts and ends: of running guests first that they run, then every change."""
        queue = self._tracker.listen()
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            await self._tracker.unlisten(queue)

    async def execute(
        self, guest_id: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in the guest as root. InfrastructureError when the guest does not run or the time is over."""
        _valid(guest_id)
        running = self._tracker.find(guest_id)
        if running is None:
            raise InfrastructureError(f"guest {guest_id} does not run")
        frozen = lxc_process.is_frozen(lxc_process.cgroups(running.init))
        if frozen:
            raise InfrastructureError(f"guest {guest_id} is frozen")
        try:
            return await attach(self._guests, guest_id, argv, stdin=stdin, timeout=timeout)
        except TimeoutError:
            raise InfrastructureError(f"{argv[0]} in guest {guest_id} did not end within {timeout:g} s") from None

    async def console(self, guest_id: str) -> bytes:
        """Return the newest part of the guest's console log; empty where there is none."""
        _valid(guest_id)
        return await asyncio.to_thread(_tail, self._guests / guest_id / "console.log", CONSOLE)

    async def close(self) -> None:
        """Stop watching; guests go on running."""
        if self._busy:
            await asyncio.wait(self._busy.values())
        await self._tracker.close()

    def _info(self, guest_id: str, index: int) -> GuestInfo:
        folder = self._guests / guest_id
        record = lxc_rootfs.read_record(folder)
        running = self._tracker.find(guest_id)
        if record is None and running is None:
            return GuestInfo(guest_id=guest_id, state=GuestState.ABSENT)
        network = self._bridge.read() if index else None
        return GuestInfo(
            guest_id=guest_id,
            state=GuestState.RUNNING if running else GuestState.STOPPED,
            address=str(network.address(index).ip) if network else "",
            place=os.uname().nodename,
            digest=record.digest if record else "",
            boot_id=str(running.init) if running else "",
        )

    async def _start(self, spec: GuestSpec, *, made: bool) -> None:
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

    async def _whole(self, guest_id: str, work: Coroutine[None, None, None]) -> None:
        """Bring a guest's work to its end even when our caller is cancelled; the guest's next call waits for that."""
        task = asyncio.get_running_loop().create_task(work, name=f"lxc {guest_id}")
        self._busy[guest_id] = task
        task.add_done_callback(
            lambda done: self._busy.pop(guest_id, None) if self._busy.get(guest_id) is done else None
        )
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to the caller, if there is one
        await asyncio.shield(task)

    async def _settled(self, guest_id: str) -> None:
        task = self._busy.get(guest_id)
        if task is not None:
            await asyncio.wait({task})

    async def _remove(self, guest_id: str) -> None:
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
        text = _tail(self._guests / guest_id / "lxc.log", 4096).decode(errors="replace")
        errors = [line.split(" - ")[-1].strip() for line in text.splitlines() if " ERROR " in line]
        return "; ".join(errors[:3]) or "LXC wrote no reason"

    async def _end(self, guest_id: str, reason: str) -> None:
        """Kill the guest and its monitor; return when both are gone and the guest's cgroup is empty."""
        deadline = time.monotonic() + self._settings.end_timeout
        while True:
            running = self._tracker.find(guest_id)
            monitor = self._tracker.monitor(guest_id)
            if running is None and monitor is None:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise InfrastructureError(f"guest {guest_id} was killed, but is not seen to be gone")
            if running is not None:
                self._tracker.expect_end(guest_id, reason)
                await self._kill(running, left)
            # The monitor ends by itself once it has cleaned up; one whose lxc-start died before init was made does not.
            if monitor is not None and not await _wait_gone(monitor, min(left, 3.0)):
                lxc_process.send(monitor, signal.SIGKILL)

    @staticmethod
    async def _kill(running: Running, timeout: float) -> None:
        groups = lxc_process.cgroups(running.init)
        lxc_process.send(running.init, signal.SIGKILL)
        lxc_process.thaw(groups)
        # The kernel ends every process of the guest's PID namespace before init itself is seen to end.
        await _wait_gone(running.init, timeout)
        for _ in range(100):
            if not lxc_process.members(groups):
                return
            await asyncio.sleep(0.02)


def _valid(guest_id: str) -> None:
    if not GUEST_ID.fullmatch(guest_id):
        raise InfrastructureError(f"{guest_id!r} is not a guest id", permanent=True)


async def _wait_gone(process: Process, timeout: float) -> bool:
    """Wait until a process has ended; False when it has not within `timeout` seconds."""
    fd = lxc_process.open_pidfd(process)
    if fd is None:
        return True
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        async with asyncio.timeout(timeout):
            await gone.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return True


def _tail(path: Path, size: int) -> bytes:
    """The last bytes of a log and of the older part that LXC rotated away."""
    kept = b""
    for part in (path, path.with_name(f"{path.name}.1")):
        if len(kept) < size:
            with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(max(0, length - (size - len(kept))))
                kept = file.read() + kept
    return kept
