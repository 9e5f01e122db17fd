"""Another host with a libvirtd: host name, network and files of its own, reached by TCP, TLS or ssh through one link.

Its machines' consoles are written by virtlogd, as is libvirt's default, which begins another file at 4 KiB.

What it shares with this one is the kernel. Its folders are in memory and seen by nobody else; images of this host are
hidden from it. So nothing that is done by files, sockets or addresses of this host can work there.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from pcloud.images.machine import DEFAULT_ROOT
from tests.infrastructure.libvirtd import READY, STATE, Libvirtd, configure, hold, running
from tests.infrastructure.machine import CACHE

NAME = "pctother"
LINK = "pctother0"
HERE, THERE = "10.254.77.1", "10.254.77.2"
USER, PASSWORD = "pct", "wolpertinger"
SUBNET = "10.118.0.0/16"
"""Of the guests: routed to that host."""
_SETUP = f"""
hostname {NAME}
for d in "{CACHE}" "{DEFAULT_ROOT}"; do mkdir -p "$d"; mount -t tmpfs tmpfs "$d"; done
mkdir -p /var/lib/pctother && mount -t tmpfs tmpfs /var/lib/pctother
mount -t sysfs sysfs /sys
echo "127.0.0.1 localhost {NAME}" > "$1/hosts"; mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/sasl.conf" /etc/sasl2/libvirt.conf
mkdir -p /run/sshd
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
_SILENCE = f"""
table inet {NAME} {{
  chain in {{ type filter hook prerouting priority raw; iifname "eth0" drop; }}
  chain out {{ type filter hook postrouting priority raw; oifname "eth0" drop; }}
}}
"""
_SSHD = """
Port 22
ListenAddress {there}
HostKey {folder}/ssh_host
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
"""


