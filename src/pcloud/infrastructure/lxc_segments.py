"""Networks that stacks make for LXC guests: a bridge each, and routers between them.

`networks/NAME.json`, `subnets/NAME.json` and `routers/NAME.json` in the state folder say what there shall be; a bridge and a
router's network namespace are made to match, under names that follow from the state folder's and their own. This host has no
address in such a network. A router is a namespace with one interface in each of its networks and, where it leads outside,
one in the guests' own network: there it has the floating addresses, and translates.

Concurrency: functions block and run in threads, of the daemon and of engine processes; a lock lets one change networks at a
time. Each may be called again after a crash and finishes what the first call began. Records are written before what they
stand for is made, and removed after that is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.host import alone, run_tool, write_atomically
from pcloud.infrastructure.lxc_network import Leases, Network
from pcloud.infrastructure.lxc_router_rules import OUTSIDE, Router, rules

T = TypeVar("T", bound=msgspec.Struct)


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A network: guests in it see each other and nobody else."""

    name: str


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """A range of addresses of a network."""

    name: str
    network: str
    cidr: str
    gateway: str = ""
    """Address of the router, empty where there is to be none."""
    pools: tuple[tuple[str, str], ...] = ()
    """First and last of the addresses that are given out; empty gives out all."""

    @property
    def range(self) -> ipaddress.IPv4Network:
        """Its addresses."""
        return ipaddress.IPv4Network(self.cidr)


