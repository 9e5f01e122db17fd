"""Outages, made and timed: processes of a guest are killed from the host, then a page is asked for until it is there.

What is killed is known to be gone before the first question is put, so an answer can only come from what was started since.
No watcher has to tell a service that is down from one that is slow.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pcloud.infrastructure import lxc_process

GONE = 20.0
"""Seconds that a killed process may take to be gone."""
BACK = 180.0
"""Seconds that the page may take to be there again."""
CONNECT = 0.1
"""Seconds for a connection: a guest that is not there does not refuse one. Another is tried after."""
REPLY = 5.0
PAUSE = 0.002
"""Seconds between two questions that were refused."""
BREATH = 2.5
"""Seconds between two outages at least: systemd refuses a service that is started five times within ten."""

Choice = Callable[[], Sequence[int]]
"""Returns the processes that shall be killed."""


def processes(container: str) -> set[int]:
    """Return the ids, on the host, of all processes of an LXC container, in whatever namespaces it was started."""
    name = re.compile(rf"lxc\.payload\.{re.escape(container)}(-\d+)?")
    root = Path("/sys/fs/cgroup")
    groups = tuple(
        each for each in (*root.glob("lxc.payload.*"), *root.glob("*/lxc.payload.*")) if name.fullmatch(each.name)
    )
    return lxc_process.members(groups)


def init(container: str) -> list[int]:
    """Return the container's first process, in a list."""
    return [pid for pid in processes(container) if _field(pid, "NSpid").split()[-1:] == ["1"]]


def named(container: str, name: str) -> list[int]:
    """Return the processes of a program, the parent of the others first: or it would start new ones."""
    return sorted(pid for pid in processes(container) if _field(pid, "Name") == name)


def _field(pid: int, name: str) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "")


def kill(pids: Sequence[int]) -> float:
    """`kill -9` of processes; return, once all of them are gone, the moment (of the monotonic clock) of the first signal."""
    with contextlib.ExitStack() as stack:
        opened = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself since it was chosen, as idle workers do
                opened.append(os.pidfd_open(pid))
                stack.callback(os.close, opened[-1])
        if not opened:
            raise RuntimeError("there is nothing to kill")
        begun = time.monotonic()
        for fd in opened:
            with contextlib.suppress(ProcessLookupError):  # ended with its parent
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        waiting = set(opened)
        while waiting:
            ended, _, _ = select.select(waiting, [], [], GONE)
            if not ended:
                raise RuntimeError(f"{len(waiting)} killed processes are not gone after {GONE:g} s")
            waiting -= set(ended)
    return begun


def answers(address: str, port: int = 80) -> bool:
    """Whether a page is there."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT) as connection:
            connection.settimeout(REPLY)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(64).split()[1:2] == [b"200"]
    except OSError:
        return False


def until(what: str, happened: Callable[[], bool], seconds: float, *, pause: float = 0.05) -> None:
    """Ask until it is true; RuntimeError when it is not in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {seconds:g} s")
        time.sleep(pause)


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Whose outages are measured, and how one is made."""

    what: str
    """For messages."""
    address: str
    """Where the page is."""
    choose: Choice
    ready: Callable[[], bool]
    """Whether an outage may begin."""
    after: Callable[[], None] = lambda: None
    """Called when what was killed is gone."""


def outages(side: Side, number: int, interval: float) -> list[float]:
    """Make `number` outages and return the seconds from each kill to the page, shortest first.

    The moments are spread evenly over the monitor's interval, in random order.
    """
    return alternating([side], number, interval)[0]


def alternating(sides: Sequence[Side], number: int, interval: float, *, breath: float = BREATH) -> list[list[float]]:
    """As `outages`, of several sides in turn: what else the machine does meets all of them. `breath`: seconds between two
    outages of a side at least."""
    moments = [(n + 0.5) / number * interval for n in range(number)]
    random.shuffle(moments)
    took: list[list[float]] = [[] for _ in sides]
    for moment in moments:
        for side, seconds in zip(sides, took, strict=True):
            seconds.append(_one(side, breath + moment))
    for side, seconds in zip(sides, took, strict=True):
        seconds.sort()
        print(f"{side.what}: {' '.join(f'{each:.2f}' for each in seconds)} s", file=sys.stderr, flush=True)
    return took


def _one(side: Side, rest: float) -> float:
    until(f"{side.what}: readiness", side.ready, BACK)
    until(f"{side.what}: the page", lambda: answers(side.address), BACK)
    time.sleep(rest)
    begun = kill(side.choose())
    side.after()
    until(f"{side.what}: the page again", lambda: answers(side.address), BACK, pause=PAUSE)
    return time.monotonic() - begun


def p99(took: Sequence[float]) -> float:
    """Return the 99th percentile of figures, shortest first, by nearest rank: the longest of fewer than 100."""
    return took[math.ceil(0.99 * len(took)) - 1]
