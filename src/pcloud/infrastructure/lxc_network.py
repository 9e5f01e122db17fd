"""The LXC driver's own bridge and the addresses it leases.

A lease is a symbolic link `leases/INDEX` whose target is the guest's id: made and removed atomically by the kernel, readable
without a lock, never half written. The address is the subnet's INDEX-th, so a guest keeps it for life. Concurrency: any
number of processes may share the state folder; making and removing the bridge happens under a file lock, and a guest's
lease is taken *before* the bridge is made, so that the last guest's removal never takes the bridge from a new one. Those of
other state folders choose from the same names and subnets: from its choice until it is up, a bridge is made under a lock on
this host's network itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.host import held, ip, locked, write_atomically
from pcloud.infrastructure.lxc_settings import LxcSettings

FIRST_SUBNET = ipaddress.IPv4Network("10.88.0.0/16")
_NAMESPACE = Path("/proc/self/ns/net")
"""This host's network, or the one that we are in: whoever makes bridges in it can lock it, whatever folder he has."""
_PATIENCE = 60.0


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge in use, as kept in `network.json`."""

    bridge: str
    subnet: str

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The subnet."""
        return ipaddress.IPv4Network(self.subnet)

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The bridge's, that is the host's, address: the first of the subnet."""
        return self.network[1]

    def index(self, address: str) -> int:
        """Return the lease that stands for an address, with or without a prefix; InfrastructureError says why a guest can
        not have it."""
        try:
            wanted = ipaddress.IPv4Address(address.partition("/")[0])
        except ValueError:
            raise InfrastructureError(f"'{address}' is no IPv4 address", permanent=True) from None
        if wanted not in self.network:
            raise InfrastructureError(f"{wanted} is not in the guests' network, {self.subnet}", permanent=True)
        if wanted == self.gateway:
            raise InfrastructureError(f"{wanted} is the address of this host", permanent=True)
        if wanted in (self.network[0], self.network[-1]):
            raise InfrastructureError(f"{wanted} is no address for a guest", permanent=True)
        return int(wanted) - int(self.network[0])

    def address(self, index: int) -> ipaddress.IPv4Interface:
        """Return the address that lease `index` stands for."""
        return ipaddress.IPv4Interface((self.network[index], self.network.prefixlen))


class Leases:
    """Who has which address."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "leases"
        self._known: dict[str, int] = {}

    def all(self) -> dict[str, int]:
        """Return every lease as it stands on disk, by guest id."""
        return {name: index for index, name in self._held()}

    def _held(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((int(entry.name), os.readlink(entry.path)))  # noqa: PTH115 - per-entry speed
        return found

    def take(self, guest_id: str, size: int) -> int:
        """Return the guest's lease, a new one where it has none. `size` is the number of addresses in the subnet.
        InfrastructureError when all are taken."""
        index = self._known.get(guest_id)
        if index is not None and index < size - 1 and self.holder(index) == guest_id:
            return index
        taken = self.all()
        index = taken.get(guest_id)
        if index is not None and index < size - 1:
            self._known[guest_id] = index
            return index
        self._folder.mkdir(parents=True, exist_ok=True)
        used = set(taken.values())
        usable = size - 3  # not the network, the bridge, the broadcast address
        first = int.from_bytes(hashlib.sha256(guest_id.encode()).digest()[:4]) % usable
        for step in range(usable):
            index = 2 + (first + step) % usable
            if index in used:
                continue
            try:
                (self._folder / str(index)).symlink_to(guest_id)
            except FileExistsError:
                continue
            self._known[guest_id] = index
            return index
        raise InfrastructureError(f"all {usable} addresses of the subnet are leased", permanent=True)

    def claim(self, guest_id: str, index: int) -> int:
        """Take this very lease instead of what the guest has; InfrastructureError when it is somebody else's."""
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / str(index)).symlink_to(guest_id)
        holder = self.holder(index)
        if holder != guest_id:
            raise InfrastructureError(f"the address is taken by {holder}", permanent=bool(holder))
        for other, name in self._held():
            if name == guest_id and other != index:
                (self._folder / str(other)).unlink(missing_ok=True)
        self._known[guest_id] = index
        return index

    def release(self, guest_id: str) -> None:
        """Give the guest's lease back."""
        self._known.pop(guest_id, None)
        for index, name in self._held():
            if name == guest_id:
                (self._folder / str(index)).unlink(missing_ok=True)

    def holder(self, index: int) -> str:
        """Return who has a lease; empty when nobody has."""
        try:
            return os.readlink(self._folder / str(index))  # noqa: PTH115 - the target is no path
        except FileNotFoundError:
            return ""


