"""A guest's folder: what the driver keeps of it, and the identity written into its upper layer.

Concurrency: functions block (files only) and run in threads; one guest's folder is touched by one call at a time. A folder
is prepared under a name that begins with `.new-` and renamed when complete; one to be removed is renamed to `.del-` first.
Both names hold the process that made them, so that leftovers of a dead one are told from work in progress.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import GuestSpec
from pcloud.infrastructure.host import write_atomically
from pcloud.infrastructure.lxc_process import find_process


class GuestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `guest.json` keeps of a guest; its content marks the folder as complete."""

    guest_id: str
    hostname: str
    digest: str
    image: str
    layers: tuple[str, ...]
    """Read by the image store's garbage collection: images of existing guests stay."""


def read_record(folder: Path) -> GuestRecord | None:
    """Return a guest's record, None where there is no complete guest."""
    try:
        return msgspec.json.decode((folder / "guest.json").read_bytes(), type=GuestRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def create(guests: Path, spec: GuestSpec) -> None:
    """Make the guest's folder with its identity, all of it or nothing."""
    folder = guests / spec.guest_id
    new = guests / f".new-{_owner()}-{spec.guest_id}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    upper = new / "upper"
    upper.mkdir(mode=0o755)
    write_identity(upper, spec)
    record = GuestRecord(
        guest_id=spec.guest_id,
        hostname=spec.identity.hostname,
        digest=spec.digest,
        image=spec.image.name,
        layers=spec.image.layers,
    )
    write_atomically(new / "guest.json", msgspec.json.encode(record))
    if folder.exists():  # half made by hand or damaged: it has no readable record, else nobody would call this
        remove(guests, spec.guest_id)
    new.rename(folder)


def remove(guests: Path, guest_id: str) -> None:
    """Remove the guest's folder; a crash in between leaves only what `clean` removes."""
    folder = guests / guest_id
    dying = guests / f".del-{_owner()}-{guest_id}"
    if dying.exists():  # of a removal that failed, by a full or broken disk
        shutil.rmtree(dying)
    try:
        folder.rename(dying)
    except FileNotFoundError:
        return
    shutil.rmtree(dying)


def clean(guests: Path) -> None:
    """Remove what calls that died have left."""
    with contextlib.suppress(FileNotFoundError), os.scandir(guests) as entries:
        for entry in entries:
            if entry.name.startswith((".new-", ".del-")):
                _, pid, start, _ = entry.name.split("-", 3)
                process = find_process(int(pid))
                if process is None or process.start != int(start):
                    shutil.rmtree(entry.path, ignore_errors=True)


def write_identity(upper: Path, spec: GuestSpec) -> None:
    """Write what makes this guest different from others of its image."""
    identity = spec.identity
    put(upper, spec, "etc/hostname", f"{identity.hostname}\n")
    put(upper, spec, "etc/machine-id", "", mode=0o444)  # systemd makes a new one
    if identity.authorized_key:
        put(
            upper,
            spec,
            "root/.ssh/authorized_keys",
            identity.authorized_key.rstrip() + "\n",
            mode=0o600,
            folder_mode=0o700,
        )
    if identity.agent_key:
        put(upper, spec, "etc/pacemaker/authkey", identity.agent_key, mode=0o600)
    if identity.host_private_key:
        put(upper, spec, "etc/ssh/ssh_host_ed25519_key", identity.host_private_key.rstrip() + "\n", mode=0o600)
    for file in spec.seed:
        put(upper, spec, file.path.lstrip("/"), file.content, mode=file.mode)


def write_hosts(upper: Path, spec: GuestSpec, names: dict[str, ipaddress.IPv4Address]) -> None:
    """Write /etc/hosts with this guest and the others of its deployable that have an address."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {name}" for name, address in sorted(names.items())]
    put(upper, spec, "etc/hosts", "\n".join(lines) + "\n")


def put(
    upper: Path, spec: GuestSpec, path: str, content: str | bytes, *, mode: int = 0o644, folder_mode: int = 0o755
) -> None:
    """Write a file into the upper layer. A folder there covers the mode and owner of the image's: they are taken over."""
    target = upper
    for part in Path(path).parts[:-1]:
        relative = (target / part).relative_to(upper)
        target = target / part
        if target.is_dir() and not target.is_symlink():
            continue
        below = next((p for p in (Path(layer) / relative for layer in reversed(spec.image.layers)) if p.is_dir()), None)
        target.mkdir()
        if below is None:
            target.chmod(folder_mode)
        else:
            info = below.stat()
            os.chown(target, info.st_uid, info.st_gid)
            target.chmod(info.st_mode & 0o7777)
    file = target / Path(path).name
    file.unlink(missing_ok=True)  # never follow a link that the guest may have put there
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        os.fchmod(stream.fileno(), mode)


def _owner() -> str:
    pid = os.getpid()
    process = find_process(pid)
    return f"{pid}-{process.start if process else 0}"
