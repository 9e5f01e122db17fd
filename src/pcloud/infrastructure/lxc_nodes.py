"""Block devices in a running guest: their nodes, and the right to use them.

Nodes are made through a descriptor of the guest's own `/dev`, so that no link in the guest leads anywhere else.

Concurrency: functions block and run in threads, under the lock of `lxc_volumes`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.host import run_tool, write_atomically
from pcloud.infrastructure.lxc_settings import device_rules

BLOCK = Path("/sys/block")
PERMITTED = "volumes.permitted"
"""In a guest's folder: the numbers that it may use."""
_permitted = msgspec.json.Decoder(frozenset[str])


def told_of(path: Path) -> str:
    """Return what the kernel tells in a file of /sys; empty when its device goes, before or while it is read."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return ""


def nodes_of(loop: str, device: str) -> list[tuple[str, int, int]]:
    """The disk and its partitions: path in the guest, major, minor."""
    found = []
    for entry in [BLOCK / loop, *sorted((BLOCK / loop).glob(f"{loop}p*"))]:
        major, _, minor = told_of(entry / "dev").strip().partition(":")
        if not minor:
            continue  # a partition that goes
        found.append((f"{device}{entry.name.removeprefix(loop).removeprefix('p')}", int(major), int(minor)))
    return found


@contextlib.contextmanager
def _devices_of(init: int) -> Iterator[int]:
    """A descriptor of a guest's own /dev; FileNotFoundError when it ends."""
    root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY)
    try:
        folder = os.open("dev", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    finally:
        os.close(root)
    try:
        yield folder
    finally:
        os.close(folder)


def make_nodes(init: int, device: str, nodes: Sequence[tuple[str, int, int]]) -> None:
    """Bring the nodes of a device and its partitions in a guest to these; `init` is the guest's first process."""
    wanted = {Path(path).name: os.makedev(major, minor) for path, major, minor in nodes}
    try:
        with _devices_of(init) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - by descriptor
                if _is_part(name, device) and wanted.get(name) != _device_number(folder, name):
                    os.unlink(name, dir_fd=folder)
            present = set(os.listdir(folder))  # noqa: PTH208
            for name, number in wanted.items():
                if name not in present:
                    os.mknod(name, stat.S_IFBLK | 0o660, number, dir_fd=folder)
    except (FileNotFoundError, ProcessLookupError):
        return  # the guest ends; its next start has them
    except OSError as error:
        raise InfrastructureError(f"{device} can not be put into the guest: {error.strerror}") from error


def permit(folder: Path, init: int, nodes: Iterable[Sequence[tuple[str, int, int]]]) -> None:
    """Let a running guest use these devices and no others that it could use before: numbers are given to others later."""
    if not device_rules([""]):
        return
    wanted = {f"{major}:{minor}" for each in nodes for _, major, minor in each}
    path = folder / PERMITTED
    try:
        had = _permitted.decode(path.read_bytes())
    except FileNotFoundError:
        had = frozenset()
    write_atomically(path, msgspec.json.encode(sorted(wanted | had)))
    for verb, numbers in (("devices.allow", wanted), ("devices.deny", had - wanted)):
        for number in sorted(numbers):
            run_tool("lxc-cgroup", "-P", str(folder.parent), "-n", folder.name, verb, f"b {number} rwm")
            if verb == "devices.allow":
                _allow_below(init, f"b {number} rwm")
    write_atomically(path, msgspec.json.encode(sorted(wanted)))


def _allow_below(init: int, rule: str) -> None:
    """Let services that run in the guest already use a device: in control groups of version 1 what a group is given is not
    its children's (what it is denied is)."""
    try:
        lines = Path(f"/proc/{init}/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return
    own = next((line.split(":", 2)[2] for line in lines if line.split(":")[1:2] == ["devices"]), "")
    parts = Path(own).parts
    top = next((number for number, part in enumerate(parts) if part.startswith("lxc.payload.")), None)
    if top is None:
        return  # version 2, where rules hold for all below
    for place, _, _ in os.walk(Path("/sys/fs/cgroup/devices", *parts[1 : top + 1])):
        with contextlib.suppress(FileNotFoundError):  # a service that ended meanwhile
            Path(place, "devices.allow").write_text(rule)


def _is_part(name: str, device: str) -> bool:
    return re.fullmatch(re.escape(Path(device).name) + r"[0-9]*", name) is not None


def _device_number(folder: int, name: str) -> int:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else -1
