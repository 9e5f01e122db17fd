"""What `doctor` says about guests as machines here. Looks, and asks libvirtd; starts a machine
without anything for a moment, since only that shows whether KVM works, and changes nothing.

Concurrency: blocking; a libvirtd that hangs is given up after `_PATIENCE` seconds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pcloud.environment.infrastructure import Capability
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.infrastructure.libvirt_settings import LibvirtSettings
from pcloud.model.check import Check

IMAGES = {"qemu-img": "qemu-utils", "mke2fs": "e2fsprogs", "busybox": "busybox-static"}
"""What makes images, here wherever libvirtd is."""
MACHINES = {"qemu-system-x86_64": "qemu-system-x86", "dnsmasq": "dnsmasq-base"}
"""What runs machines, where libvirtd is."""
_PATIENCE = 15.0
"""Seconds until libvirtd counts as not answering."""


_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def lacking(settings: Mapping[str, Any]) -> dict[Capability, str]:
    """Return what guests can not have with these settings on this machine though libvirt's can, with the reason."""
    known = msgspec.convert(settings, LibvirtSettings)
    found: dict[Capability, str] = {}
    if known.network == "user":
        why = "with user-mode networking guests have no network in which this host has an address"
        found |= dict.fromkeys((Capability.NETWORK, Capability.ADDRESSES, Capability.FIREWALL), why)
    elif known.elsewhere:
        why = f"libvirtd is on another host ({known.uri}), whose guests have no address of this one"
        found |= dict.fromkeys((Capability.NETWORK, Capability.ADDRESSES, Capability.FIREWALL), why)
    elif not _BRIDGED.exists() or _BRIDGED.read_text().strip() != "1":
        why = (
            "bridged packets are not filtered here: modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1"
        )
        found[Capability.FIREWALL] = why
    if known.elsewhere:
        why = f"libvirtd is on another host ({known.uri}), and the files of volumes are on this one"
        found |= dict.fromkeys((Capability.VOLUMES, Capability.SNAPSHOTS), why)
    return found


class _Answers(msgspec.Struct):
    """What a libvirtd says of itself and its host."""

    error: str = ""
    version: str = ""
    host: str = ""
    kvm: bool = False
    kvm_error: str = ""
    network: xml.NetworkView | None = None
    """What it knows of the guests' network; None where that is not defined, or libvirt gives no addresses in it."""
    defined: bool = False
    """Whether there is that network."""


def checks(settings: Mapping[str, Any]) -> list[Check]:
    """Return what can and can not be done with libvirt by the infrastructure's settings: here, and where libvirtd is."""
    try:
        known = msgspec.convert(settings, LibvirtSettings)
    except msgspec.ValidationError as error:
        hint = "see docs/infrastructures.md"
        return [*_programs(IMAGES), Check(check="libvirt: settings", state="missing", detail=str(error), hint=hint)]
    wanted = dict(IMAGES if known.elsewhere else MACHINES | IMAGES)
    if "+ssh:" in known.uri:
        wanted["ssh"] = "openssh-client"
    found = _programs(wanted)
    loader = Path("/usr/lib/grub/i386-pc/boot.img").exists()  # only of disks that boot by themselves
    hint = "" if loader else "apt-get install grub-pc-bin"
    found.append(Check(check="libvirt: GRUB for cloud disks", state="ok" if loader else "warning", hint=hint))
    if importlib.util.find_spec("libvirt") is None:
        hint = "apt-get install python3-libvirt; in a checkout make setup-libvirt, else pip install libvirt-python"
        return [*found, Check(check="libvirt: Python binding", state="missing", hint=hint)]
    found.append(Check(check="libvirt: Python binding", state="ok"))
    found += [Check(check=f"libvirt: {what}", state="warning", detail=why) for what, why in lacking(settings).items()]
    answers = _ask(known)
    found.append(_daemon(known, answers))
    if not answers.error:
        found.append(_acceleration(known, answers))
        if known.elsewhere:
            found.append(_network_there(known, answers))
    return found


