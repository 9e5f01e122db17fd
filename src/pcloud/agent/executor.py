"""The executor: resources, the queue of each, recurring operations, and what is told of their results.

Owns: every resource and command in this guest. One operation at a time per resource, in the order of arrival; recurring ones
repeat `interval` after they ended. Semantics follow upstream's executor (2.1.5); concurrency: callbacks of the loop.
"""

from __future__ import annotations

import errno
import time

from pcloud.agent import watch
from pcloud.agent.commands import Command, Resource
from pcloud.agent.loop import Loop, log
from pcloud.agent.operation import CANCELLED, DONE, OK, PROMOTED, Result
from pcloud.agent.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Notify = Callable[[Command, Result, bool], None]

_CONFIRM = 0.1
"""Seconds after which a monitor that an exit triggered, and that saw nothing, looks again: the service's parent may not have
reaped the process yet."""
_QUIET_EXITS = 2
"""Exits in a row after which a monitor saw nothing, beyond which an exit no longer triggers one at once."""
_SEARCH_AGAIN = (0.2, 0.8, 3.2)
"""Seconds to the next look at a service that is well while no process of it is found: one that is just being executed shows
no environment, a pid file may be written late. The interval may be an hour."""
_SEARCH_EVERY = 30.0
"""Seconds between searches for a resource's processes after those."""


