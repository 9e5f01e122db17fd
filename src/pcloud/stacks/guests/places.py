"""The infrastructures that guests of stacks are on: what each can do for them, as data and as parts of its driver.

New stacks' guests are made on one of them, by the settings; those of older stacks stay where they were made, and are served
there. A driver is opened when it is first needed and starts nothing by itself. Concurrency: lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcloud.environment.infrastructure import Capability, GuestNetwork, HasNetwork, HasVolumes, Infrastructure, Volumes
from pcloud.infrastructure.checks import able
from pcloud.infrastructure.registry import DRIVERS, open_infrastructure
from pcloud.model.errors import Unavailable
from pcloud.stacks.guests.endpoint import GuestEndpoint, Server

GUESTS = "guests"
"""What a platform has on whose infrastructure servers of stacks can be made: their user data reaches them, and they us."""
_NEEDED = (Capability.SEED, Capability.NETWORK)


class Place:
    """One infrastructure."""

    def __init__(self, name: str, driver: Infrastructure | None, can: frozenset[Capability], lacking: dict[str, str]):
        self.name = name
        self.driver = driver
        self.capabilities: frozenset[str] = can | {GUESTS} if can.issuperset(_NEEDED) else frozenset()
        """Nothing where servers of stacks can not be made at all."""
        self.lacking = lacking
        """Why not what it could have."""
        self.endpoint: GuestEndpoint | None = None
        parts: object = driver
        self._network = parts.network if isinstance(parts, HasNetwork) else None
        self.volumes: Volumes | None = None
        """Its guests' volumes, None where there are none."""
        if Capability.VOLUMES in self.capabilities and isinstance(parts, HasVolumes):
            self.volumes = parts.volumes

    @property
    def network(self) -> GuestNetwork:
        """Its guests' network; Unavailable where there is none."""
        if GUESTS in self.capabilities and self._network is not None:
            return self._network
        raise Unavailable.of("NO_GUESTS", f"{self.name} has no guests of stacks: {self.why([GUESTS])}")

    def why(self, lacking: Sequence[str]) -> str:
        """Return why it has not what is lacking, in a sentence."""
        wanted = [*lacking, *_NEEDED] if GUESTS in lacking else lacking
        reasons = dict.fromkeys(self.lacking[each] for each in wanted if each in self.lacking)
        return "; ".join(reasons) or f"guests of {self.name or 'no infrastructure'} can not have that"


class Places:
    """All of them, opened when they are asked for."""

    def __init__(
        self,
        home: Path,
        settings: Mapping[str, dict[str, Any]],
        ports: Sequence[int],
        serve: Callable[[str, int], Server],
    ) -> None:
        """`settings` are those of each infrastructure, `serve` makes a server at an address; `ports` are those of the
        endpoint, the first being that of the URL that guests are given."""
        self._home = home
        self._settings = settings
        self._ports = ports
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
        can, lacking = able(name, settings)
        why: dict[str, str] = {str(what): reason for what, reason in lacking.items()}
        if name in DRIVERS and not can.issuperset(_NEEDED):
            return Place(name, None, can, why)
        try:
            driver = open_infrastructure(name, settings, state=self._home / "infrastructure" / name)
        except Unavailable as problem:
            return Place(name, None, frozenset(), {GUESTS: str(problem)})
        place = Place(name, driver, can, why)
        place.endpoint = GuestEndpoint(place.network, self._ports, self._serve)
        return place

    async def close(self) -> None:
        """Close the drivers; what runs goes on."""
        for place in self._opened.values():
            if place.driver is not None:
                await place.driver.close()
        self._opened.clear()
