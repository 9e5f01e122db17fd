"""How a guest is killed or hung from outside, by infrastructure: never through the software under demonstration."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from demo.stage import HOME, StageError


def kill(infrastructure: str, guest_id: str) -> None:
    """End a guest as a crash would."""
    if infrastructure == "libvirt":
        os.kill(machine(guest_id), signal.SIGKILL)
        return
    if infrastructure == "openstack":
        from demo.servers import delete

        delete(guest_id)
        return
    if infrastructure != "lxc":
        raise StageError(f"the demonstration does not know how to kill a guest of {infrastructure}")
    folder = HOME / "infrastructure" / "lxc" / "guests"
    told = subprocess.run(
        ["lxc-info", "-P", str(folder), "-n", guest_id, "-p", "-H"], capture_output=True, text=True, check=False
    )
    if not told.stdout.strip().isdigit():
        raise StageError(f"lxc-info does not know the guest {guest_id}: {told.stderr.strip() or told.stdout.strip()}")
    os.kill(int(told.stdout), signal.SIGKILL)


def hang(guest_id: str) -> int:
    """Stop a machine's QEMU without ending it; return its process id."""
    pid = machine(guest_id)
    os.kill(pid, signal.SIGSTOP)
    return pid


def machine(guest_id: str) -> int:
    """Return the process id of a guest's QEMU."""
    wanted = f"guest=pcloud-{guest_id},".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (folder / "cmdline").read_bytes():
                    return int(folder.name)
    raise StageError(f"no QEMU runs the guest {guest_id}")
