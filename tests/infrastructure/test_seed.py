"""Seeds: the same for the same input, right in every reader, and nothing of the content taken for syntax."""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import subprocess
import tarfile

import pytest
import yaml

from pcloud.environment.infrastructure import Identity
from pcloud.infrastructure import seed
from pcloud.infrastructure.iso import iso_image
from pcloud.model.deployable import SeedFile

IDENTITY = Identity(
    hostname="web1",
    authorized_key="ssh-ed25519 AAAA someone",
    agent_key=bytes(range(256)),
    host_private_key="-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n",
)


def test_tar_seed_holds_the_identity():
    data = seed.tar_seed("shop.web", IDENTITY, {"db": "10.0.0.2"}, dns="10.0.0.1", dhcp=True)
    assert data == seed.tar_seed("shop.web", IDENTITY, {"db": "10.0.0.2"}, dns="10.0.0.1", dhcp=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: member for member in archive}
        contents = {name: archive.extractfile(m).read() for name, m in members.items() if m.isfile()}
    assert contents["etc/hostname"] == b"web1\n"
    assert b"10.0.0.2 db\n" in contents["etc/hosts"]
    assert b"127.0.1.1 web1\n" in contents["etc/hosts"]
    assert contents["etc/resolv.conf"] == b"nameserver 10.0.0.1\n"
    assert contents["etc/pacemaker/authkey"] == bytes(range(256))
    assert len(contents["etc/machine-id"]) == 33
    for name in ("etc/pacemaker/authkey", "etc/ssh/ssh_host_ed25519_key", "root/.ssh/authorized_keys"):
        assert members[name].mode == 0o600
    assert members["root/.ssh"].mode == 0o700
    assert members["etc/systemd/system/multi-user.target.wants/systemd-networkd.service"].issym()
    other = seed.tar_seed("shop.db", IDENTITY, {})
    with tarfile.open(fileobj=io.BytesIO(other)) as archive:
        assert archive.extractfile("etc/machine-id").read() != contents["etc/machine-id"]
    assert gzip.decompress(seed.compressed(data)) == data


def test_tar_seed_holds_what_one_guest_alone_gets():
    """Files with their modes; addresses as a unit, which is there without any too: it replaces that of an earlier boot."""
    data = SeedFile(path="/var/lib/cloud/seed/nocloud/user-data", content="#!/bin/sh\n", mode=0o600)

    def unit(**given: object) -> tuple[dict[str, tarfile.TarInfo], str]:
        archived = seed.tar_seed("shop.web", IDENTITY, {}, **given)
        with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
            members = {member.name: member for member in archive}
            return members, archive.extractfile("etc/systemd/system/pcloud-addresses.service").read().decode()

    members, text = unit(files=[data], addresses=["10.0.0.8/16", "10.0.0.9/16"])
    assert members["var/lib/cloud/seed/nocloud/user-data"].mode == 0o600
    assert members["etc/systemd/system/multi-user.target.wants/pcloud-addresses.service"].issym()
    assert [line for line in text.splitlines() if line.startswith("ExecStart")] == [
        "ExecStart=ip addr replace 10.0.0.8/16 dev eth0",
        "ExecStart=ip addr replace 10.0.0.9/16 dev eth0",
    ]
    assert "ip addr" not in unit(files=[data])[1]
    with tarfile.open(fileobj=io.BytesIO(seed.tar_seed("shop.web", IDENTITY, {}))) as archive:
        assert not [name for name in archive.getnames() if "pcloud" in name], "nothing of it in other guests"


def test_cloud_config_is_yaml_whatever_it_holds():
    nasty = Identity(hostname="web1", authorized_key='ssh-ed25519 AAAA "\nruncmd: [reboot]', agent_key=b"\0\xff")
    text = seed.cloud_config("shop.web", nasty, {"db": "10.0.0.2"})
    assert text.startswith(b"#cloud-config\n")
    config = yaml.safe_load(text)
    assert "runcmd" not in config
    assert config["users"][1]["ssh_authorized_keys"] == ['ssh-ed25519 AAAA "\nruncmd: [reboot]']
    files = {file["path"]: base64.b64decode(file["content"]) for file in config["write_files"]}
    assert files["/etc/pacemaker/authkey"] == b"\0\xff"


def test_iso_image_as_others_read_it(tmp_path):
    if shutil.which("xorriso") is None and shutil.which("isoinfo") is None:
        pytest.skip("neither xorriso nor isoinfo is installed")
    files = seed.nocloud("shop.web", IDENTITY, {}, "i-1")
    files["empty"] = b""
    path = tmp_path / "seed.iso"
    path.write_bytes(iso_image("cidata", files))
    for name, content in files.items():
        out = tmp_path / f"out-{name}"
        subprocess.run(
            ["xorriso", "-osirrox", "on", "-indev", str(path), "-extract", f"/{name}", str(out)],
            check=True, capture_output=True,
        )  # fmt: skip
        assert out.read_bytes() == content
    listing = subprocess.run(["xorriso", "-indev", str(path), "-pvd_info"], check=True, capture_output=True, text=True)
    assert "cidata" in listing.stdout + listing.stderr


@pytest.mark.parametrize(
    "files", [{"x" * 65: b""}, {"": b""}, {"a": b"x" * 1024 * 1025}, {f"f{n}": b"" for n in range(60)}]
)
def test_iso_image_refuses_too_much(files):
    with pytest.raises(ValueError):
        iso_image("cidata", files)


def test_volumes_have_their_names_where_there_can_be_some():
    def names(**given) -> set[str]:
        with tarfile.open(fileobj=io.BytesIO(seed.tar_seed("shop.web", IDENTITY, {}, **given))) as archive:
            return {name for name in archive.getnames() if "udev" in name}

    assert names() == set()
    assert len(names(volumes=True)) == 2
