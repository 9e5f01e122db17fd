"""Everything an engine touches the world through, in one value: the real one in `host`, the simulated one in tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pcloud.dpe.brake import Brake
    from pcloud.environment.clock import Clock
    from pcloud.environment.infrastructure import Infrastructure
    from pcloud.environment.journal import Journal
    from pcloud.environment.scheduler import Scheduler
    from pcloud.environment.transport import Transport


@dataclass(frozen=True, slots=True)
class Environment:
    """One infrastructure's world as an engine sees it."""

    clock: Clock
    infrastructure: Infrastructure
    transports: dict[str, Transport]
    scheduler: Scheduler
    journal: Journal
    brake: Brake
