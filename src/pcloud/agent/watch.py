"""Processes whose end triggers a monitor at once: found in /proc or told by systemd, watched by pidfd.

Owns: the pidfds of each resource. A pidfd tells of an end in well under a millisecond, in any namespace, whoever the
parent is. Callbacks in the loop. What can not be found here is still found by the recurring monitor, only later.
"""

from __future__ import annotations

import os

from pcloud.agent.loop import READ, Loop

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable, Container

MAX_WATCHED = 64
"""Processes watched for one resource."""
PROCESSES = "CRM_meta_pcloud_processes"
"""Parameter with the names of a service's processes, separated by commas or spaces."""


class Watch:
    """The watched processes of one resource."""

    __slots__ = ("_ended", "_fds", "_loop")

    def __init__(self, loop: Loop, ended: Callable[[], None]) -> None:
        self._loop = loop
        self._ended = ended
        self._fds: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._fds)

    def add(self, pids: list[int]) -> None:
        """Watch these processes too. One that has ended already is told like one that ends now."""
        for pid in pids:
            if pid in self._fds or pid <= 1 or len(self._fds) >= MAX_WATCHED:
                continue
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._loop.soon(self._ended)
                continue
            except OSError:
                continue  # no descriptors left, or a kernel without pidfd: the interval finds out
            self._fds[pid] = fd
            self._loop.watch(fd, READ, lambda _events, pid=pid: self._on_end(pid))  # type: ignore[misc]

    def clear(self) -> None:
        """Watch nothing any more."""
        for fd in self._fds.values():
            self._loop.forget(fd)
            os.close(fd)
        self._fds = {}

    def _on_end(self, pid: int) -> None:
        fd = self._fds.pop(pid, None)
        if fd is not None:
            self._loop.forget(fd)
            os.close(fd)
            self._ended()


def _read(path: str, limit: int = 131072) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""  # it ended while we read
    finally:
        os.close(fd)


def _parent(pid: int) -> int:
    stat = _read(f"/proc/{pid}/stat", 4096)
    fields = stat[stat.rfind(b")") + 2 :].split()
    # A zombie has ended already; treating it as its own parent leaves it out of the roots.
    return pid if len(fields) < 2 or fields[0] == b"Z" else int(fields[1])


def roots(pids: set[int]) -> list[int]:
    """Return those whose parent is not among them: a service's main processes, not its workers, which come and go."""
    return sorted(pid for pid in pids if _parent(pid) not in pids)


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_run(pid: int, running: Container[int]) -> bool:
    """Whether it belongs to an agent's run under way (they have process groups of their own) and not to a service."""
    try:
        return pid == os.getpid() or os.getpgid(pid) in running
    except ProcessLookupError:
        return True


def by_name(names: list[str], running: Container[int] = ()) -> list[int]:
    """Return main processes with one of these names (of the program or of its first argument)."""
    wanted = {name.encode()[:255] for name in names if name}
    short = {name[:15] for name in wanted}
    found = set()
    for pid in _all():
        if _read(f"/proc/{pid}/comm", 64).rstrip(b"\n") in short:
            found.add(pid)
            continue
        first = _read(f"/proc/{pid}/cmdline", 4096).split(b"\0", 1)[0]
        if first and first.rsplit(b"/", 1)[-1].rstrip(b":") in wanted:
            found.add(pid)
    return [pid for pid in roots(found) if not _is_run(pid, running)]


def by_mark(variable: str, value: str, running: Container[int] = ()) -> list[int]:
    """Return main processes that inherited an environment variable with that value: started by the resource's agent."""
    wanted = f"{variable}={value}".encode()
    found = {pid for pid in _all() if wanted in _read(f"/proc/{pid}/environ").split(b"\0")}
    return [pid for pid in roots(found) if not _is_run(pid, running)]


def by_pid_file(path: str) -> list[int]:
    """Return the process that a pid file names, if it exists."""
    text = _read(path, 32).split()
    if not text or not text[0].isdigit():
        return []
    pid = int(text[0])
    return [pid] if pid > 1 and os.path.exists(f"/proc/{pid}") else []


def by_control_group(group: str) -> list[int]:
    """Return the main processes of a systemd unit's control group."""
    if not group.startswith("/") or group == "/" or ".." in group:
        return []
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
        text = _read(f"{root}{group}/cgroup.procs")
        if text:
            return roots({int(pid) for pid in text.split() if pid.isdigit()})
    return []


def find(resource_class: str, resource_id: str, parameters: dict[str, str], running: Container[int] = ()) -> list[int]:
    """Return the processes of an `ocf` or `lsb` resource: by name where the names are given, else by its pid file, else by
    what they inherited from the agent that started them.
    `running` are the process groups of agents' runs under way."""
    names = parameters.get(PROCESSES, "").replace(",", " ").split()
    if names:
        return by_name(names, running)
    for name in ("pidfile", "pid_file", "pid"):
        path = parameters.get(name, "")
        if path.startswith("/"):
            pids = by_pid_file(path)
            if pids:
                return pids
    variable = "OCF_RESOURCE_INSTANCE" if resource_class == "ocf" else "PCLOUD_RESOURCE"
    return by_mark(variable, resource_id, running)