class Executor:
    """All resources of this guest."""

    __slots__ = ("_loop", "_notify", "_runner", "resources")

    def __init__(self, loop: Loop, notify: Notify) -> None:
        """`notify(command, result, deleted)` is called for each result that is to be told."""
        self._loop = loop
        self._notify = notify
        self._runner = Runner(loop)
        self.resources: dict[str, Resource] = {}

    def job_ended(self, unit: str, reply: Callable[[], None]) -> None:
        """Tell when a unit has no job in systemd (any more)."""
        self._runner.systemd.job_ended(unit, reply)

    def ending(self) -> None:
        """The agent is to end when its resources have been stopped."""
        self._runner.systemd.ending = True

    # --- what clients ask for; results are 0 or a negative errno

    def register(self, resource_id: str, resource_class: str, provider: str, agent: str, options: int) -> int:
        """Make a resource known. The same again changes nothing; another one of that name replaces it."""
        old = self.resources.get(resource_id)
        if old is not None:
            if (old.resource_class.lower(), old.provider.lower(), old.type.lower()) == (
                resource_class.lower(),
                provider.lower(),
                agent.lower(),
            ):
                return 0
            self._remove(old)
        self.resources[resource_id] = Resource(resource_id, resource_class, provider, agent, options)
        return 0

    def unregister(self, resource_id: str) -> int:
        """Forget a resource; what is queued or repeats is cancelled, what runs ends by itself (-EINPROGRESS)."""
        resource = self.resources.get(resource_id)
        if resource is None:
            return 0
        busy = resource.active is not None
        self._remove(resource)
        return -errno.EINPROGRESS if busy else 0

    def execute(self, command: Command) -> int:
        """Queue an operation."""
        resource = self.resources.get(command.resource_id)
        if resource is None:
            return -errno.ENODEV
        if command.interval and self._merge(resource, command):
            return 0
        if command.action.lower() == "stop":
            self._cancel_recurring(resource, None)
        resource.pending.append(command)
        command.queued = time.monotonic()
        if command.start_delay:
            command.delay = self._loop.later(command.start_delay / 1000, lambda: self._delay_over(resource, command))
        self._loop.soon(lambda: self._next(resource))  # after the reply has been queued
        return 0

    def cancel(self, resource_id: str, action: str, interval: int) -> int:
        """Cancel a queued or recurring operation."""
        resource = self.resources.get(resource_id)
        if resource is None:
            return -errno.ENODEV
        for command in [*resource.pending, *resource.recurring]:
            if command.matches(action, interval):
                self._cancel(resource, command)
                return 0
        return -errno.EOPNOTSUPP

    def client_gone(self, last: bool) -> None:
        """A client disconnected; with the last one end the recurring operations of resources that were registered so."""
        if last:
            for resource in list(self.resources.values()):
                if resource.options & 3 == 3:
                    self._cancel_recurring(resource, None)

    # --- queues

    def _merge(self, resource: Resource, command: Command) -> bool:
        """The same recurring operation again: the one that is there takes the new call's identity and runs now."""
        for known in [*resource.pending, *resource.recurring]:
            if not known.matches(command.action, command.interval) or known.stopping:
                continue
            known.first_sent = False
            known.user_data, known.call_id = command.user_data, command.call_id
            known.parameters, known.timeout, known.options = command.parameters, command.timeout, command.options
            self._kick(resource, known, "")
            return True
        return False

    def _kick(self, resource: Resource, command: Command, signal: str) -> None:
        """Run a recurring operation now instead of at its time."""
        if command is resource.active:
            command.again = True
            command.signal = command.signal or signal
        elif command.timer is not None:
            command.timer.cancel()
            command.signal = signal
            self._due(resource, command)
        else:
            command.signal = command.signal or signal  # queued already

    def _due(self, resource: Resource, command: Command) -> None:
        command.timer = None
        if self.resources.get(resource.id) is resource and command in resource.recurring:
            resource.pending.append(command)
            command.queued = time.monotonic()
            self._next(resource)

    def _delay_over(self, resource: Resource, command: Command) -> None:
        command.delay = None
        self._next(resource)

    def _next(self, resource: Resource) -> None:
        """Start the next operation, if none runs. One that waits for its start delay lets others pass."""
        if resource.active is not None:
            return
        for command in resource.pending:
            if command.delay is None:
                break
        else:
            return
        resource.pending.remove(command)
        if command.interval and command not in resource.recurring:
            resource.recurring.append(command)
        resource.active = command
        command.ran = time.monotonic()
        command.ran_at = int(time.time())
        log(
            7 if command.action == "monitor" else 6,
            f"executing {resource.id} {command.action} (call {command.call_id})",
        )
        if command.action.lower() == "stop" and resource.watch is not None:
            resource.watch.clear()
        if command.interval:
            self._search(resource, command)
        resource.running = self._runner.run(
            resource, command, lambda result: self._completed(resource, command, result)
        )

    def _completed(self, resource: Resource, command: Command, result: Result) -> None:
        known = self.resources.get(resource.id) is resource
        resource.active = resource.running = None
        if command.stopping:
            result.rc, result.status = OK, CANCELLED
        if command.rc != result.rc:
            # A cluster orders two results of one call by these whole seconds, and ignores a failure that is not later
            # than the success before it. We notice exits within the same second, so the change gets the next one.
            command.rc_changed = max(int(time.time()), command.told_at + 1)
        same = command.first_sent and command.last_rc == result.rc and command.last_status == result.status
        triggered = command.signal == "exit"
        self._tell(command, result, deleted=not known)
        if command.interval and known and not command.stopping:
            self._after_recurring(resource, command, result, triggered=triggered, same=same)
        elif command in resource.recurring:
            resource.recurring.remove(command)
        if known:
            self._next(resource)

    def _tell(self, command: Command, result: Result, *, deleted: bool) -> None:
        command.rc = result.rc
        same = command.last_rc == result.rc and command.last_status == result.status
        if command.first_sent and same and command.options & 4:
            return
        command.first_sent = True
        command.last_rc, command.last_status = result.rc, result.status
        command.told_at = max(command.rc_changed, command.ran_at)
        self._notify(command, result, deleted)

    def _after_recurring(
        self, resource: Resource, command: Command, result: Result, *, triggered: bool, same: bool
    ) -> None:
        """Set the next run, and watch the service's processes while it is well."""
        well = result.status == DONE and result.rc in (OK, PROMOTED)
        wait = command.interval / 1000
        if command.again:
            # Something happened while it ran; its result may be of before that.
            wait = min(wait, _CONFIRM)
        elif triggered and well and same and resource.quiet < 8:
            # A process ended, yet all looks well: look once more soon, later each time it turns out to be nothing.
            resource.quiet += 1
            wait = min(wait, _CONFIRM * 2**resource.quiet / 2)
        else:
            command.signal = ""
            if well and not triggered:
                resource.quiet = 0
            if well and not resource.watch and resource.searches <= len(_SEARCH_AGAIN):
                # None is watched; where an exit hurried this look, nobody has searched yet.
                wait = min(wait, _SEARCH_AGAIN[max(resource.searches, 1) - 1])
        command.again = False
        command.timer = self._loop.later(wait, lambda: self._due(resource, command))
        if not well:
            resource.searches = 0
            if resource.watch is not None:
                resource.watch.clear()

    # --- exits of the service's processes

    def _search(self, resource: Resource, command: Command) -> None:
        """Find and watch the service's processes, *before* a monitor looks at it: so no moment is left in which a
        process could end unseen. A monitor that an exit has just triggered runs without this delay."""
        now = time.monotonic()
        hurry = command.signal == "exit" and not resource.quiet
        if resource.watch:
            resource.searches = 0
            return
        if hurry or (resource.searches > len(_SEARCH_AGAIN) and now < resource.searched + _SEARCH_EVERY):
            return
        resource.searches += 1
        resource.searched = now
        if resource.watch is None:
            resource.watch = watch.Watch(self._loop, lambda: self._process_ended(resource))
        self._runner.find_processes(resource, command.parameters, resource.watch.add)

    def _process_ended(self, resource: Resource) -> None:
        if self.resources.get(resource.id) is not resource:
            return
        log(6, f"{resource.id}: a process ended")
        resource.searches = 0
        for command in resource.recurring:
            if resource.quiet > _QUIET_EXITS and command.signal == "exit" and command.timer is not None:
                continue  # exits that mean nothing, again and again: the next look is set already, later each time
            if not command.stopping:
                self._kick(resource, command, "exit")

    # --- cancelling

    def _cancel(self, resource: Resource, command: Command) -> None:
        if command.timer is not None:
            command.timer.cancel()
            command.timer = None
        if command.delay is not None:
            command.delay.cancel()
            command.delay = None
        if command is resource.active:
            command.stopping = True
            if command in resource.recurring:
                resource.recurring.remove(command)
            if resource.running is not None:
                resource.running.kill()  # `_completed` tells
            return
        if command in resource.pending:
            resource.pending.remove(command)
        if command in resource.recurring:
            resource.recurring.remove(command)
        known = self.resources.get(resource.id) is resource
        self._tell(command, Result(command.rc, CANCELLED), deleted=not known)  # with its last exit code, as upstream

    def _cancel_recurring(self, resource: Resource, client: str | None) -> None:
        for command in [*resource.recurring, *resource.pending]:
            if command.interval and (client is None or command.client == client):
                self._cancel(resource, command)

    def _remove(self, resource: Resource) -> None:
        del self.resources[resource.id]
        commands = list(resource.recurring)
        commands += [command for command in resource.pending if command not in commands]
        for command in commands:
            self._cancel(resource, command)
        if resource.watch is not None:
            resource.watch.clear()
        self._runner.release(resource)