class OtherHost(Libvirtd):
    """The libvirtd of another host."""

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", "-t", str(self.holder.pid), "-m", "-n", "-u", *argv]

    @property
    def uri(self) -> str:
        return f"qemu+tcp://{THERE}/system"

    @property
    def ssh(self) -> str:
        """By ssh, to its root."""
        return f"qemu+ssh://root@{THERE}/system?keyfile={self.folder}/user&command={self.folder}/ssh"

    @property
    def tls(self) -> str:
        """By TLS, with a certificate for each side, and with a name and a password."""
        return f"{self.tls_of_nobody}&authfile={self.authentication(PASSWORD)}"

    @property
    def tls_of_nobody(self) -> str:
        """By TLS, without name and password."""
        return f"qemu+tls://{THERE}/system?pkipath={self.folder}/pki"

    def authentication(self, password: str) -> Path:
        """A file that holds the user's name and this password, as libvirt reads it."""
        path = self.folder / f"auth-{password}.conf"
        path.touch(0o600)
        path.write_text(
            f"[credentials-it]\nauthname={USER}\npassword={password}\n[auth-libvirt-{THERE}]\ncredentials=it\n"
        )
        return path

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Have its link lose everything in both directions meanwhile, which nobody is told."""
        subprocess.run(self.inside("nft", "-f", "-"), input=_SILENCE, text=True, check=True)
        try:
            yield
        finally:
            subprocess.run(self.inside("nft", "delete", "table", "inet", NAME), check=True)

    @property
    def state(self) -> str:
        """The setting `state`: a folder that only that host has."""
        return "/var/lib/pctother/state"

    @property
    def volumes(self) -> Path:
        return Path(f"/proc/{self.holder.pid}/root{self.state}/volumes")


@contextlib.contextmanager
def run_other_host(folder: Path) -> Iterator[OtherHost]:
    """Start the host; at the end nothing of it is left."""
    for program in ("sshd", "ssh", "openssl", "nft", "saslpasswd2"):
        if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{program} is not installed (packaging/test-packages.txt)")
    pki = _certificates(folder)
    configure(
        folder,
        f'unix_sock_dir = "/run/libvirt"\nlisten_tls = 1\nlisten_tcp = 1\nlisten_addr = "{THERE}"\n'
        'auth_tcp = "none"\nauth_tls = "sasl"\n'
        f'key_file = "{pki}/serverkey.pem"\ncert_file = "{pki}/servercert.pem"\nca_file = "{pki}/cacert.pem"\n',
    )
    qemu = (folder / "etc/qemu.conf").read_text()
    (folder / "etc/qemu.conf").write_text(qemu.replace('stdio_handler = "file"', 'stdio_handler = "logd"'))
    (folder / "etc/virtlogd.conf").write_text('max_size = 4096\nlog_outputs = "3:stderr"\n')
    _passwords(folder)
    holder = hold(folder, STATE + _SETUP + READY, "--mount", "--net", "--uts")
    server = OtherHost(folder, holder, options=("--listen",))
    try:
        _link(server)
        with _beside(server, "virtlogd"), running(server), _sshd(server):
            yield server
    finally:
        holder.kill()
        holder.wait()
        subprocess.run(["ip", "link", "del", LINK], check=False, capture_output=True)


def _link(server: OtherHost) -> None:
    """One cable between here and there, and the route to the guests through it."""
    subprocess.run(["ip", "link", "del", LINK], check=False, capture_output=True)  # of a run that was killed
    for words in (
        f"link add {LINK} type veth peer name eth0 netns {server.holder.pid}",
        f"addr add {HERE}/30 dev {LINK}",
        f"link set {LINK} up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    for words in (f"addr add {THERE}/30 dev eth0", "link set eth0 up", f"route add default via {HERE}"):
        subprocess.run(server.inside("ip", *words.split()), check=True)
    subprocess.run(["ip", "route", "add", SUBNET, "via", THERE], check=True)


@contextlib.contextmanager
def _sshd(server: OtherHost) -> Iterator[None]:
    user, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    for key, name in ((host, "ssh_host"), (user, "user")):
        key.write_private_key(server.folder / name)
        (server.folder / name).chmod(0o600)
    user.write_public_key(server.folder / "authorized")
    (server.folder / "known").write_text(f"{THERE} {host.export_public_key().decode()}")
    (server.folder / "ssh").write_text(f'#!/bin/sh\nexec ssh -o UserKnownHostsFile={server.folder}/known "$@"\n')
    (server.folder / "ssh").chmod(0o755)
    (server.folder / "sshd_config").write_text(_SSHD.format(there=THERE, folder=server.folder))
    with _beside(server, "/usr/sbin/sshd", "-D", "-e", "-f", str(server.folder / "sshd_config")):
        yield


@contextlib.contextmanager
def _beside(server: OtherHost, *argv: str) -> Iterator[None]:
    """Run a daemon on that host."""
    with (server.folder / "daemons.log").open("ab") as log:
        daemon = subprocess.Popen(server.inside(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def _passwords(folder: Path) -> None:
    """Names and passwords that its libvirtd knows, in the mechanism that libvirt recommends."""
    users = folder / "users.db"
    (folder / "sasl.conf").write_text(f"mech_list: scram-sha-256\nsasldb_path: {users}\n")
    subprocess.run(
        ["saslpasswd2", "-p", "-c", "-a", "libvirt", "-u", NAME, "-f", str(users), USER],
        input=PASSWORD,
        text=True,
        check=True,
    )


def _certificates(folder: Path) -> Path:
    """An authority and a certificate for each side, where libvirt looks for them under `pkipath`."""
    pki = folder / "pki"
    pki.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=pki)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
    openssl("req", "-x509", *key, "-keyout", "cakey.pem", "-out", "cacert.pem", "-subj", "/CN=pctother authority")
    signed = ("-CA", "cacert.pem", "-CAkey", "cakey.pem")
    for side, name in (("server", THERE), ("client", "pct client")):
        openssl(
            "req", "-x509", *key, *signed, "-keyout", f"{side}key.pem", "-out", f"{side}cert.pem", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=IP:{THERE}", "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
    return pki
