"""What the engine asks of Pacemaker's scheduler."""

from __future__ import annotations

from typing import Protocol


class SchedulerError(Exception):
    """The scheduler gave no answer for this input."""


class SchedulerCrash(SchedulerError):
    """The scheduler died on this input, twice: the input is set aside and must not be sent again, unless it is pardoned."""


class Scheduler(Protocol):
    """Turns a CIB into a transition graph."""

    async def schedule(self, cib: bytes) -> bytes:
        """Return the transition graph (XML) for a CIB (XML, UTF-8), whose `execution-date` attribute is the time to
        decide for. SchedulerError when the input is refused; SchedulerCrash when it kills the scheduler."""
        ...

    def pardon(self, cib: bytes) -> None:
        """Let an input be tried again that was set aside: an operator asked for it."""
        ...

    async def close(self) -> None:
        """End the worker."""
        ...
