"""Desired state in memory: one small row a deployable, and what the engines last said of it. Definitions stay in the store.

Pure bookkeeping, no I/O; called in the loop only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from pcloud.model.deployable import ResourceState
from pcloud.model.errors import Conflict, NotFound, Problem
from pcloud.model.names import closest
from pcloud.model.status import AssemblyStatus, DeployableStatus
from pcloud.store.rows import DeployableRow

_GUESSED = 1000
"""Names among which what was meant is looked for: a comparison with each takes some 20 microseconds."""
_CHANGE = {"building": "a change is under way: ", "failed": "the last change was not made: "}


class Overlay(msgspec.Struct, frozen=True, gc=False):
    """What the daemon itself knows about a deployable's state: an image being built, a build that failed."""

    state: ResourceState
    reason: str
    since: float
    revision: int = 0
    change: str = ""
    """`building` or `failed`, where it is about the images of what was applied last."""


class Summary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the list of deployables."""

    name: str
    state: ResourceState
    reason: str
    infrastructure: str
    target: str
    paused: bool
    change: str
    assemblies: int
    running: int
    since: float


class Desired:
    """All deployables."""

    def __init__(self) -> None:
        self.rows: dict[str, DeployableRow] = {}
        self.statuses: dict[str, DeployableStatus] = {}
        self.overlays: dict[str, Overlay] = {}

    def renew(self, row: DeployableRow) -> None:
        """Take over a changed row; where it is carried out is taken from the present one, which may be newer."""
        present = self.rows.get(row.name)
        if present is not None:
            self.rows[row.name] = msgspec.structs.replace(
                row, loaded=present.loaded, slot=present.slot, holder=present.holder, host=present.host
            )

    def row(self, name: str) -> DeployableRow:
        """Return a row; NotFound."""
        row = self.rows.get(name)
        if row is None:
            guess = closest(name, self.rows) if len(self.rows) <= _GUESSED else ""
            raise NotFound(
                Problem(
                    code="NO_SUCH_DEPLOYABLE",
                    message=f"there is no deployable `{name[:80]}`",
                    hint=guess or "pcloud get lists them",
                )
            )
        return row

    def active(self, name: str) -> DeployableRow:
        """Return a row that may be changed; NotFound, or Conflict while it is being deleted."""
        row = self.row(name)
        if row.phase == "deleting":
            raise Conflict(Problem(code="BEING_DELETED", message=f"deployable {name} is being deleted"))
        return row

    def of_slot(self, slot: str) -> list[str]:
        """Return the deployables of a slot, most important first."""
        rows = [row for row in self.rows.values() if row.slot == slot]
        return [row.name for row in sorted(rows, key=lambda row: (-row.priority, row.name))]

    def place(self, row_name: str, isolation: str, slots: Iterable[str]) -> str:
        """Choose a slot: one of its own for `isolation: process`, else the emptiest of the shared ones."""
        if isolation == "process":
            return own_slot(row_name)
        counts = dict.fromkeys(slots, 0)
        for row in self.rows.values():
            if row.slot in counts:
                counts[row.slot] += 1
        return min(counts, key=lambda slot: (counts[slot], slot))

    def forget_slot(self, slot: str) -> None:
        """Its engine process ended: nothing that it said holds any longer."""
        for name in self.of_slot(slot):
            self.statuses.pop(name, None)

    def remove(self, name: str) -> None:
        """Drop a deployable."""
        self.rows.pop(name, None)
        self.statuses.pop(name, None)
        self.overlays.pop(name, None)

    def overlay(self, name: str, state: ResourceState, reason: str, *, change: str = "") -> None:
        """Say something of our own about a deployable until `clear`."""
        row = self.rows.get(name)
        if row is not None:
            self.overlays[name] = Overlay(state, reason, time.time(), row.revision, change)

    def clear(self, name: str) -> None:
        """Take back what `overlay` said."""
        self.overlays.pop(name, None)

    def head(self, row: DeployableRow) -> tuple[ResourceState, str, float]:
        """Return state, reason and since of a deployable, putting together what the engine and we know."""
        status = self.statuses.get(row.name)
        if status is not None:
            state, reason, since = status.state, status.reason, status.since
        elif row.target == "stopped" and not row.loaded:
            state, reason, since = ResourceState.STOPPED, "", row.updated
        elif not row.loaded:
            state, reason, since = ResourceState.STARTING, "waiting for its engine process", row.updated
        else:
            state, reason, since = ResourceState.UNKNOWN, "waiting for its engine process", row.updated
        overlay = self.overlays.get(row.name)
        if overlay is not None:
            if overlay.change and self.change(row):
                reason = "; ".join(part for part in (reason, _CHANGE[overlay.change] + overlay.reason) if part)
            else:
                reason = overlay.reason
                # Of a deployable that had no guest so far, "running" says nothing.
                if status is None or status.state is not ResourceState.RUNNING or not status.assemblies:
                    state, since = overlay.state, overlay.since
        if row.phase == "deleting":
            reason = overlay.reason if overlay is not None else "being deleted"
        return state, reason, since

    def change(self, row: DeployableRow) -> str:
        """Return what became of the last change while what ran before goes on; empty when there is nothing to tell."""
        status, overlay = self.statuses.get(row.name), self.overlays.get(row.name)
        if status is None or not status.assemblies or status.state is ResourceState.STOPPED:
            return ""
        if overlay is not None:
            return overlay.change
        return "pending" if 0 < status.revision < row.revision else ""

    def summary(self, row: DeployableRow) -> Summary:
        """Return one line of the list."""
        state, reason, since = self.head(row)
        status = self.statuses.get(row.name)
        running = sum(one.state is ResourceState.RUNNING for one in status.assemblies) if status else 0
        return Summary(
            name=row.name,
            state=state,
            reason=reason,
            infrastructure=row.infrastructure,
            target=row.target,
            paused=row.paused,
            change=self.change(row),
            assemblies=row.assemblies,
            running=running,
            since=since,
        )

    def status(self, row: DeployableRow, assemblies: tuple[AssemblyStatus, ...] = ()) -> DeployableStatus:
        """Return the whole status; `assemblies` stand in while no engine has said anything."""
        state, reason, since = self.head(row)
        status = self.statuses.get(row.name)
        return DeployableStatus(
            name=row.name,
            state=state,
            reason=reason,
            infrastructure=row.infrastructure,
            target=row.target,
            paused=row.paused,
            change=self.change(row),
            revision=status.revision if status is not None else 0,
            since=since,
            assemblies=status.assemblies if status is not None else assemblies,
        )


def own_slot(name: str) -> str:
    """Return the slot of a deployable with an engine process of its own."""
    return f"own.{name}"
