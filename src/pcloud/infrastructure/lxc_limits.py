"""A guest's memory and processor limits: the lines of its configuration, and the control groups of one that runs.

Owns what stands in those files. Nothing is remembered: what the groups hold is compared to what they shall hold, so that a
call that was killed between two writes is finished by the next. Concurrency: blocking functions; one guest's calls never
overlap. Source: the kernel's `admin-guide/cgroup-v1/memory.rst`, `scheduler/sched-bwc.rst` and `admin-guide/cgroup-v2.rst`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError

PERIOD = 100_000
"""Microseconds over which the kernel counts processor time."""
_MIB = 1024 * 1024
_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 2**62
"""Version 1 shows the largest number of whole pages where there is no limit: anything from here on is none."""
_KEYS = ("lxc.cgroup.memory.", "lxc.cgroup2.memory.", "lxc.cgroup.cpu.cfs_", "lxc.cgroup2.cpu.max")


class Knob(msgspec.Struct, frozen=True):
    """A file of a control group, what stands in it, and what shall."""

    file: Path
    was: str
    wanted: str


def lines(memory: int, cpus: float) -> list[str]:
    """Return the configuration's lines for limits in MiB and cores; 0 sets none."""
    found = []
    unified = is_unified()
    if memory:
        size = memory * _MIB
        found.append(f"lxc.cgroup2.memory.max = {size}" if unified else f"lxc.cgroup.memory.limit_in_bytes = {size}")
    if cpus:
        if unified:
            found.append(f"lxc.cgroup2.cpu.max = {_quota(cpus)} {PERIOD}")
        else:
            found.append(f"lxc.cgroup.cpu.cfs_period_us = {PERIOD}")
            found.append(f"lxc.cgroup.cpu.cfs_quota_us = {_quota(cpus)}")
    return found


def is_unified() -> bool:
    """Tell whether control groups of version 2 are all that there is."""
    return (_ROOT / "cgroup.controllers").exists()


def lacking() -> str:
    """Say why guests here can not be limited; empty when they can."""
    if is_unified():
        there = set((_ROOT / "cgroup.controllers").read_text().split())
        missing = [name for name in ("memory", "cpu") if name not in there]
    else:
        files = {"memory": "memory/memory.limit_in_bytes", "cpu": "cpu/cpu.cfs_quota_us"}
        missing = [name for name, file in files.items() if not (_ROOT / file).exists()]
    return f"the kernel has no control group of {' and '.join(missing)}" if missing else ""


def settle(groups: Sequence[Path], memory: int, cpus: float) -> list[str]:
    """Bring the control groups of a guest that runs to limits in MiB and cores, 0 for none, and return what was changed in
    words. InfrastructureError when one can not be had; then all of them are as they were. OSError when the guest ended
    meanwhile."""
    knobs = [*_memory(groups, memory), *_processors(groups, cpus)]
    changing = [knob for knob in knobs if knob.was != knob.wanted]
    if any(knob.file.name in ("memory.max", "memory.limit_in_bytes") for knob in changing):
        _refuse_less_than_used(groups, memory)
    done: list[Knob] = []
    for knob in changing:
        try:
            knob.file.write_text(knob.wanted)
        except OSError as error:
            for former in reversed(done):
                with contextlib.suppress(OSError):  # it had that before: nothing but the guest's end is in its way
                    former.file.write_text(former.was)
            why = os.strerror(error.errno or 0)
            raise InfrastructureError(f"{_told(knob, memory, cpus)} can not be set: {why}") from error
        done.append(knob)
    return list(dict.fromkeys(_told(knob, memory, cpus) for knob in done))


def rewritten(config: Path, memory: int, cpus: float) -> Path | None:
    """Write beside a guest's configuration file one with these limits, that is to take its place once they are had; None
    when it has them already. OSError."""
    text = config.read_text()
    kept = [line for line in text.splitlines() if not line.startswith(_KEYS)]
    changed = "".join(f"{line}\n" for line in (*kept, *lines(memory, cpus)))
    if sorted(changed.splitlines()) == sorted(text.splitlines()):
        return None
    fresh = config.with_name(f"{config.name}.new")
    fresh.write_text(changed)
    return fresh


def used(groups: Sequence[Path]) -> int:
    """Return the bytes of memory that a guest could not give back at once: without what it read from or wrote to files."""
    group = _group(groups, "memory.stat")
    if group is None:
        return 0
    version1 = (group / "memory.usage_in_bytes").exists()
    total = int((group / ("memory.usage_in_bytes" if version1 else "memory.current")).read_text())
    prefix = "total_" if version1 else ""
    files = {f"{prefix}{name}" for name in ("active_file", "inactive_file")}
    statistics = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return max(0, total - sum(int(words[1]) for words in statistics if words[0] in files))


def _memory(groups: Sequence[Path], memory: int) -> list[Knob]:
    limit = str(memory * _MIB) if memory else ""
    if (group := _group(groups, "memory.max")) is not None:
        return [Knob(group / "memory.max", (group / "memory.max").read_text().strip(), limit or "max")]
    if (group := _group(groups, "memory.limit_in_bytes")) is not None:
        file = group / "memory.limit_in_bytes"
        now = int(file.read_text())
        return [Knob(file, str(now) if now < _UNLIMITED else "-1", limit or "-1")]
    if memory:
        raise InfrastructureError("the guest has no control group of memory")
    return []


def _processors(groups: Sequence[Path], cpus: float) -> list[Knob]:
    quota = str(_quota(cpus)) if cpus else ""
    if (group := _group(groups, "cpu.max")) is not None:
        return [Knob(group / "cpu.max", (group / "cpu.max").read_text().strip(), f"{quota or 'max'} {PERIOD}")]
    if (group := _group(groups, "cpu.cfs_quota_us")) is not None:
        period, share = group / "cpu.cfs_period_us", group / "cpu.cfs_quota_us"
        knobs = [Knob(share, share.read_text().strip(), quota or "-1")]
        if cpus:
            knobs.insert(0, Knob(period, period.read_text().strip(), str(PERIOD)))
        return knobs
    if cpus:
        raise InfrastructureError("the guest has no control group of processors")
    return []


def _refuse_less_than_used(groups: Sequence[Path], memory: int) -> None:
    """Version 2 ends processes until the rest fits, version 1 takes nothing: neither is what was asked for."""
    if memory and (now := used(groups)) > memory * _MIB:
        taken = -(-now // _MIB)
        raise InfrastructureError(f"it uses {taken} MiB of memory now and can not be limited to {memory} MiB")


def _group(groups: Sequence[Path], file: str) -> Path | None:
    return next((group for group in groups if (group / file).exists()), None)


def _told(knob: Knob, memory: int, cpus: float) -> str:
    if knob.file.name.startswith("memory."):
        return f"{memory} MiB of memory" if memory else "memory without a limit"
    return f"{cpus:g} processors" if cpus else "processors without a limit"


def _quota(cpus: float) -> int:
    return max(1000, int(cpus * PERIOD))
