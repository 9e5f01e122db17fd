"""Settings of the LXC driver, and a guest's container configuration made from them."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import GuestSpec, InfrastructureError
from pcloud.infrastructure import lxc_limits


class LxcSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the LXC driver, under `infrastructures.lxc` of the daemon's configuration."""

    state: str = ""
    """Folder that holds everything of ours; given by the daemon (`$PCLOUD_HOME/lxc`)."""
    bridge: str = ""
    """Name of our own bridge; empty takes the first of pcloud0, pcloud1 … that no other state folder uses."""
    subnet: str = ""
    """IPv4 network of the bridge, such as 10.88.0.0/16; empty takes the first free one from 10.88.0.0/16 on."""
    parallel: int = 4
    """Guests that are started or ended at the same time."""
    rescan: float = 1.0
    """Seconds between looks for guests that another process started, while somebody watches."""
    end_timeout: float = 30.0
    """Seconds a killed guest may take until it is seen to be gone."""
    memory: int = 0
    """MiB for guests that ask for none; 0 sets no limit."""
    cpus: float = 0.0

    def __post_init__(self) -> None:
        if self.subnet:
            network = ipaddress.ip_network(self.subnet)
            if network.version != 4 or network.prefixlen > 28:
                raise ValueError(f"{self.subnet} is not an IPv4 network of at least 16 addresses")
        if len(self.bridge) > 15 or not all(c.isalnum() or c in "-_." for c in self.bridge):
            raise ValueError(f"{self.bridge!r} is not a name for a network interface (15 characters at most)")
        if self.parallel < 1:
            raise ValueError("parallel must be at least 1")


def veth_name(bridge: str, guest_id: str) -> str:
    """Return the host's side of a guest's network cable; stable, so that a left-over one is found."""
    return "pc" + hashlib.sha256(f"{bridge}/{guest_id}".encode()).hexdigest()[:12]


def mac_address(guest_id: str) -> str:
    """Return the guest's locally administered MAC address; stable."""
    digest = hashlib.sha256(guest_id.encode()).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def render(
    spec: GuestSpec,
    folder: Path,
    settings: LxcSettings,
    *,
    bridge: str,
    address: ipaddress.IPv4Interface,
    gateway: ipaddress.IPv4Address,
    bridges: Sequence[str] = (),
) -> str:
    """Return the container's configuration file.

    What is in it and why was measured: no STP on the bridge, a static address set by LXC before init runs, overlay mounted
    by LXC inside the guest's mount namespace (nothing is left when it dies). `bridges` are those of the guest's interfaces
    in networks of stacks.
    """
    lines = [
        f"lxc.uts.name = {spec.identity.hostname}",
        f"lxc.rootfs.path = overlay:{':'.join(reversed(_layers(spec)))}:{folder / 'upper'}",
        "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed",
        "lxc.autodev = 1",
        f"lxc.apparmor.profile = {'generated' if _apparmor() else 'unconfined'}",
        "lxc.tty.max = 0",
        "lxc.pty.max = 1024",
        "lxc.signal.halt = SIGRTMIN+3",
        "lxc.cap.drop = mac_admin mac_override sys_time sys_module sys_rawio",
        f"lxc.console.logfile = {folder / 'console.log'}",
        "lxc.console.size = 131072",
        "lxc.console.rotate = 1",
        "lxc.net.0.type = veth",
        f"lxc.net.0.link = {bridge}",
        f"lxc.net.0.veth.pair = {veth_name(bridge, spec.guest_id)}",
        "lxc.net.0.name = eth0",
        "lxc.net.0.flags = up",
        f"lxc.net.0.hwaddr = {mac_address(spec.guest_id)}",
        f"lxc.net.0.ipv4.address = {address.with_prefixlen}",
        *(f"lxc.net.0.ipv4.address = {further}" for further in spec.addresses),
        *([] if spec.interfaces else [f"lxc.net.0.ipv4.gateway = {gateway}"]),
        *_further(spec, bridges),
        # systemd from version 256 on refuses hybrid hierarchies unless told; older ones ignore the word.
        "lxc.init.cmd = /sbin/init SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
        *_devices(),
        *lxc_limits.lines(spec.memory or settings.memory, spec.cpus or settings.cpus),
    ]
    return "\n".join(lines) + "\n"


def _further(spec: GuestSpec, bridges: Sequence[str]) -> list[str]:
    lines = []
    for number, (interface, bridge) in enumerate(zip(spec.interfaces, bridges, strict=True), 1):
        key = f"lxc.net.{number}"
        lines += [
            f"{key}.type = veth",
            f"{key}.link = {bridge}",
            f"{key}.veth.pair = {veth_name(bridge, spec.guest_id)}",
            f"{key}.name = eth{number}",
            f"{key}.flags = up",
            f"{key}.hwaddr = {mac_address(f'{spec.guest_id}/{number}')}",
            f"{key}.ipv4.address = {interface.address}",
        ]
    return lines


def _layers(spec: GuestSpec) -> Sequence[str]:
    layers = spec.image.layers
    if not layers:
        raise InfrastructureError(f"image {spec.image.name} has no root file system folders", permanent=True)
    for layer in layers:
        if not Path(layer).is_dir():
            raise InfrastructureError(f"image {spec.image.name}: layer {layer} is missing", permanent=True)
        if any(c in layer for c in ":,\\\n"):
            raise InfrastructureError(f"image folder {layer} has a character that overlay can not take", permanent=True)
    return layers


def _apparmor() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except FileNotFoundError:
        return False


def _devices() -> list[str]:
    """Device nodes a guest may use: none of the host's disks."""
    allowed = ("c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm")
    more = ("c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:229 rwm")
    return [f"{key}.deny = a", *device_rules(allowed + more)] if (key := _device_key()) else []


def device_rules(allowed: Sequence[str]) -> list[str]:
    """Return the configuration's lines that let a guest use devices; none where the host controls no devices."""
    return [f"{key}.allow = {rule}" for rule in allowed] if (key := _device_key()) else []


def _device_key() -> str:
    if lxc_limits.is_unified():
        return "lxc.cgroup2.devices"
    return "lxc.cgroup.devices" if Path("/sys/fs/cgroup/devices").is_dir() else ""
