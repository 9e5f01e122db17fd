"""What every sink is: settings, and one method that delivers one event."""

from __future__ import annotations

from typing import Protocol

from pcloud.events.event import Event


class DeliveryError(Exception):
    """The event was not delivered; it is tried again. The message never holds a secret."""


class Sink(Protocol):
    """Delivers events to one receiver."""

    async def deliver(self, event: Event) -> None:
        """Deliver one event; DeliveryError when that failed and should be tried again."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...
