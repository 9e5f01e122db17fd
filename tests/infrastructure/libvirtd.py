"""A libvirtd of the tests' own: its own mount namespace for its state, its own socket, QEMU without privileges dropped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CAPABILITIES = Path(os.environ.get("PCLOUD_TEST_CACHE", "/var/cache/pcloud-test")) / "libvirt"
"""What libvirtds found out about QEMU, which takes each 4 s else."""
STATE = """
mount --make-rprivate /
for d in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do mkdir -p $d && mount -t tmpfs tmpfs $d; done
mkdir -p /run/libvirt/network /run/libvirt/qemu /var/lib/libvirt/qemu /var/lib/libvirt/dnsmasq
mount --bind "$1/etc" /etc/libvirt
mkdir -p "$2" && mount --bind "$2" /var/cache/libvirt
"""
READY = """
echo ready > "$1/ready"
exec sleep infinity
"""
"""A libvirtd's folders of its own; and: it is done, and stays."""


@dataclass
class Libvirtd:
    """A libvirtd that can be stopped, killed and started again while its machines go on."""

    folder: Path
    holder: subprocess.Popen[bytes]
    process: subprocess.Popen[bytes] | None = field(default=None)
    options: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.folder}/sock/libvirt-sock"

    def inside(self, *argv: str) -> list[str]:
        """A command that runs where this libvirtd does."""
        return ["nsenter", "-t", str(self.holder.pid), "-m", *argv]

    def start(self) -> None:
        log = (self.folder / "libvirtd.log").open("ab")
        self.process = subprocess.Popen(
            self.inside("libvirtd", *self.options, "-f", str(self.folder / "libvirtd.conf"),
                        "-p", str(self.folder / "libvirtd.pid")),
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + 300
        while True:
            done = subprocess.run(["virsh", "-c", self.uri, "uri"], capture_output=True, check=False)
            if done.returncode == 0:
                return
            assert self.process.poll() is None, (self.folder / "libvirtd.log").read_text()[-2000:]
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    @property
    def volumes(self) -> Path:
        """The folder of the storage pool that drivers with `state` make here."""
        return self.folder / "state/volumes"

    def guests_volumes(self) -> list[str]:
        """Names of the files in the storage pool that are of guests and not of images."""
        if not self.volumes.exists():
            return []
        return sorted(path.name for path in self.volumes.iterdir() if path.name.startswith("pct-"))

    def names(self, listing: str) -> list[str]:
        """Names of all machines (`list`), networks (`net-list`) or pools (`pool-list`), active or not."""
        virsh = ["virsh", "-q", "-c", self.uri, listing, "--all", "--name"]
        return subprocess.run(virsh, capture_output=True, text=True, check=True, timeout=300).stdout.split()

    def filters(self) -> list[str]:
        """Names of all network filters."""
        virsh = ["virsh", "-q", "-c", self.uri, "nwfilter-list"]
        lines = subprocess.run(virsh, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()
        return [line.split()[1] for line in lines if line.strip()]

    def sweep(self) -> None:
        """Remove all that a test left, whatever became of it; images stay."""
        assert self.process is not None
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
        else:
            self.start()
        remove_all(self)
        for name in self.guests_volumes():
            (self.volumes / name).unlink()

    def qemu(self, name: str) -> int:
        """Process id of a machine's QEMU."""
        for pid in self.inhabitants():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"qemu" in words[0] and f"guest={name},debug-threads=on".encode() in words:
                    return pid
        raise LookupError(name)

    def inhabitants(self) -> list[int]:
        """Processes in the mount namespace of this libvirtd: it, its machines and their helpers, and nothing of another run
        of the tests, which may have machines of the same names."""
        own, found = Path(f"/proc/{self.holder.pid}/ns/mnt").readlink(), []
        assert own != Path("/proc/self/ns/mnt").readlink()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    if (folder / "ns/mnt").readlink() == own:
                        found.append(int(folder.name))
        return found

    def freeze(self, name: str) -> int:
        """Stop a machine's QEMU with all its threads, and return its process id."""
        pid = self.qemu(name)
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while any(state(task) != "T" for task in Path(f"/proc/{pid}/task").iterdir()):
            assert time.monotonic() < deadline, f"{name} does not stop"
            time.sleep(0.01)
        return pid


def state(task: Path) -> str:
    """The state of a thread, as the kernel's letter for it."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def configure(folder: Path, configuration: str) -> None:
    """Write what a libvirtd reads; skip where there is none."""
    if os.geteuid() != 0:
        pytest.skip("needs root: libvirtd")
    for program in ("libvirtd", "virsh", "qemu-system-x86_64"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (make setup-libvirt)")
    etc = folder / "etc"
    shutil.copytree("/etc/libvirt", etc)
    shutil.rmtree(etc / "qemu/networks", ignore_errors=True)  # Debian's `default`
    (etc / "qemu/networks/autostart").mkdir(parents=True, exist_ok=True)
    (etc / "qemu.conf").write_text(
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nstdio_handler = "file"\nremember_owner = 0\n'
        "cgroup_controllers = []\nnamespaces = []\n"
    )
    (folder / "libvirtd.conf").write_text(
        f'{configuration}auth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "3:stderr"\n'
    )


def hold(folder: Path, script: str, *namespaces: str) -> subprocess.Popen[bytes]:
    """Begin the process that keeps a libvirtd's namespaces; `script` sets them up."""
    holder = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-ec", script, "sh", str(folder), str(CAPABILITIES)], start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (folder / "ready").exists():
        assert holder.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return holder


@contextlib.contextmanager
def run_libvirtd(folder: Path) -> Iterator[Libvirtd]:
    """Start a libvirtd; at the end nothing of it is left."""
    (folder / "sock").mkdir()
    configure(folder, f'unix_sock_dir = "{folder}/sock"\nlisten_tls = 0\n')
    server = Libvirtd(folder, hold(folder, STATE + READY, "--mount"))
    with running(server):
        yield server


@contextlib.contextmanager
def running(server: Libvirtd) -> Iterator[None]:
    """Start it; at the end nothing of it is left, its namespaces neither."""
    try:
        server.start()
        yield
    finally:
        if server.process is not None:
            with contextlib.suppress(OSError):
                server.send(signal.SIGCONT)
        remove_all(server)
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        for pid in server.inhabitants():  # machines too, where libvirtd did not answer any more
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.holder.kill()
        server.holder.wait()


def remove_all(server: Libvirtd) -> None:
    """Remove machines, networks and pools of this libvirtd, and only of this one."""
    kinds = (
        ("list", "destroy", ["undefine", "--managed-save"]),
        ("net-list", "net-destroy", ["net-undefine"]),
        ("pool-list", "pool-destroy", ["pool-undefine"]),
    )
    with contextlib.suppress(subprocess.SubprocessError):
        for listing, destroy, undefine in kinds:
            for name in server.names(listing):
                for words in ([destroy], undefine):
                    virsh = ["virsh", "-q", "-c", server.uri, *words, name]
                    subprocess.run(virsh, capture_output=True, check=False, timeout=300)
