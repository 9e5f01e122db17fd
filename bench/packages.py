"""The Debian packages that peers are built from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).resolve().parent.parent / "packaging" / "bench-packages.txt"


def missing() -> list[str]:
    """Return the packages of `packaging/bench-packages.txt` that are not installed."""
    wanted = [line.split("#")[0].strip() for line in LIST.read_text().splitlines()]
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *filter(None, wanted)],
        capture_output=True,
        text=True,
        check=False,  # it fails when one is unknown, and tells of the others all the same
    )
    installed = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name and name not in installed]


def install() -> None:
    """Install what is missing; RuntimeError when that takes root and we are not."""
    absent = missing()
    if not absent:
        return
    if os.geteuid() != 0:
        raise RuntimeError(f"needs root to install Debian packages: apt-get install {' '.join(absent)}")
    print(f"bench: installing {' '.join(absent)}", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *absent]):
        subprocess.run(["apt-get", "-qq", *command], check=True, env=environment, stdout=subprocess.DEVNULL)
