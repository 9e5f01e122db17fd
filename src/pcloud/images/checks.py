"""What `doctor` says about building images here. Looks only; starts no program but apt's own look at mirrors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pcloud.images import apt
from pcloud.images.definitions import definitions
from pcloud.images.store import DEFAULT_ROOT
from pcloud.model.check import Check
from pcloud.model.errors import PcloudError

NEEDED = 3 * 1024**3
PROGRAMS = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "setpriv": "util-linux", "chroot": "coreutils"}


def checks(root: Path = DEFAULT_ROOT) -> list[Check]:
    """Return what this machine can and can not do, without asking mirrors."""
    found = []
    for program, package in PROGRAMS.items():
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        hint = "" if path else f"apt-get install {package}"
        found.append(Check(check=f"images: {program}", state="ok" if path else "missing", detail=path or "", hint=hint))
    if os.geteuid() != 0:
        found.append(
            Check(check="images: root", state="missing", detail="images are built by root", hint="run as root")
        )
    overlay = "overlay" in Path("/proc/filesystems").read_text()
    found.append(
        Check(
            check="images: overlay",
            state="ok" if overlay else "missing",
            detail="assembly images are overlay layers",
            hint="" if overlay else "modprobe overlay",
        )
    )
    here = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(here).free
    found.append(
        Check(
            check="images: room",
            state="ok" if free >= NEEDED else "warning",
            detail=f"{free / 1024**3:.1f} GiB free under {here}",
            hint="" if free >= NEEDED else "a JEOS and a few assemblies take about 3 GiB",
        )
    )
    return found


async def mirror_checks() -> list[Check]:
    """Return which JEOS the mirrors of this machine serve; takes a few seconds."""
    found = []
    for name, each in sorted(definitions().items()):
        try:
            lines = await apt.source_lines(each)
        except PcloudError as error:
            problem = error.problems[0]
            found.append(Check(check=f"images: {name}", state="warning", detail=problem.message, hint=problem.hint))
        else:
            found.append(Check(check=f"images: {name}", state="ok", detail=f"{each.title}: {len(lines)} suites served"))
    return found