class Segments:
    """The networks of one state folder."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._lock = state / "segments.lock"
        self._mark = hashlib.sha256(str(state.resolve()).encode()).hexdigest()

    # --- networks and their addresses

    def bridge(self, network: str) -> str:
        """Return the name of a network's bridge."""
        return self._named("pcn", network)

    def space(self, router: str) -> str:
        """Return the name of a router's network namespace."""
        return self._named("pcr", router)

    def make_network(self, network: str) -> None:
        """Make a network, and its bridge."""
        with alone(self._lock):
            self._write("networks", Segment(name=network))
            self._bridge(network)

    def remove_network(self, network: str) -> None:
        """Remove a network; no error when there is none."""
        with alone(self._lock):
            _gone(self.bridge(network))
            self._forget("networks", network)

    def make_subnet(self, subnet: Subnet) -> None:
        """Note the addresses of a network. InfrastructureError when another part of it has some of them."""
        with alone(self._lock):
            for other in self._all("subnets", Subnet):
                if other.network == subnet.network and other.name != subnet.name and other.range.overlaps(subnet.range):
                    raise InfrastructureError(
                        f"{subnet.cidr} overlaps {other.cidr} of the same network", permanent=True
                    )
            self._write("subnets", subnet)

    def remove_subnet(self, subnet: str) -> None:
        """Forget it; no error when there is none. A router that still has it loses it."""
        with alone(self._lock):
            for router in self._all("routers", Router):
                if subnet not in router.subnets:
                    continue
                left = tuple(name for name in router.subnets if name != subnet)
                self._write("routers", msgspec.structs.replace(router, subnets=left))
                space, leg = self.space(router.name), self._named("in", subnet)
                if space in _spaces() and leg in _links(space):
                    _inside(space, "ip", "link", "del", leg)
            self._forget("subnets", subnet)

    def take(self, subnet: str, holder: str, wanted: str = "") -> str:
        """Return the holder's address as ADDRESS/PREFIX: a free one where it has none, or the one that is asked for.
        InfrastructureError when there is none or it is somebody else's."""
        with alone(self._lock):
            found = self._read("subnets", subnet, Subnet)
            leases = self._leases(subnet)
            span, gateway = found.range, ipaddress.IPv4Address(found.gateway) if found.gateway else None
            if wanted:
                address = _address(wanted)
                if address not in span or address in (span[0], span[-1]) or address == gateway:
                    raise InfrastructureError(f"{wanted} is no address for a guest in {found.cidr}", permanent=True)
                index = leases.claim(holder, int(address) - int(span[0]))
            elif (kept := leases.all().get(holder)) is not None:
                index = kept
            else:
                index = leases.claim(holder, self._free(found, set(leases.all().values())))
            return f"{span[index]}/{span.prefixlen}"

    def give_back(self, subnet: str, holder: str) -> None:
        """Give the holder's address back."""
        with alone(self._lock):
            leases = self._leases(subnet)
            leases.release(holder)
            for folder in (self._state / "segments" / subnet / "leases", self._state / "segments" / subnet):
                with contextlib.suppress(OSError):  # others have some
                    folder.rmdir()
            with contextlib.suppress(OSError):
                (self._state / "segments").rmdir()

    def _leases(self, subnet: str) -> Leases:
        return Leases(self._state / "segments" / subnet)

    @staticmethod
    def _free(subnet: Subnet, taken: set[int]) -> int:
        span = subnet.range
        base = int(span[0])
        pools = subnet.pools or ((str(span[1]), str(span[-2])),)
        gateway = int(ipaddress.IPv4Address(subnet.gateway)) - base if subnet.gateway else 0
        for first, last in pools:
            for index in range(int(ipaddress.IPv4Address(first)) - base, int(ipaddress.IPv4Address(last)) - base + 1):
                if index not in taken and index != gateway and 0 < index < span.num_addresses - 1:
                    return index
        raise InfrastructureError(f"all addresses of {subnet.cidr} are taken", permanent=True)

    # --- bridges and routers

    def connect(self, networks: Sequence[str], guests: Network) -> list[str]:
        """Return the bridges of a guest that is about to start; what a restart of this host took of them is made anew."""
        with alone(self._lock):
            for network in networks:
                self._read("networks", network, Segment)
                if self._bridge(network):
                    for router in self._all("routers", Router):
                        self._route(router, guests)
            return [self.bridge(network) for network in networks]

    def put_router(self, router: Router, guests: Network | None) -> None:
        """Make a router, or let it become this. `guests` is the guests' own network, where it leads there."""
        with alone(self._lock):
            self._write("routers", router)
            self._route(router, guests)

    def remove_router(self, router: str) -> None:
        """Remove a router; no error when there is none."""
        with alone(self._lock):
            space = self.space(router)
            if space in _spaces():
                for link in _links(space) - {"lo"}:
                    _inside(space, "ip", "link", "del", link)
                run_tool("ip", "netns", "del", space)
            self._forget("routers", router)

    def stands(self, name: str) -> bool:
        """Tell whether this host's kernel has the bridge of a network of this name, or the namespace of such a router."""
        return _exists(self.bridge(name)) or self.space(name) in _spaces()

    def _bridge(self, network: str) -> bool:
        """Make a bridge where it is missing; return whether it was."""
        name = self.bridge(network)
        missing = not _exists(name)
        if missing:
            run_tool("ip", "link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0")
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6").write_text("1")  # this host has no part in it
        run_tool("ip", "link", "set", name, "up")
        return missing

    def _route(self, router: Router, guests: Network | None) -> None:
        space = self.space(router.name)
        if space in _spaces() and not _works(space):
            run_tool("ip", "netns", "del", space)  # a crash came between its file and its mount
        if space not in _spaces():
            run_tool("ip", "netns", "add", space)
        _inside(space, "ip", "link", "set", "lo", "up")
        _inside(space, "tee", "/proc/sys/net/ipv4/ip_forward", given="1")
        wanted: dict[str, tuple[str, list[str]]] = {}
        legs: dict[str, tuple[str, str]] = {}
        for name in router.subnets:
            subnet = self._read("subnets", name, Subnet)
            legs[name] = self._named("in", name), subnet.cidr
            self._bridge(subnet.network)
            wanted[legs[name][0]] = (
                self.bridge(subnet.network),
                [f"{subnet.gateway}/{subnet.range.prefixlen}"],
            )
        if router.outside and guests is not None:
            wanted[OUTSIDE] = (guests.bridge, [router.outside, *(f"{one}/32" for one, _ in router.floating)])
        there = _links(space)
        for link in there - {"lo", *wanted}:
            _inside(space, "ip", "link", "del", link)
        for inner, (bridge, addresses) in wanted.items():
            outer = self._named("pcx", f"{router.name}/{inner}")
            if inner not in there:
                _gone(outer)  # its other end was in a namespace that is just going
                run_tool("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            run_tool("ip", "link", "set", outer, "master", bridge, "up")
            _settle(space, inner, addresses)
        _inside(space, "nft", "-f", "-", given=rules(router, legs))
        if OUTSIDE in wanted and guests is not None:
            _inside(space, "ip", "route", "replace", "default", "via", str(guests.gateway), "dev", OUTSIDE)

    # --- records

    def _named(self, kind: str, name: str) -> str:
        """A name for this host's kernel: fifteen characters at most."""
        return kind + hashlib.sha256(f"{self._mark}/{name}".encode()).hexdigest()[:10]

    def _write(self, kind: str, record: Segment | Subnet | Router) -> None:
        path = self._state / kind / f"{record.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(record))

    def _forget(self, kind: str, name: str) -> None:
        (self._state / kind / f"{name}.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are others, or there was none
            (self._state / kind).rmdir()

    def _read(self, kind: str, name: str, of: type[T]) -> T:
        try:
            return msgspec.json.decode((self._state / kind / f"{name}.json").read_bytes(), type=of)
        except FileNotFoundError:
            raise InfrastructureError(f"there is no {of.__name__.lower()} {name}", permanent=True) from None

    def _all(self, kind: str, of: type[T]) -> list[T]:
        return [self._read(kind, path.stem, of) for path in sorted((self._state / kind).glob("*.json"))]


def _address(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise InfrastructureError(f"'{text}' is no IPv4 address", permanent=True) from None


def _settle(space: str, device: str, addresses: Sequence[str]) -> None:
    _inside(space, "ip", "link", "set", device, "up")
    shown = json.loads(_inside(space, "ip", "-j", "-4", "addr", "show", "dev", device) or "[]")
    now = [f"{one['local']}/{one['prefixlen']}" for link in shown for one in link.get("addr_info", ())]
    for address in now:
        if address not in addresses:
            _inside(space, "ip", "addr", "del", address, "dev", device)
    for address in addresses:
        if address not in now:
            _inside(space, "ip", "addr", "add", address, "dev", device)


def _spaces() -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir("/run/netns"))  # noqa: PTH208 - names only
    return set()


def _works(space: str) -> bool:
    return subprocess.run(["ip", "netns", "exec", space, "true"], capture_output=True, check=False).returncode == 0


def _exists(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


def _gone(link: str) -> None:
    """Remove a link, which the kernel may be removing at the same time."""
    if _exists(link):
        try:
            run_tool("ip", "link", "del", link)
        except InfrastructureError:
            if _exists(link):
                raise


def _links(space: str) -> set[str]:
    return {link["ifname"] for link in json.loads(_inside(space, "ip", "-j", "link"))}


def _inside(space: str, *words: str, given: str = "") -> str:
    return run_tool("ip", "netns", "exec", space, *words, given=given)
