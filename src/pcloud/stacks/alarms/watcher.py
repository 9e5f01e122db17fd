"""Owns the states of alarms: looks at all of them at set times and whenever values arrive, and does what they are for.

An alarm is a resource's record with a `Rule` in `data["alarm"]`; its state and the actions that are still to be done are in
the same record, stored together: after a crash a state is not entered twice, and no action is lost (one that was under way
is done again). Concurrency: one task on the stack engine's event loop is the only one that changes states; time comes from
the engine's clock, so that `look` runs in virtual time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from pcloud.events.event import Event
from pcloud.model.errors import NotFound, PcloudError, Unavailable
from pcloud.stacks.alarms.metrics import Datum, Metrics, statistic, window
from pcloud.stacks.alarms.rule import ALARM, INSUFFICIENT, STATES, Rule, judge
from pcloud.stacks.records import ResourceRecord
from pcloud.stacks.types.base import Context, ResourceFailed, failed

if TYPE_CHECKING:
    from pcloud.stacks.engine.state import State

_log = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
"""How often alarms are looked at when no values arrive."""
REPEAT_SECONDS = 60.0
"""How often a scaling policy is asked again while its alarm stays in the state."""
_EXPIRE_SECONDS = 3600.0
_SETTLED = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_FAILED", "CHECK_COMPLETE", "RESUME_COMPLETE")
ENGINE_NAMESPACE = "system/linux"
"""Where failures that our own engine saw are counted, as the tools in guests do."""


class Watcher:
    """The alarms of this host."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.metrics = Metrics(state.store)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Task[None] | None = None
        self.listeners: list[Callable[[Event], None]] = []
        """Who else wants the engine's events."""
        self._acting: set[asyncio.Task[None]] = set()
        self._expired = 0.0

    # --- life

    def start(self) -> None:
        """Read the values and begin to watch."""
        self.metrics.load()
        self._task = asyncio.ensure_future(self._run())
        if "guests" in self._state.platform.capabilities:
            self._events = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop."""
        tasks = [task for task in (self._task, self._events, *self._acting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                self.look()
            except PcloudError as problem:
                _log.error("alarms: %s", problem)
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    # --- values

    def put(self, scope: str, datum: Datum) -> None:
        """Take values in; PcloudError when they can not be kept."""
        self.metrics.put(scope, datum, self._state.now())
        self._wake.set()

    async def _follow(self) -> None:
        """Count the failures that the engine sees as values of the stacks whose guests they are in."""
        while True:
            try:
                async for event in self._state.platform.events():
                    self.count(event)
                    for listener in self.listeners:
                        listener(event)
            except (PcloudError, OSError) as problem:
                _log.warning("events are not to be had: %s", problem)
            await asyncio.sleep(1.0)

    def count(self, event: Event) -> None:
        """Count an event of the engine: `ServiceFailure` for a service, `GuestFailure` for a guest, that failed."""
        if event.state != "failed" or event.type not in ("resource.state", "assembly.state"):
            return
        record = self._state.guest_of(event.deployable, event.assembly)
        if record is None:
            return
        dimensions = {"InstanceId": record.physical, "LogicalId": record.name, "Source": "engine"}
        name = "GuestFailure"
        if event.type == "resource.state":
            name, dimensions["Service"] = "ServiceFailure", event.resource
        datum = Datum.single(ENGINE_NAMESPACE, name, 1.0, self._state.now(), **dimensions)
        self.put(self._state.root_of(record.stack), datum)

    # --- states

    def look(self) -> None:
        """Judge every alarm now, and begin the actions that are due."""
        now = self._state.now()
        for record in list(self._state.alarms.values()):
            stack = self._state.stacks.get(record.stack)
            if stack is None or record.condemned or record.status not in _SETTLED:
                continue
            self._judge(record, now)
            self._act(record, now)
        if now - self._expired > _EXPIRE_SECONDS:
            self._expired = now
            self.metrics.expire(now)

    def _judge(self, record: ResourceRecord, now: float) -> None:
        rule = rule_of(record)
        if now < record.data.get("held_until", 0.0):
            return  # somebody set the state by hand: it holds for one period
        before = record.data.get("state", INSUFFICIENT)
        state, reason = judge(rule, self.points(record, rule, now), before)
        if state != before:
            self._enter(record, rule, state, reason, now)

    def points(self, record: ResourceRecord, rule: Rule, now: float) -> list[float | None]:
        """Return the values of the newest windows, newest first."""
        scopes = frozenset({"", self._state.root_of(record.stack)})
        names = {record.physical, record.name}
        found = [
            series
            for series in self.metrics.matching(scopes, rule.namespace, rule.metric, rule.dimensions)
            if series.dimensions.get("AlarmName", record.name) in names
        ]
        result: list[float | None] = []
        for index in range(rule.periods):
            bucket = window(found, now - (index + 1) * rule.period, now - index * rule.period)
            result.append(statistic(bucket, rule.statistic) if bucket is not None else None)
        return result

    def _enter(self, record: ResourceRecord, rule: Rule, state: str, reason: str, now: float) -> None:
        record.data["state"], record.data["state_reason"], record.data["state_since"] = state, reason, now
        record.data["pending"] = list(rule.actions.get(state, [])) if rule.enabled else []
        record.data["acted"] = now
        self._state.save(record)
        self._state.event(self._state.stacks[record.stack], record, "SIGNAL_COMPLETE", f"alarm state {state}: {reason}")
        self._state.poke(record.id)

    async def set_state(self, record: ResourceRecord, state: str, reason: str) -> None:
        """Set an alarm's state by hand: it holds for one period. Durable on return."""
        if state not in STATES:
            raise PcloudError.of("BAD_VALUE", f"a state is one of {', '.join(STATES)}")
        rule, now = rule_of(record), self._state.now()
        record.data["held_until"] = now + rule.period
        if state != record.data.get("state", INSUFFICIENT):
            self._enter(record, rule, state, reason, now)
        self._state.save(record)
        await self._state.store.flush()
        self._wake.set()

    # --- actions

    def _act(self, record: ResourceRecord, now: float) -> None:
        if self._state.stacks[record.stack].suspended:
            return  # that its guests are silent is wanted
        pending = record.data.get("pending") or []
        rule = rule_of(record)
        state = record.data.get("state", INSUFFICIENT)
        if not pending and rule.enabled and now - record.data.get("acted", 0.0) >= REPEAT_SECONDS:
            pending = [action for action in rule.actions.get(state, []) if self._repeats(action)]
            if pending:
                record.data["acted"] = now
        if not pending or record.id in {task.get_name() for task in self._acting}:
            return
        record.data["pending"] = pending
        task = asyncio.get_running_loop().create_task(self._carry_out(record, list(pending), state), name=record.id)
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    def _repeats(self, action: str) -> bool:
        target = self._state.target_of(action)
        kind = self._state.type_of(target) if target is not None else None
        if target is None or kind is None or not kind.repeats:
            return False
        stack = self._state.stacks[target.stack]
        return kind.due(Context(self._state, stack, target, dict(target.properties)))  # type: ignore[arg-type]

    async def _carry_out(self, record: ResourceRecord, actions: list[str], state: str) -> None:
        stack = self._state.stacks[record.stack]
        await self._state.store.flush()
        for action in actions:
            try:
                target = self._state.target_of(action)
                if target is None:
                    raise NotFound.of("NO_TARGET", f"there is no resource {action.partition('?')[0]}")
                current = "alarm" if state == ALARM else state.lower()
                rule = rule_of(record)
                points = self.points(record, rule, self._state.now())
                newest = next((point for point in points if point is not None), None)
                details: dict[str, Any] = {"current": current, "alarm": record.name}
                details |= {"value": newest, "threshold": rule.threshold}
                reason = f"{record.name}: {record.data.get('state_reason', '')}"
                await self._state.signal(
                    target, {"status": "SUCCESS", "reason": reason, "id": "", "data": "", "details": details}
                )
            except Unavailable as problem:  # such as an engine that is being started again: it stays to be done
                _log.warning("action of alarm %s: %s", record.name, problem)
                return
            except (ResourceFailed, PcloudError) as problem:
                self._state.event(
                    stack, record, "SIGNAL_FAILED", f"action {action.partition('?')[0]}: {failed(problem)}"
                )
            record.data["pending"] = record.data.get("pending", [])[1:]
            self._state.save(record)

    async def idle(self) -> None:
        """Return when no action is under way."""
        while self._acting:
            await asyncio.gather(*self._acting)


def rule_of(record: ResourceRecord) -> Rule:
    """Return the rule of an alarm's record."""
    return msgspec.convert(record.data["alarm"], Rule)
