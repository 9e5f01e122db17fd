"""What may be drilled: the faults, their targets, and when a drill would be dangerous. Pure."""

from __future__ import annotations

import msgspec

from pcloud.cpe.parts import find_assembly
from pcloud.events.event import Event
from pcloud.model.deployable import Deployable, Escalation, ResourceState
from pcloud.model.errors import InvalidDocument, NotFound, Problem
from pcloud.model.status import DeployableStatus

FAULTS = {
    "service-killed": "every process of a service is killed",
    "guest-killed": "the guest is killed, as when its host lost it",
    "link-cut": "the connection to the guest's agent is torn",
    "engine-killed": "the engine process is killed; guests and services must not notice",
}
"""Fault → what is done."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One fault and what it is done to."""

    deployable: str
    fault: str
    assembly: str = ""
    resource: str = ""

    @property
    def subject(self) -> str:
        """`web/httpd`, `web`, or empty for the engine process."""
        return "/".join(part for part in (self.assembly, self.resource) if part)

    @property
    def words(self) -> str:
        """The fault in words."""
        return f"{FAULTS[self.fault]}: {self.subject or 'the one that holds ' + self.deployable}"

    def mended(self, event: Event) -> bool:
        """Tell whether an event says that what was done is undone; of the engine process nothing does but its work."""
        return self._about(event) and event.state == "running"

    def _about(self, event: Event) -> bool:
        return (event.deployable, event.assembly, event.resource) == (self.deployable, self.assembly, self.resource)

    def tells(self, event: Event, slot: str) -> bool:
        """Tell whether an event says that the fault was noticed; `slot` is the engine process of the deployable."""
        if self.fault == "engine-killed":
            return event.type == "engine.ended" and event.data.get("slot") == slot
        return self._about(event) and event.state in ("failed", "suspect")


class Reasons(msgspec.Struct, frozen=True, kw_only=True):
    """Why a drill is refused."""

    deployable: str
    impossible: tuple[str, ...] = ()
    """There is nothing to drill."""
    risky: tuple[str, ...] = ()
    """It could do harm; whoever accepts that forces it."""

    def problems(self, force: bool) -> list[Problem]:
        """Return them for people."""
        found = [
            Problem(code="DRILL_IMPOSSIBLE", message=f"{self.deployable} can not be drilled now: {why}")
            for why in self.impossible
        ]
        if not force:
            hint = "mend that first; or accept it with --force"
            found += [
                Problem(code="DRILL_UNSAFE", message=f"a drill of {self.deployable} is not safe now: {why}", hint=hint)
                for why in self.risky
            ]
        return found


def choose(deployable: Deployable, fault: str, assembly: str, resource: str) -> Target:
    """Return what a fault is done to: what was named, else the first there is. InvalidDocument, NotFound as they say."""
    if fault not in FAULTS:
        raise InvalidDocument(
            Problem(
                code="UNKNOWN_FAULT",
                message=f"`{fault[:80]}` is no fault",
                path="fault",
                hint=f"known: {', '.join(FAULTS)}",
            )
        )
    if fault == "engine-killed":
        return Target(deployable=deployable.name, fault=fault)
    named = [find_assembly(deployable, assembly)] if assembly else list(deployable.assemblies)
    if fault != "service-killed":
        return Target(deployable=deployable.name, fault=fault, assembly=named[0].name)
    for one in named:
        for each in one.resources:
            if not resource or each.name == resource:
                return Target(deployable=deployable.name, fault=fault, assembly=one.name, resource=each.name)
    raise NotFound(
        Problem(
            code="NO_SUCH_RESOURCE",
            message=f"there is no resource `{resource[:80]}` to kill in {assembly or deployable.name}",
        )
    )


def unsafe(deployable: Deployable, status: DeployableStatus, paused: bool, target: Target) -> Reasons:
    """Return why a drill must not, or had better not, be done now."""
    impossible: list[str] = []
    risky: list[str] = []
    if paused or status.state is ResourceState.PAUSED:
        impossible.append("recovery is paused, nothing would be mended (`pcloud resume`)")
    if status.target != "started":
        impossible.append("it shall be stopped")
    if status.change == "building":
        risky.append("a change of it is under way")
    if status.change == "failed":
        risky.append("its last change was not made")
    if status.state is not ResourceState.RUNNING and not impossible:
        risky.append(f"it is {status.state}" + (f": {status.reason}" if status.reason else ""))
    for one in status.assemblies:
        for path, state in ((one.name, one.state), *((f"{one.name}/{r.name}", r.state) for r in one.resources)):
            if state is ResourceState.RUNNING:
                continue
            if path in (target.assembly, target.subject):
                impossible.append(f"{path} is {state}, not running")
            elif status.state is ResourceState.RUNNING:
                risky.append(f"{path} is {state}")
    if target.fault != "link-cut":
        risky += _escalations(deployable, status, target)
    return Reasons(deployable=deployable.name, impossible=tuple(impossible), risky=tuple(risky))


def _escalations(deployable: Deployable, status: DeployableStatus, target: Target) -> list[str]:
    """A drill counts as the failure that it is: where it would be one too many it does more than was asked for."""
    for one in deployable.assemblies:
        counted = next((each for each in status.assemblies if each.name == one.name), None)
        if one.name != target.assembly or counted is None:
            continue
        if not target.resource:
            return _one_too_many(f"the guest {one.name}", counted.failures, one.escalation, "all of the deployable")
        for each in one.resources:
            if each.name == target.resource:
                failures = next((r.failures for r in counted.resources if r.name == each.name), 0)
                return _one_too_many(target.subject, failures, each.escalation, f"the guest {one.name}")
    return []


def _one_too_many(what: str, failures: int, rule: Escalation, restarted: str) -> list[str]:
    if failures + 1 < rule.failures:
        return []
    return [
        f"{what} has failed {failures} times within {rule.period:g} s, one more escalates: {restarted} would be restarted"
    ]
