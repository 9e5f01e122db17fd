"""A libvirtd for the demonstration where the machine runs none: its state in a mount namespace, its socket in our folder.

On a machine whose own libvirtd runs, that one is used and nothing of this happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from demo.stage import StageError

SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
SETUP = """
mount --make-rprivate /
for d in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
mkdir -p /run/libvirt/network /run/libvirt/qemu /var/lib/libvirt/qemu /var/lib/libvirt/dnsmasq
mount --bind "$1/etc" /etc/libvirt
exec libvirtd -f "$1/libvirtd.conf" -p "$1/libvirtd.pid"
"""


def uri(folder: Path) -> str:
    """Return the URI of a libvirtd that answers, started in `folder` where the machine has none. StageError without one."""
    if any(Path(path).is_socket() for path in SOCKETS):
        return "qemu:///system"
    if shutil.which("libvirtd") is None:
        raise StageError("libvirtd is not installed: run `make setup-libvirt`")
    own = f"qemu:///system?socket={folder}/sock/libvirt-sock"
    if _answers(own):
        return own
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sock").mkdir(parents=True)
    shutil.copytree("/etc/libvirt", folder / "etc")
    (folder / "etc/qemu.conf").write_text(
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nstdio_handler = "file"\nremember_owner = 0\n'
        "cgroup_controllers = []\nnamespaces = []\n"
    )
    (folder / "libvirtd.conf").write_text(
        f'unix_sock_dir = "{folder}/sock"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "3:stderr"\n'
    )
    with (folder / "libvirtd.log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", SETUP, "sh", str(folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    end = time.time() + 60
    while not _answers(own):
        if process.poll() is not None or time.time() > end:
            raise StageError(f"libvirtd did not start: {(folder / 'libvirtd.log').read_text()[-500:]}")
        time.sleep(0.2)
    return own


def stop(folder: Path) -> None:
    """End the libvirtd that `uri` started, if any."""
    try:
        pid = int((folder / "libvirtd.pid").read_text())
    except (OSError, ValueError):
        return
    with contextlib.suppress(OSError):
        if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
            end = time.time() + 10
            while Path(f"/proc/{pid}").exists() and time.time() < end:
                time.sleep(0.1)


def _answers(address: str) -> bool:
    done = subprocess.run(["virsh", "-c", address, "uri"], capture_output=True, check=False)
    return done.returncode == 0