def _programs(wanted: Mapping[str, str]) -> list[Check]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = []
    for program, package in wanted.items():
        where = shutil.which(program, path=path)
        hint = "" if where else f"apt-get install {package}"
        found.append(
            Check(check=f"libvirt: {program}", state="ok" if where else "missing", detail=where or "", hint=hint)
        )
    return found


def _ask(settings: LibvirtSettings) -> _Answers:
    """Ask libvirtd where the settings say it is."""
    import libvirt

    from pcloud.infrastructure.libvirt_accelerator import kvm_fails, offered
    from pcloud.infrastructure.libvirt_connection import open_unattended

    told: list[_Answers] = []

    def ask() -> None:
        try:
            connection = open_unattended(settings.uri)
            number = connection.getLibVersion()
            answers = _Answers(
                version=f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}", host=connection.getHostname()
            )
            answers.kvm = offered(connection)
            if answers.kvm:
                try:
                    answers.kvm_error = kvm_fails(connection)
                except libvirt.libvirtError as error:
                    answers.kvm_error = str(error)
            with contextlib.suppress(libvirt.libvirtError):
                document = connection.networkLookupByName(settings.network).XMLDesc(0)
                answers.network, answers.defined = xml.parse_network(document), True
            connection.close()
            told.append(answers)
        except libvirt.libvirtError as error:
            told.append(_Answers(error=str(error)))

    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print every error
    thread = threading.Thread(target=ask, daemon=True, name="libvirt-doctor")
    thread.start()
    thread.join(_PATIENCE)
    return told[0] if told else _Answers(error=f"no answer within {_PATIENCE:g} s")


def _daemon(settings: LibvirtSettings, answers: _Answers) -> Check:
    """Whether libvirtd answers."""
    if not answers.error:
        detail = f"libvirt {answers.version} on {answers.host} answers at {settings.uri}"
        return Check(check="libvirt: daemon", state="ok", detail=detail)
    where = f" on {settings.elsewhere}" if settings.elsewhere else ""
    return Check(
        check="libvirt: daemon", state="missing", detail=f"{settings.uri}: {answers.error}",
        hint=f"systemctl start libvirtd{where}, or set infrastructures.libvirt.uri",
    )  # fmt: skip


def _acceleration(settings: LibvirtSettings, answers: _Answers) -> Check:
    """Whether machines start with KVM; libvirt may offer it where no start works."""
    on = f" on {answers.host}" if settings.elsewhere else ""
    if answers.kvm and not answers.kvm_error:
        return Check(check="libvirt: KVM", state="ok", detail=f"a machine starts with it{on}")
    why = f"does not work{on}: {answers.kvm_error}" if answers.kvm else f"not offered{on}"
    return Check(
        check="libvirt: KVM", state="warning", detail=f"{why}; machines are emulated (TCG), a boot takes 10 to 20 s",
        hint=f"enable (nested) virtualisation in the firmware or host of {answers.host}, or modprobe kvm there",
    )  # fmt: skip


def _network_there(settings: LibvirtSettings, answers: _Answers) -> Check:
    """Whether guests in the other host's network can be reached from here, as far as can be told without one."""
    name, view = settings.network, answers.network
    mode = view.forward if view is not None else settings.forwarding
    if answers.defined and view is None:
        return Check(
            check="libvirt: network", state="ok", detail=f"{name} of {answers.host} has its addresses from elsewhere"
        )
    if mode not in ("route", "open"):
        return Check(
            check="libvirt: network", state="warning",
            detail=f"{name} of {answers.host} goes outwards by {mode or 'nothing'}: its guests can not be reached from here",
            hint="set infrastructures.libvirt.network to one with mode `route` or a bridge, or forward = \"route\"",
        )  # fmt: skip
    subnet = str(view.subnet) if view is not None else settings.subnet
    if not subnet:
        return Check(
            check="libvirt: network", state="warning", detail=f"{name} gets a subnet that nobody has a route to",
            hint="set infrastructures.libvirt.subnet, and route it by that host",
        )  # fmt: skip
    return Check(
        check="libvirt: network", state="ok", detail=f"{name} of {answers.host} is routed",
        hint=f"where there is no route to its guests: ip route add {subnet} via {settings.elsewhere}",
    )  # fmt: skip
