"""What `doctor` says about guests as machines here. Looks only; starts no program."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from pcloud.model.check import Check

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
    "dnsmasq": "dnsmasq-base",
}
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")


def checks() -> list[Check]:
    """Return what this machine can and can not do with libvirt."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = []
    for program, package in PROGRAMS.items():
        where = shutil.which(program, path=path)
        hint = "" if where else f"apt-get install {package}"
        found.append(
            Check(check=f"libvirt: {program}", state="ok" if where else "missing", detail=where or "", hint=hint)
        )
    binding = importlib.util.find_spec("libvirt") is not None
    hint = "" if binding else "make setup-libvirt, or pip install libvirt-python of your libvirt's version"
    found.append(Check(check="libvirt: Python binding", state="ok" if binding else "missing", hint=hint))
    socket = next((name for name in SOCKETS if Path(name).is_socket()), "")
    hint = "" if socket else "systemctl start libvirtd, or set infrastructures.libvirt.uri"
    found.append(Check(check="libvirt: daemon", state="ok" if socket else "warning", detail=socket, hint=hint))
    found.append(_acceleration())
    return found


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
