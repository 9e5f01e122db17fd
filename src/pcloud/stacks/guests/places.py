"""The infrastructures that guests of stacks are on: what each can do for them, as data and as parts of its driver.

New stacks' guests are made on one of them, by the settings; those of older stacks stay where they were made, and are served
there. A driver is opened when it is first needed and starts nothing by itself. Concurrency: lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcloud.cpe.settings import StackSettings, split_address
from pcloud.environment.infrastructure import (
    Addresses,
    Capability,
    Changes,
    GuestNetwork,
    GuestState,
    HasAddresses,
    HasChanges,
    HasNetwork,
    HasVolumes,
    Infrastructure,
    Volumes,
)
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.checks import able
from pcloud.infrastructure.registry import DRIVERS, open_infrastructure
from pcloud.model.errors import Unavailable
from pcloud.stacks.guests.endpoint import HOLDER, GuestEndpoint, Server

CLOUDWATCH_PORT = 8003
"""Written into heat-cfntools' cfn-push-stats, hence the same everywhere."""
GUESTS = "guests"
"""What a platform has on whose infrastructure servers of stacks can be made: their user data reaches them, and they us."""
ACCESS = "access"
"""What a platform has that can do something in its guests: watch services, run commands."""


class Place:
    """One infrastructure."""

    def __init__(
        self,
        name: str,
        driver: Infrastructure | None,
        can: frozenset[str],
        lacking: dict[str, str],
        endpoint: Callable[[GuestNetwork], GuestEndpoint],
        url: str,
    ) -> None:
        """`url` is where guests reach us if their network has no address of ours."""
        self.name = name
        self.driver = driver
        self.capabilities: frozenset[str] = can if GUESTS in can else frozenset()
        """Nothing where servers of stacks can not be made at all."""
        self.lacking = lacking
        """Why not what it could have."""
        parts: object = driver
        self._url = url
        self._network: GuestNetwork | None = None
        if Capability.NETWORK in self.capabilities and isinstance(parts, HasNetwork):
            self._network = parts.network
        self.apart: Addresses | None = parts.addresses if isinstance(parts, HasAddresses) else None
        """What gives its guests' addresses where their network does not."""
        self._endpoint = endpoint(self._network) if self._network is not None else None
        self.changes: Changes | None = parts.changes if GUESTS in can and isinstance(parts, HasChanges) else None
        """Changes guests that run; None where they never are changed."""
        self.volumes: Volumes | None = None
        """Its guests' volumes, None where there are none."""
        if Capability.VOLUMES in self.capabilities and isinstance(parts, HasVolumes):
            self.volumes = parts.volumes

    @property
    def network(self) -> GuestNetwork:
        """Its guests' network; Unavailable where there is none."""
        if self._network is not None:
            return self._network
        raise Unavailable.of("NO_NETWORK", f"{self.name} has no such network: {self.why([GUESTS])}")

    @property
    def addresses(self) -> Addresses | GuestNetwork:
        """What gives further addresses; Unavailable where there are none."""
        return self.network if self.apart is None else self.apart

    async def give_back(self, holder: str) -> None:
        """Give an address back that is not one of its guests' network. Unavailable when nobody can be asked to: it is not
        forgotten. InfrastructureError."""
        if self.apart is None:
            raise Unavailable.of("NO_ADDRESS", f"an address of {self.name} can not be given back: {self.why([GUESTS])}")
        await self.apart.give_back(holder)

    async def open(self) -> str:
        """Be reachable for guests; return the URL, empty where there are no guests. Unavailable."""
        if self.volumes is not None:
            self.volumes.open()
        if self._endpoint is not None:
            return await self._endpoint.open()
        return self._url if GUESTS in self.capabilities else ""

    async def was_open(self) -> bool:
        """Tell whether this host is still in the guests' network from an earlier `open`. InfrastructureError."""
        return self._network is not None and await self._network.holds(HOLDER)

    async def leave(self, *, for_good: bool) -> None:
        """Stop being reachable; unless that is for good, the network stays for the next time."""
        if self._endpoint is not None:
            await self._endpoint.close(leave=not for_good)
        if self.volumes is not None:
            await self.volumes.close()

    async def holds(self, guest_id: str) -> bool:
        """Tell whether anything of a guest is left. InfrastructureError."""
        if self._network is not None:
            return await self._network.holds(guest_id)
        return self.driver is not None and (await self.driver.inspect(guest_id)).state is not GuestState.ABSENT

    def why(self, lacking: Sequence[str]) -> str:
        """Return why it has not what is lacking, in a sentence."""
        wanted = [*lacking, Capability.SEED, Capability.NETWORK] if GUESTS in lacking else lacking
        reasons = dict.fromkeys(self.lacking[each] for each in wanted if each in self.lacking)
        return "; ".join(reasons) or f"guests of {self.name or 'no infrastructure'} can not have that"


class Places:
    """All of them, opened when they are asked for."""

    def __init__(
        self,
        home: Path,
        settings: Mapping[str, dict[str, Any]],
        stacks: StackSettings,
        serve: Callable[[str, int], Server],
    ) -> None:
        """`settings` are those of each infrastructure; `serve` makes a server at an address and port."""
        self._home = home
        self._settings = settings
        self._stacks = stacks
        self._serve = serve
        self._opened: dict[str, Place] = {}

    def of(self, name: str) -> Place:
        """Return an infrastructure. NotFound for an unknown one."""
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def opened(self) -> list[Place]:
        """Return those that were asked for until now."""
        return list(self._opened.values())

    def _open(self, name: str) -> Place:
        settings = self._settings.get(name, {})
        could, lacking = able(name, settings)
        can: set[str] = {*could}
        why: dict[str, str] = {str(what): reason for what, reason in lacking.items()}
        told = Capability.NETWORK not in CAPABILITIES.get(name, ())
        if Capability.SEED in can and (self._stacks.guest_url if told else Capability.NETWORK in can):
            can.add(GUESTS)
        elif told:
            reason = "this host has no address in a network of theirs: stacks.guest_url must say where guests reach us"
            why.setdefault(Capability.NETWORK, reason)
        if self._stacks.transport == "none":
            why[ACCESS] = "stacks.transport is none: nothing in guests is reached"
        else:
            can.add(ACCESS)
        driver = None
        if GUESTS in can or name not in DRIVERS:
            try:
                driver = open_infrastructure(name, settings, state=self._home / "infrastructure" / name)
            except Unavailable as problem:
                can, why = set(), {GUESTS: problem.problems[0].message}
        return Place(name, driver, frozenset(can), why, self._endpoint, self._stacks.guest_url.rstrip("/"))

    def _endpoint(self, network: GuestNetwork) -> GuestEndpoint:
        ports = [split_address(self._stacks.cloudformation)[1], CLOUDWATCH_PORT]
        return GuestEndpoint(network, ports, self._serve)

    async def close(self) -> None:
        """Close the drivers; what runs goes on."""
        for place in self._opened.values():
            if place.driver is not None:
                await place.driver.close()
        self._opened.clear()
