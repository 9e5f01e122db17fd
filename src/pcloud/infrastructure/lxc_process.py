"""Guests as the kernel shows them: monitor and init processes, pidfds, cgroups.

Owns nothing; every function is a short, non-blocking look at (or write to) /proc and /sys/fs/cgroup. A process is always
named by its id *and* its start time, so that an id that was used again is never taken for a guest or signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

HALT = signal.SIGRTMIN + 3
"""What systemd as a container's init takes as "power off"."""


class Process(msgspec.Struct, frozen=True):
    """A process that can not be mistaken for a later one of the same id."""

    pid: int
    start: int
    """Clock ticks after boot at which it started."""

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}"


def find_process(pid: int) -> Process | None:
    """Return the process of that id unless there is none or it is a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]))


def state(process: Process) -> str:
    """Return the state letter of proc(5) (`R`, `S`, `T` …); empty when the process is gone."""
    fields = _stat(process.pid)
    if fields is None or int(fields[19]) != process.start:
        return ""
    return fields[0]


def is_alive(process: Process) -> bool:
    """Tell whether it still executes; a zombie does not."""
    return state(process) not in ("", "Z", "X")


def open_pidfd(process: Process) -> int | None:
    """Return a pidfd of the process, or None when it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except (ProcessLookupError, OSError):
        return None
    if not is_alive(process):
        os.close(fd)
        return None
    return fd


def send(process: Process, number: int) -> bool:
    """Send a signal; False when the process is gone already."""
    fd = open_pidfd(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def children(pid: int) -> list[int]:
    """Return the ids of a process's children, those of all its threads."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names only, for speed
    except (FileNotFoundError, ProcessLookupError):
        return []
    for task in tasks:
        try:
            found.extend(int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def find_monitor(pid_file: Path, lxc_path: Path, name: str) -> Process | None:
    """Return the live LXC monitor of a guest. The pid file is LXC's; the process must say itself that it is the monitor
    of this very container (`[lxc monitor] PATH NAME`), because the file outlives reboots."""
    try:
        pid = int(pid_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    process = find_process(pid)
    if process is None:
        return None
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    expected = f"[lxc monitor] {lxc_path} {name}".encode()
    # A monitor that has not renamed itself yet still bears lxc-start's arguments, which hold the same two words.
    words = title.split(b"\0")
    starting = words[0].endswith(b"lxc-start") and name.encode() in words and str(lxc_path).encode() in words
    return process if title == expected or starting else None


def rewrite_pid_file(pid_file: Path, lxc_path: Path, name: str) -> None:
    """Find the monitor of a container among all processes and write its pid file. Slow: for repairs only."""
    expected = f"[lxc monitor] {lxc_path} {name}".encode()
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names only
        if entry.isdigit():
            try:
                title = Path(f"/proc/{entry}/cmdline").read_bytes().rstrip(b"\0 ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title == expected:
                pid_file.write_text(entry)


def find_init(monitor: Process) -> Process | None:
    """Return the init process of the container that a monitor watches: its child in another PID namespace. Those in the
    monitor's own are hooks, which it runs as a container comes and goes."""
    own = _pid_namespace(monitor.pid)
    for pid in children(monitor.pid):
        process = find_process(pid)
        if process is not None and _pid_namespace(pid) not in ("", own):
            return process
    return None


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - the target is no path
    except OSError:  # it ends
        return ""


def cgroups(process: Process) -> tuple[Path, ...]:
    """Return the cgroup folders of a process, those of v1 hierarchies and of v2; the root of a hierarchy is left out.

    For a guest's init they are taken up to the container's own group: systemd moves itself into `init.scope` below it.
    """
    try:
        lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder = path.strip("/")
        if not folder:
            continue
        base = _hierarchy(controllers.removeprefix("name="))
        if base is None:
            continue
        parts = Path(folder).parts
        depth = next((i for i, part in enumerate(parts) if part.startswith("lxc.payload.")), len(parts) - 1)
        found.append(base.joinpath(*parts[: depth + 1]))
    return tuple(found)


def _hierarchy(controllers: str) -> Path | None:
    root = Path("/sys/fs/cgroup")
    if controllers:
        return next((p for p in (root / controllers, root / controllers.split(",")[0]) if p.is_dir()), None)
    if (root / "cgroup.controllers").exists():
        return root
    return root / "unified" if (root / "unified").is_dir() else None


def is_frozen(groups: tuple[Path, ...]) -> bool:
    """Tell whether a freezer (v1 or v2) stops the whole guest."""
    for group in groups:
        if _read(group / "freezer.state") in ("FROZEN", "FREEZING"):
            return True
        if "frozen 1" in _read(group / "cgroup.events").splitlines():
            return True
    return False


def thaw(groups: tuple[Path, ...]) -> None:
    """Let frozen processes go on: under a v1 freezer not even SIGKILL ends them."""
    for group in groups:
        for folder, _, files in os.walk(group):
            if "freezer.state" in files and "freezer" in group.parts:
                _write(Path(folder, "freezer.state"), "THAWED")
            if "cgroup.freeze" in files:
                _write(Path(folder, "cgroup.freeze"), "0")


def members(groups: tuple[Path, ...]) -> set[int]:
    """Return the ids of the processes left in the groups and below; zombies, which execute nothing, are left out."""
    found: set[int] = set()
    for group in groups:
        for folder, _, files in os.walk(group):
            if "cgroup.procs" in files:
                found.update(int(pid) for pid in _read(Path(folder, "cgroup.procs")).split())
    return {pid for pid in found if find_process(pid) is not None}


def remove_left_groups(name: str) -> None:
    """Remove the empty control groups of a container whose monitor was killed before it could tidy up. Groups with a process
    stay: a container of the same name under another path may own them."""
    root = Path("/sys/fs/cgroup")
    for base in (root, *root.glob("*/")):
        for kind in ("payload", "monitor"):
            group = base / f"lxc.{kind}.{name}"
            if group.is_dir() and not members((group,)):
                for folder, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):  # busy after all, or gone
                        os.rmdir(folder)  # noqa: PTH106 - os.walk gives strings


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the command, which may hold any character."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # the group went away under us, or has no such file: nothing to read either way
        return ""


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:  # the group went away under us: then there is nothing left to thaw
        return
