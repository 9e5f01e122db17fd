"""How a guest is killed from outside, by infrastructure: never through the software under demonstration."""

from __future__ import annotations

import os
import signal
import subprocess

from demo.stage import HOME, StageError


def kill(infrastructure: str, guest_id: str) -> None:
    """End a guest as a crash would."""
    if infrastructure != "lxc":
        raise StageError(f"the demonstration does not know how to kill a guest of {infrastructure}")
    folder = HOME / "infrastructure" / "lxc" / "guests"
    told = subprocess.run(
        ["lxc-info", "-P", str(folder), "-n", guest_id, "-p", "-H"], capture_output=True, text=True, check=False
    )
    if not told.stdout.strip().isdigit():
        raise StageError(f"lxc-info does not know the guest {guest_id}: {told.stderr.strip() or told.stdout.strip()}")
    os.kill(int(told.stdout), signal.SIGKILL)
