"""The seed of a machine: what makes it different from others of its image, as data on a disk or in a cloud's user data.

Pure. Two forms: a tar archive that the initrd of our own images unpacks over the root file system at every boot
(nothing of ours is needed in the guest), and cloud-init's NoCloud / user data for images made by others. Source of the
latter: cloud-init's documentation, "NoCloud" and "Cloud config examples".
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence

import msgspec

from pcloud.environment.infrastructure import Identity
from pcloud.model.deployable import SeedFile

_HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
_NETWORK = "[Match]\nName=e*\n\n[Network]\nDHCP=yes\n"
_ADDRESSES = "pcloud-addresses.service"
_UNIT = """[Unit]
Description=Further addresses of this guest
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
{}
"""

_VOLUME = 'SUBSYSTEM=="block", ATTRS{vendor}=="pcloud*", ENV{DEVTYPE}'
_ID = 'ENV{ID_SCSI_SERIAL}=="?*", SYMLINK+="disk/by-id/virtio-$env{ID_SCSI_SERIAL}'
_RULES = f"""# Volumes by the names that were asked for, and by their ids.
{_VOLUME}=="disk", SYMLINK+="$attr{{model}}"
{_VOLUME}=="disk", {_ID}"
{_VOLUME}=="partition", SYMLINK+="$attr{{model}}%n"
{_VOLUME}=="partition", {_ID}-part%n"
"""
_FREE = """# The disk that this guest's identity came from is read: its name may be a volume's.
[Service]
ExecStartPre=-/bin/sh -c '[ "$$(cat /sys/block/vdb/serial)" = pcloud-seed ] && \\
  basename "$$(readlink /sys/block/vdb/device)" >/sys/block/vdb/device/driver/unbind'
"""


def tar_seed(
    guest_id: str,
    identity: Identity,
    hosts: Mapping[str, str],
    *,
    dns: str = "",
    dhcp: bool = False,
    files: Sequence[SeedFile] = (),
    addresses: Sequence[str] = (),
    volumes: bool = False,
) -> bytes:
    """Return the archive for our own images. `hosts` maps host names of the deployable's guests to addresses; `files` are
    what the guest alone gets, `addresses` (ADDRESS/PREFIX) what it has besides its own. With `volumes` disks of ours have
    the names in it that were asked for, the one of the seed's own disk too.

    The result is the same for the same input, so that it can be compared.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content, mode in _files(guest_id, identity, hosts, dns):
            _add(archive, path, content, mode)
        if dhcp:
            _add(archive, "etc/systemd/network/90-pcloud.network", _NETWORK.encode(), 0o644)
            _enable(archive, "/lib/systemd/system/systemd-networkd.service")
        for file in files:
            _add(archive, file.path.lstrip("/"), file.content.encode(), file.mode)
        if volumes:
            _add(archive, "etc/udev/rules.d/69-pcloud-volumes.rules", _RULES.encode(), 0o644)
            _add(archive, "etc/systemd/system/systemd-udevd.service.d/pcloud-seed.conf", _FREE.encode(), 0o644)
        if files or addresses:  # without addresses too: the archive can not remove the unit of an earlier boot
            lines = [f"ExecStart=ip addr replace {each} dev eth0" for each in addresses] or ["ExecStart=true"]
            _add(archive, f"etc/systemd/system/{_ADDRESSES}", _UNIT.format("\n".join(lines)).encode(), 0o644)
            _enable(archive, f"/etc/systemd/system/{_ADDRESSES}")
    return buffer.getvalue()


def compressed(seed: bytes) -> bytes:
    """Return a seed as a cloud's user data holds it (gzip, reproducible); the initrd unpacks it from there."""
    return gzip.compress(seed, mtime=0)


def cloud_config(guest_id: str, identity: Identity, hosts: Mapping[str, str]) -> bytes:
    """Return cloud-init user data for images made by others."""
    files = [
        {
            "path": f"/{path}",
            "encoding": "b64",
            "content": base64.b64encode(content).decode(),
            "permissions": f"0{mode:o}",
        }
        for path, content, mode in _files(guest_id, identity, hosts, "")
        if path in ("etc/hosts", "etc/pacemaker/authkey")
    ]
    config: dict[str, object] = {
        "hostname": identity.hostname,
        "preserve_hostname": False,
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_deletekeys": False,
        "write_files": files,
    }
    if identity.authorized_key:
        config["users"] = ["default", {"name": "root", "ssh_authorized_keys": [identity.authorized_key.strip()]}]
    if identity.host_private_key:
        config["ssh_keys"] = {"ed25519_private": identity.host_private_key.rstrip() + "\n"}
    # JSON is YAML: nothing of the content can be taken for syntax
    return b"#cloud-config\n" + msgspec.json.encode(config) + b"\n"


def nocloud(guest_id: str, identity: Identity, hosts: Mapping[str, str], instance: str) -> dict[str, bytes]:
    """Return the files of a NoCloud seed disk (volume label `cidata`); another `instance` makes cloud-init start
    afresh."""
    meta = {"instance-id": instance, "local-hostname": identity.hostname}
    return {"meta-data": msgspec.json.encode(meta) + b"\n", "user-data": cloud_config(guest_id, identity, hosts)}


def hosts_file(hostname: str, hosts: Mapping[str, str]) -> str:
    """Return an /etc/hosts for a guest that knows these others by name."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    if hostname not in hosts:
        lines.append(f"127.0.1.1 {hostname}")
    lines += [f"{address} {name}" for name, address in sorted(hosts.items())]
    return "\n".join(lines) + "\n"


def _files(guest_id: str, identity: Identity, hosts: Mapping[str, str], dns: str) -> list[tuple[str, bytes, int]]:
    machine_id = hashlib.sha256(f"{guest_id}\0{identity.host_private_key}".encode()).hexdigest()[:32]
    files = [
        ("etc/hostname", f"{identity.hostname}\n".encode(), 0o644),
        ("etc/machine-id", f"{machine_id}\n".encode(), 0o444),
        ("etc/hosts", hosts_file(identity.hostname, hosts).encode(), 0o644),
    ]
    if dns:
        files.append(("etc/resolv.conf", f"nameserver {dns}\n".encode(), 0o644))
    if identity.authorized_key:
        files.append(("root/.ssh/authorized_keys", identity.authorized_key.strip().encode() + b"\n", 0o600))
    if identity.agent_key:
        files.append(("etc/pacemaker/authkey", identity.agent_key, 0o600))
    if identity.host_private_key:
        files.append((_HOST_KEY, identity.host_private_key.rstrip().encode() + b"\n", 0o600))
    return files


def _enable(archive: tarfile.TarFile, unit: str) -> None:
    link = tarfile.TarInfo(f"etc/systemd/system/multi-user.target.wants/{unit.rpartition('/')[2]}")
    link.type, link.linkname = tarfile.SYMTYPE, unit
    archive.addfile(link)


def _add(archive: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    folder = path.rpartition("/")[0]
    if folder in ("root/.ssh", "etc/pacemaker"):
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o700 if folder == "root/.ssh" else 0o755
        archive.addfile(info)
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))
