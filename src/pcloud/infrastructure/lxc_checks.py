"""What `doctor` says about LXC guests here. Looks only; starts no program."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure import lxc_limits, lxc_volumes
from pcloud.model.check import Check

PROGRAMS = {"lxc-start": "lxc", "lxc-attach": "lxc", "ip": "iproute2"}
INOTIFY_EACH = 6
"""Instances that systemd and its companions in one guest were seen to take, rounded up."""


def lacking() -> dict[Capability, str]:
    """Return what guests here can not have though LXC's can, with what is missing for it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found: dict[Capability, str] = {}
    if not (shutil.which("nft", path=path) and shutil.which("nsenter", path=path)):
        why = "nft or nsenter is not installed: apt-get install nftables util-linux"
        found |= dict.fromkeys((Capability.FIREWALL, Capability.FIREWALL_GROUPS, Capability.NETWORKS), why)
    if why := lxc_limits.lacking():
        found[Capability.LIMITS] = why
    if not lxc_volumes.available():
        found[Capability.VOLUMES] = "the kernel has no loop devices: modprobe loop"
    elif not shutil.which("losetup", path=path):
        found[Capability.VOLUMES] = "losetup is not installed: apt-get install mount"
    if Capability.VOLUMES in found:
        found[Capability.SNAPSHOTS] = found[Capability.VOLUMES]
    return found


def checks() -> list[Check]:
    """Return what this machine can and can not do."""
    found = []
    for program, package in PROGRAMS.items():
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        hint = "" if path else f"apt-get install {package}"
        found.append(Check(check=f"lxc: {program}", state="ok" if path else "missing", detail=path or "", hint=hint))
    if os.geteuid() != 0:
        found.append(Check(check="lxc: root", state="missing", detail="guests are started by root", hint="run as root"))
    found += [
        Check(check=f"lxc: {name} namespace", state="missing", detail="the kernel has none")
        for name in ("pid", "net", "mnt", "uts", "ipc")
        if not Path("/proc/self/ns", name).exists()
    ]
    found += [Check(check=f"lxc: {what}", state="warning", detail=why) for what, why in lacking().items()]
    found.append(_cgroups())
    if "overlay" not in Path("/proc/filesystems").read_text():
        found.append(Check(check="lxc: overlay", state="missing", hint="modprobe overlay"))
    instances = _number("/proc/sys/fs/inotify/max_user_instances")
    enough = instances // INOTIFY_EACH
    found.append(
        Check(
            check="lxc: inotify",
            state="ok" if enough >= 50 else "warning",
            detail=f"{instances} instances: room for about {enough} guests with systemd",
            hint="" if enough >= 50 else "sysctl fs.inotify.max_user_instances=8192",
        )
    )
    return found


def _cgroups() -> Check:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Check(check="lxc: cgroups", state="ok", detail="unified (v2)")
    if Path("/sys/fs/cgroup/memory").is_dir() and Path("/sys/fs/cgroup/freezer").is_dir():
        hybrid = " with v2 beside it" if Path("/sys/fs/cgroup/unified").is_dir() else ""
        return Check(check="lxc: cgroups", state="ok", detail=f"v1{hybrid}")
    return Check(
        check="lxc: cgroups",
        state="missing",
        detail="/sys/fs/cgroup has no hierarchy that guests can use",
        hint="mount cgroup2",
    )


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (FileNotFoundError, ValueError):
        return 0
