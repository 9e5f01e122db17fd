"""The Debian packages that peers are built from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).resolve().parent.parent / "packaging" / "bench-packages.txt"


def install() -> None:
    """Install what is missing of `packaging/bench-packages.txt`; RuntimeError when that takes root and we are not."""
    wanted = [line.split("#")[0].strip() for line in LIST.read_text().splitlines()]
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *filter(None, wanted)],
        capture_output=True,
        text=True,
        check=False,  # it fails when one is unknown, and tells of the others all the same
    )
    installed = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    missing = [name for name in wanted if name and name not in installed]
    if not missing:
        return
    if os.geteuid() != 0:
        raise RuntimeError(f"needs root to install Debian packages: apt-get install {' '.join(missing)}")
    print(f"bench: installing {' '.join(missing)}", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        subprocess.run(["apt-get", "-qq", *command], check=True, env=environment, stdout=subprocess.DEVNULL)