class Bridge:
    """Our bridge: made when the first guest needs it, removed with the last one."""

    def __init__(self, settings: LxcSettings, leases: Leases) -> None:
        self._settings = settings
        self._state = Path(settings.state)
        self._file = self._state / "network.json"
        self._leases = leases
        self._mark = "pcloud:" + hashlib.sha256(str(self._state.resolve()).encode()).hexdigest()[:16]

    def read(self) -> Network | None:
        """Return the network in use, None when there is none. It stays as it is while there are guests, whatever the
        settings say."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Network)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def planned(self) -> Network:
        """Return the network in use, or the one that would be made now. InfrastructureError when none can be."""
        if (network := self.read()) is not None:
            return network
        if self._settings.subnet:
            return Network(bridge=self._settings.bridge, subnet=self._settings.subnet)
        return self._choose(None)

    def size(self) -> int:
        """Return the number of addresses that the subnet has or will have."""
        network = self.read()
        if network is not None:
            return network.network.num_addresses
        return ipaddress.IPv4Network(self._settings.subnet or FIRST_SUBNET).num_addresses

    async def ensure(self) -> Network:
        """Make the bridge where it is missing and return what it is. InfrastructureError when that fails."""
        network = self.read()
        if network is not None and self._is_ours(network.bridge):
            return network
        async with locked(self._state / "network.lock"):
            network = self.read()
            if network is not None and self._is_ours(network.bridge):
                return network
            async with held(os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC), _PATIENCE):
                network = self._choose(network)
                # Written first: what a crash leaves of the bridge is then known to be ours and taken up again.
                write_atomically(self._file, msgspec.json.encode(network))
                await self._make(network)
            return network

    @staticmethod
    async def introduce(network: Network, address: ipaddress.IPv4Address, mac: str) -> None:
        """Tell this host's kernel who has the address, as if the guest had answered its question just now."""
        with contextlib.suppress(InfrastructureError):  # or the kernel asks by itself, only later
            await ip("neigh", "replace", str(address), "lladdr", mac, "dev", network.bridge, "nud", "reachable")

    async def remove_unused(self) -> None:
        """Remove the bridge when nobody has a lease any more."""
        if self._leases.all():
            return
        async with locked(self._state / "network.lock"):
            network = self.read()
            if network is None or self._leases.all():
                return
            if self._exists(network.bridge) and self._alias(network.bridge) == self._mark:
                await ip("link", "del", network.bridge)
            self._file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: somebody took a lease just now
                (self._state / "leases").rmdir()

    def _choose(self, before: Network | None) -> Network:
        routes = _routes(except_device=before.bridge if before else "")
        name = self._settings.bridge or (before.bridge if before else "")
        if not name or not self._free(name):
            if self._settings.bridge:
                raise InfrastructureError(
                    f"network interface {name} exists and is not ours; give another name as setting `bridge`",
                    permanent=True,
                )
            name = next(n for n in (f"pcloud{i}" for i in range(10_000)) if self._free(n))
        if self._settings.subnet:
            subnet = ipaddress.IPv4Network(self._settings.subnet)
            if any(subnet.overlaps(route) for route in routes):
                raise InfrastructureError(
                    f"{subnet} is routed elsewhere; give another setting `subnet`", permanent=True
                )
            return Network(bridge=name, subnet=str(subnet))
        candidates = [before.network] if before else []
        candidates += [ipaddress.IPv4Network(f"10.{i}.0.0/16") for i in (*range(88, 256), *range(88))]
        for subnet in candidates:
            if not any(subnet.overlaps(route) for route in routes):
                return Network(bridge=name, subnet=str(subnet))
        raise InfrastructureError("no free 10.x.0.0/16 network; give one as setting `subnet`", permanent=True)

    async def _make(self, network: Network) -> None:
        if not self._exists(network.bridge):
            # A fixed MAC address: otherwise the bridge takes that of its lowest port and changes it as guests come and go.
            mac = "02:" + ":".join(f"{b:02x}" for b in hashlib.sha256(self._mark.encode()).digest()[:5])
            await ip(
                "link", "add", network.bridge, "address", mac, "type", "bridge", "stp_state", "0", "forward_delay", "0"
            )
        await ip("link", "set", network.bridge, "alias", self._mark)
        await ip("addr", "replace", f"{network.gateway}/{network.network.prefixlen}", "dev", network.bridge)
        await ip("link", "set", network.bridge, "up")

    def _free(self, name: str) -> bool:
        return not self._exists(name) or self._is_ours(name) or self._is_half_made(name)

    def _is_ours(self, name: str) -> bool:
        return self._alias(name) == self._mark and self._is_up(name)

    def _is_half_made(self, name: str) -> bool:
        """A crash came between making the bridge and marking it, or before it was up: no other state folder's, no port."""
        ports = Path("/sys/class/net", name, "brif")
        return self._alias(name) in ("", self._mark) and ports.is_dir() and not any(ports.iterdir())

    @staticmethod
    def _is_up(name: str) -> bool:
        try:
            return bool(int(Path("/sys/class/net", name, "flags").read_text(), 16) & 1)
        except FileNotFoundError:
            return False

    @staticmethod
    def _exists(name: str) -> bool:
        return Path("/sys/class/net", name).exists()

    @staticmethod
    def _alias(name: str) -> str:
        try:
            return Path("/sys/class/net", name, "ifalias").read_text().strip()
        except FileNotFoundError:
            return ""


def _routes(*, except_device: str) -> list[ipaddress.IPv4Network]:
    """The IPv4 networks that this host routes already, but for the default route."""
    found = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination, _, _, _, _, _, mask = line.split()[:8]
        prefix = int(mask, 16).bit_count()
        if prefix and device != except_device:
            address = int.from_bytes(bytes.fromhex(destination), "little")
            found.append(ipaddress.IPv4Network((address, prefix)))
    return found
