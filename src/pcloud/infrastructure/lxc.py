"""The LXC driver: guests are system containers on overlay root file systems, made by LXC's own tools, without a daemon.

Everything of ours is in one state folder: `guests/ID/` (LXC's `config`, our `guest.json`, the `upper` layer, `lxc.pid`,
`console.log`), `leases/`, `network.json`. LXC's path is `guests/`, so `lxc-ls -P STATE/guests` shows what we see.

Concurrency: calls for one guest never overlap (the interface's rule); starts and ends are bounded by `parallel`. Several
processes may use one state folder. Guests outlive this process: `lxc-start -d` gives each a monitor of its own. After a
crash at any point the same call, made again, finishes what the first began; what it can not reach is removed by `clean`.
"""

from __future__ import annotations

import asyncio
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
from pcloud.infrastructure import lxc_process, lxc_rootfs
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.lxc_attach import attach, run
from pcloud.infrastructure.lxc_bounds import LxcLimits
from pcloud.infrastructure.lxc_disks import LxcVolumeStore
from pcloud.infrastructure.lxc_guest_network import LxcGuestNetwork
from pcloud.infrastructure.lxc_making import Making, tail
from pcloud.infrastructure.lxc_network import Bridge, Leases
from pcloud.infrastructure.lxc_process import Process
from pcloud.infrastructure.lxc_settings import LxcSettings
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
        self.volumes = LxcVolumeStore(self._state)
        self.network = self.changes = LxcGuestNetwork(settings)
        self._tracker = Tracker(self._guests, settings.rescan)
        self._making = Making(settings, self._state, self._tracker, self._leases, self._bridge, self._end)
        self._slots = asyncio.Semaphore(settings.parallel)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self.limits = LxcLimits(settings, self._guests, self._settled, self._whole, self._tracker.find)
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
                    spec.guest_id, self._making.start(spec, made=record is not None and record.digest == spec.digest)
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
                await self._whole(guest_id, self._making.remove(guest_id))
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
        return await asyncio.to_thread(tail, self._guests / guest_id / "console.log", CONSOLE)

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
            # The monitor ends by itself once it has cleaned up, however busy this host is; one whose lxc-start died before
            # init was made does not.
            patience = left / 2 if running is not None or self._tracker.seen(guest_id) else 3.0
            if monitor is not None and not await _wait_gone(monitor, min(left, patience)):
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
