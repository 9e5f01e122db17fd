"""What this machine can and can not do. Each check says how to mend what is missing. Blocking: call in a thread."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pcloud.cpe.ports import Check
from pcloud.infrastructure.checks import checks_of
from pcloud.store.lease import Grant
from pcloud.transport import checks as transport_checks

_PROGRAMS = (
    ("lxc-start", "containers (infrastructure lxc)", "apt-get install lxc"),
    ("mmdebstrap", "building images", "apt-get install mmdebstrap"),
    ("ip", "the guests' network", "apt-get install iproute2"),
    ("crm_simulate", "the scheduler's fallback", "apt-get install pacemaker-cli-utils"),
)
_LIBRARIES = (
    ("libpacemaker.so.*", "the policy engine library", "apt-get install libpacemaker1"),
    ("libgnutls.so.30*", "TLS with pre-shared keys", "apt-get install libgnutls30"),
)


def doctor(home: Path, infrastructures: Mapping[str, Any]) -> list[Check]:
    """Return every check's outcome."""
    found = [_root(), *(_program(*one) for one in _PROGRAMS), *(_library(*one) for one in _LIBRARIES)]
    found += [_room(home), _cgroups(), _memory()]
    found += [msgspec.convert(check, Check, from_attributes=True) for check in transport_checks.checks()]
    for name in sorted({"lxc", *infrastructures}):
        said = checks_of(name, infrastructures.get(name, {}))
        found += [msgspec.convert(check, Check, from_attributes=True) for check in said]
    return found


def lease_check(grant: Grant, length: float) -> list[Check]:
    """Return the check of who owns the store; none where it can have one daemon only."""
    if not grant.token:
        return []
    then = f"another takes over {length:g} s after this one falls silent" if length else "no other takes over by itself"
    return [Check(check="lease", state="ok", detail=f"this daemon owns the store (token {grant.token}); {then}")]


def _root() -> Check:
    if os.geteuid() == 0:
        return Check(check="root", state="ok", detail="the daemon runs as root")
    return Check(check="root", state="warning", detail="not root", hint="containers and bridges need root")


def _program(name: str, what: str, hint: str) -> Check:
    path = shutil.which(name)
    if path:
        return Check(check=name, state="ok", detail=f"{what}: {path}")
    return Check(check=name, state="missing", detail=f"needed for {what}", hint=hint)


def _library(pattern: str, what: str, hint: str) -> Check:
    for folder in ("/usr/lib", "/usr/lib64", "/lib"):
        for path in Path(folder).glob(f"*/{pattern}"):
            return Check(check=pattern.split(".")[0], state="ok", detail=f"{what}: {path}")
    return Check(check=pattern.split(".")[0], state="missing", detail=f"needed for {what}", hint=hint)


def _room(home: Path) -> Check:
    free = shutil.disk_usage(home).free
    state = "ok" if free > 4 << 30 else "warning"
    hint = "" if state == "ok" else "an image needs about 1 GiB"
    return Check(check="disk", state=state, detail=f"{free / 2**30:.1f} GiB free at {home}", hint=hint)


def _cgroups() -> Check:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Check(check="cgroups", state="ok", detail="version 2")
    if Path("/sys/fs/cgroup/memory").is_dir():
        return Check(check="cgroups", state="ok", detail="version 1")
    return Check(
        check="cgroups",
        state="warning",
        detail="no control groups are mounted",
        hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup; guests and their limits need them",
    )


def _memory() -> Check:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) / 2**20
            state = "ok" if available > 1 else "warning"
            return Check(check="memory", state=state, detail=f"{available:.1f} GiB available")
    return Check(check="memory", state="warning", detail="not known")
