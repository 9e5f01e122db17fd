"""What the engine processes are to work with, and what follows when one connects, tells a state, falls silent or ends.

Concurrency: called by the fleet and by whoever changes settings, in the daemon's event loop; nothing here waits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pcloud.cpe.link import EngineLink
from pcloud.cpe.slot import Slot
from pcloud.dpe import messages
from pcloud.dpe.brake import share
from pcloud.events.event import Severity
from pcloud.model.status import DeployableStatus

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class Directing:
    """The daemon's side towards its engine processes, but for the deployables (`reconcile` gives them those)."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner

    # --- what they are told

    def tell_settings(self) -> None:
        """Tell all of them the settings of now, each with its share of the starts, and until when they may work."""
        for slot in self._owner.fleet.slots.values():
            if slot.link is not None:
                slot.link.send(self._settings(slot))

    def start_anew(self) -> None:
        """Have all of them end, and be started again: a driver or transport that is open can not change its settings."""
        for slot in self._owner.fleet.slots.values():
            if slot.link is not None:
                slot.link.send(messages.Shutdown())
        self._owner.emit(
            "daemon.settings",
            "the settings of infrastructures or transports changed: the engine processes start anew; guests go on",
        )

    def _settings(self, slot: Slot) -> messages.Settings:
        settings, until = self._owner.settings, self._owner.grant.until
        slots = sorted({*self._owner.fleet.slots, slot.name})
        return messages.Settings(
            infrastructures=settings.infrastructures,
            transports=settings.transports,
            starts_in_flight=share(settings.engine.starts_in_flight, len(slots), slots.index(slot.name)),
            until=None if math.isinf(until) else until,
        )

    # --- what they do

    def connected(self, slot: Slot, link: EngineLink) -> None:
        """One connected."""
        # All of them: with each engine process more the shares of the others are smaller.
        self.tell_settings()
        self._owner.reconciler.link(slot, link)

    def told(self, slot: Slot, status: DeployableStatus) -> None:
        """One told a deployable's state; it counts only from the process that has it now."""
        row = self._owner.desired.rows.get(status.name)
        if row is not None and row.slot == slot.name:
            self._owner.desired.statuses[status.name] = status

    def ended(self, slot: Slot) -> None:
        """One ended."""
        self._owner.desired.forget_slot(slot.name)
        self._owner.emit(
            "engine.ended",
            f"engine process {slot.name} ended and is started again; guests go on",
            severity=Severity.WARNING,
            slot=slot.name,
        )

    def silent(self, slot: Slot) -> None:
        """One does not answer any more, and is killed."""
        self._owner.emit(
            "engine.silent",
            f"engine process {slot.name} is connected but did not answer for "
            f"{self._owner.settings.engine.silence_timeout:g} s: it is killed and started again; guests go on",
            severity=Severity.WARNING,
            slot=slot.name,
        )
