"""Operating system side of engine processes: is one alive for a slot, start one, wait for its end.

An engine process holds `run/dped-SLOT.lock` locked (flock) with its process id in it for as long as it lives. The lock,
not the id, is the truth: process ids are used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pcloud.cpe.home import Home
from pcloud.objects.settings import VARIABLES

_OWN = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC"}) | VARIABLES
"""Of the daemon's environment, what its engine processes must not have."""


def holder(home: Home, slot: str) -> int | None:
    """Return the process id of the slot's living engine process, or None."""
    path = home.engine_lock(slot)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(handle, 32).decode(errors="replace").strip()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(text) if text.isdigit() else _search(home, slot)
    finally:
        os.close(handle)
    # Unlocked: dead, unless it is of a build that writes the id without holding the lock.
    return int(text) if text.isdigit() and is_engine(int(text), slot) else None


def _search(home: Home, slot: str) -> int:
    """Return the process of a slot by its command line, where a full disk kept it from writing its id; 0 for none."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names only
        if entry.isdigit() and is_engine(int(entry), slot) and os.fsencode(home.path) in _command_line(int(entry)):
            return int(entry)
    return 0


def is_engine(pid: int, slot: str) -> bool:
    """Tell whether this process is an engine process of this slot, going by its command line."""
    return (b"--slot", slot.encode()) in itertools.pairwise(_command_line(pid))


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def spawn(home: Home, slot: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start an engine process in a session of its own, so that it outlives this daemon."""
    argv = [*command, "--socket", str(home.socket), "--slot", slot, "--home", str(home.path)]
    log = os.open(home.logs / f"dped-{slot}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        environment = {name: value for name, value in os.environ.items() if name not in _OWN}
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", env=environment
        )
    finally:
        os.close(log)


async def ended(pid: int) -> None:
    """Return when the process has ended; at once when there is none."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    try:
        loop.add_reader(handle, over.set)
        await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def kill(pid: int, slot: str, *, wait: bool = False) -> None:
    """End an engine process at once, if that is what this process is, and `wait` (blocking) until it has. Guests go on."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if is_engine(pid, slot):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if wait:
                    select.select([handle], [], [])
        finally:
            os.close(handle)


def memory(pid: int) -> int:
    """Return a process's private memory in bytes, 0 when it has gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    fields = ("Private_Clean:", "Private_Dirty:")
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(fields)) * 1024
