"""Where the engine writes what must survive it."""

from __future__ import annotations

from typing import Any, Protocol

from pcloud.events.event import Event


class Journal(Protocol):
    """Durable records of one engine process. Writing never blocks and never fails for the caller: records are kept in
    order, spooled while the daemon is away, and given to the store at least once."""

    def event(self, event: Event, state: bytes | None = None) -> None:
        """Record an event and send it to whoever listens; the engine state that it led to, when given, is recorded with it:
        both or neither."""
        ...

    def decision(self, deployable: str, record: dict[str, Any]) -> None:
        """Record one decision: what was seen, the rules, the actions. `explain` and `replay` read it."""
        ...

    def state(self, deployable: str, state: bytes) -> None:
        """Record the deployable's persistent engine state (escalation counters and so on); the newest one counts."""
        ...
