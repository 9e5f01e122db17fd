"""What `doctor` says about guests as machines here. Looks, and asks libvirtd; starts and changes nothing.

Concurrency: blocking; a libvirtd that hangs is given up after `_PATIENCE` seconds.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.model.check import Check

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
    "dnsmasq": "dnsmasq-base",
}
_PATIENCE = 5.0
"""Seconds until libvirtd counts as not answering."""


_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def lacking(settings: Mapping[str, Any]) -> dict[Capability, str]:
    """Return what guests can not have with these settings on this machine though libvirt's can, with the reason."""
    known = msgspec.convert(settings, LibvirtSettings)
    found: dict[Capability, str] = {}
    if known.network == "user":
        why = "with user-mode networking guests have no network in which this host has an address"
        found |= dict.fromkeys((Capability.NETWORK, Capability.ADDRESSES, Capability.FIREWALL), why)
    elif (urlsplit(known.uri).hostname or "localhost") not in ("localhost", "127.0.0.1", socket.gethostname()):
        why = f"libvirtd is on another host ({known.uri}), whose guests have no address of this one"
        found |= dict.fromkeys((Capability.NETWORK, Capability.ADDRESSES, Capability.FIREWALL), why)
    elif not _BRIDGED.exists() or _BRIDGED.read_text().strip() != "1":
        why = (
            "bridged packets are not filtered here: modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1"
        )
        found[Capability.FIREWALL] = why
    return found


def checks(settings: Mapping[str, Any]) -> list[Check]:
    """Return what this machine can and can not do with libvirt, by the infrastructure's settings."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = []
    for program, package in PROGRAMS.items():
        where = shutil.which(program, path=path)
        hint = "" if where else f"apt-get install {package}"
        found.append(
            Check(check=f"libvirt: {program}", state="ok" if where else "missing", detail=where or "", hint=hint)
        )
    loader = Path("/usr/lib/grub/i386-pc/boot.img").exists()  # only of disks that boot by themselves
    hint = "" if loader else "apt-get install grub-pc-bin"
    found.append(Check(check="libvirt: GRUB for cloud disks", state="ok" if loader else "warning", hint=hint))
    try:
        known = msgspec.convert(settings, LibvirtSettings)
    except msgspec.ValidationError as error:
        hint = "see docs/infrastructures.md"
        return [*found, Check(check="libvirt: settings", state="missing", detail=str(error), hint=hint)]
    if importlib.util.find_spec("libvirt") is None:
        hint = "make setup-libvirt, or pip install libvirt-python of your libvirt's version"
        return [*found, Check(check="libvirt: Python binding", state="missing", hint=hint)]
    found.append(Check(check="libvirt: Python binding", state="ok"))
    found += [Check(check=f"libvirt: {what}", state="warning", detail=why) for what, why in lacking(settings).items()]
    return [*found, _daemon(known.uri), _acceleration()]


def _daemon(uri: str) -> Check:
    """Whether libvirtd answers where the settings say it is."""
    import libvirt

    answers: list[str] = []

    def ask() -> None:
        try:
            connection = libvirt.openReadOnly(uri)
            number = connection.getLibVersion()
            version = f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
            answers.append(f"libvirt {version} on {connection.getHostname()} answers at {uri}")
            connection.close()
        except libvirt.libvirtError as error:
            answers.append(f"!{error}")

    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print every error
    thread = threading.Thread(target=ask, daemon=True, name="libvirt-doctor")
    thread.start()
    thread.join(_PATIENCE)
    if answers and not answers[0].startswith("!"):
        return Check(check="libvirt: daemon", state="ok", detail=answers[0])
    why = answers[0][1:] if answers else f"no answer within {_PATIENCE:g} s"
    return Check(
        check="libvirt: daemon", state="missing", detail=f"{uri}: {why}",
        hint="systemctl start libvirtd, or set infrastructures.libvirt.uri",
    )  # fmt: skip


def _acceleration() -> Check:
    """Whether KVM can be opened; only a start shows whether it works."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Check(
            check="libvirt: KVM", state="warning", detail=f"/dev/kvm: {error.strerror}; machines are emulated (TCG), a boot "
            "takes 10 to 20 s", hint="enable virtualisation in the firmware, or modprobe kvm",
        )  # fmt: skip
    return Check(check="libvirt: KVM", state="ok", detail="/dev/kvm can be opened")
