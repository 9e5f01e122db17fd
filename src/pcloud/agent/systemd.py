"""Resource class `systemd`: units are started, stopped and asked for over D-Bus.

Owns: the jobs under way. Callbacks in the loop. `units` owns the names and the files.
"""

from __future__ import annotations

import os
import time

from pcloud.agent import units
from pcloud.agent.dbus import Bus, DBusError, Message
from pcloud.agent.loop import Loop, Timer, log
from pcloud.agent.operation import (
    ABSENT,
    DONE,
    ERROR,
    FAILED,
    NOT_INSTALLED,
    NOT_RUNNING,
    OK,
    TIMEOUT,
    UNIMPLEMENTED,
    Result,
)
from pcloud.agent.units import unit_name, unit_path

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

_MANAGER = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_UNIT, _SERVICE = "org.freedesktop.systemd1.Unit", "org.freedesktop.systemd1.Service"
_NO_UNIT = (
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.LoadFailed",
    "org.freedesktop.DBus.Error.InvalidArgs",
    "org.freedesktop.systemd1.InvalidName",
)


class Systemd:
    """Talks to systemd for all resources."""

    __slots__ = ("_bus", "_jobs", "_loop", "ending")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.ending = False
        """Whether the agent is to end when what it manages has been stopped. systemd would not stop a service that is
        ordered before an agent whose own stop is under way: each would wait for the other."""
        self._bus = Bus(loop, self._on_signal)
        self._jobs: dict[str, Callable[[str], None] | str] = {}

    def run(
        self,
        resource_id: str,
        agent: str,
        action: str,
        parameters: dict[str, str],
        timeout: float,
        done: Callable[[Result], None],
    ) -> Run:
        """Begin an action; `done` follows."""
        return Run(self, self._loop, resource_id, unit_name(agent), action, parameters, timeout, done)

    def exists(self, agent: str, reply: Callable[[bool], None]) -> None:
        """Tell whether systemd knows such a unit."""
        self.unit_property(
            unit_name(agent), _UNIT, "LoadState", lambda value, _error: reply(value in ("loaded", "masked"))
        )

    def main_process(self, agent: str, reply: Callable[[int, str], None]) -> None:
        """Tell a service's main process (0 when it has none) and its control group."""
        unit = unit_name(agent)

        def on_group(pid: int, value: object) -> None:
            reply(pid, value if isinstance(value, str) else "")

        def on_pid(value: object, _error: DBusError | None) -> None:
            pid = value if isinstance(value, int) else 0
            if pid > 0:
                reply(pid, "")
            else:
                self.unit_property(unit, _SERVICE, "ControlGroup", lambda group, _failure: on_group(0, group))

        self.unit_property(unit, _SERVICE, "MainPID", on_pid)

    def unit_property(
        self, unit: str, interface: str, name: str, reply: Callable[[object, DBusError | None], None]
    ) -> int:
        """Read one property of a unit."""
        return self._bus.call(
            unit_path(unit),
            "org.freedesktop.DBus.Properties",
            "Get",
            "ss",
            (interface, name),
            lambda values, error: reply(values[0] if values else None, error),
        )

    def job_ended(self, unit: str, reply: Callable[[], None]) -> None:
        """Tell when a unit has no job (any more), or that can not be asked. Where the connection is lost meanwhile, nothing
        is told."""

        def on_job(value: object, _error: DBusError | None) -> None:
            if isinstance(value, list) and value[0]:  # number and path
                self.when_done(str(value[1]), lambda _result: reply())
            else:
                reply()

        self.unit_property(unit, _UNIT, "Job", on_job)

    def manager(
        self,
        method: str,
        signature: str,
        arguments: tuple[object, ...],
        reply: Callable[[list[object], DBusError | None], None],
    ) -> int:
        """Call the manager."""
        return self._bus.call(*_MANAGER, method, signature, arguments, reply)

    def abandon(self, number: int) -> None:
        """Ignore the answer to that call."""
        self._bus.abandon(number)

    def when_done(self, job: str, reply: Callable[[str], None]) -> None:
        """Tell a job's result (`done`, `failed`, `timeout`, …) when it ends, or has ended."""
        known = self._jobs.pop(job, None)
        if isinstance(known, str):
            reply(known)
        else:
            self._jobs[job] = reply

    def forget_job(self, job: str) -> None:
        """Do not tell that job's result any more."""
        self._jobs.pop(job, None)

    def _on_signal(self, message: Message) -> None:
        if message.member != "JobRemoved" or len(message.arguments) < 4:
            return
        job, result = str(message.arguments[1]), str(message.arguments[3])
        waiting = self._jobs.pop(job, None)
        if callable(waiting):
            waiting(result)
            return
        # The signal may come before the answer that names the job: remember some.
        self._jobs[job] = result
        if len(self._jobs) > 64:
            for old in [name for name, value in self._jobs.items() if isinstance(value, str)][:32]:
                del self._jobs[old]

    def prepare(
        self, resource_id: str, unit: str, parameters: dict[str, str] | None, ready: Callable[[DBusError | None], None]
    ) -> None:
        """Write drop-in and environment, let systemd read them if they changed, then `ready`."""
        path = units.drop_in_path(unit)
        new = not os.path.exists(path)
        try:
            changed = unit.endswith(".service") and units.write_files(resource_id, unit, parameters)
        except (OSError, ValueError) as error:
            ready(DBusError("", f"{unit} can not be prepared: {error}"))
            return
        if not changed:
            ready(None)
        elif new:
            self._read_if_unread(unit, path, ready)
        else:
            self._reload(ready)

    def _read_if_unread(self, unit: str, path: str, ready: Callable[[DBusError | None], None]) -> None:
        """Let systemd read its configuration again, unless it reads the unit only now, and the new drop-in with it. That is
        so after a boot, when reading all anew would take longer than most services take to start."""

        def on_paths(value: object, _error: DBusError | None) -> None:
            known = isinstance(value, list) and path in value
            self.unit_property(unit, _UNIT, "NeedDaemonReload", lambda stale, _failure: on_stale(known, stale))

        def on_stale(known: bool, stale: object) -> None:
            if known and stale == 0:
                ready(None)
            else:
                self._reload(ready)

        self.unit_property(unit, _UNIT, "DropInPaths", on_paths)

    def _reload(self, ready: Callable[[DBusError | None], None]) -> None:
        """Let systemd read its configuration again, then `ready`."""
        self.manager("Reload", "", (), lambda _values, error: ready(error))

    def unorder(self, unit: str, ready: Callable[[DBusError | None], None]) -> None:
        """Take a service out of the order with the agent, then `ready`."""
        try:
            changed = units.remove_order(unit)
        except (OSError, ValueError) as error:
            ready(DBusError("", f"{unit} can not be taken out of its order: {error}"))
            return
        if changed:
            self._reload(ready)
        else:
            ready(None)

    def release(self, resource_id: str, agent: str) -> None:
        """Remove what `prepare` wrote; systemd's own restart rules count again."""
        if units.remove_files(resource_id, unit_name(agent)):
            self._reload(lambda _error: None)


class Run:
    """One action on a unit."""

    __slots__ = (
        "_action",
        "_call",
        "_deadline",
        "_done",
        "_id",
        "_job",
        "_loop",
        "_parameters",
        "_systemd",
        "_timer",
        "_unit",
        "_wait",
    )

    def __init__(
        self,
        systemd: Systemd,
        loop: Loop,
        resource_id: str,
        unit: str,
        action: str,
        parameters: dict[str, str],
        timeout: float,
        done: Callable[[Result], None],
    ) -> None:
        self._systemd, self._loop, self._id, self._unit, self._action = systemd, loop, resource_id, unit, action
        self._parameters, self._done = parameters, done
        self._call, self._job = 0, ""
        self._wait = 0.02
        self._deadline = time.monotonic() + timeout if timeout > 0 else float("inf")
        self._timer: Timer | None = loop.later(timeout, self._on_timeout) if timeout > 0 else None
        loop.soon(self._begin)

    def kill(self) -> None:
        """Give up: `done` follows with a time-out's or cancellation's result; systemd's own job goes on."""
        from pcloud.agent.operation import CANCELLED

        self._finish(Result(OK, CANCELLED))

    def _begin(self) -> None:
        if self._action in ("monitor", "status"):
            self._check()
        elif self._action == "start":
            self._systemd.prepare(self._id, self._unit, self._parameters, self._prepared)
        elif self._action == "stop" and self._systemd.ending:
            self._systemd.unorder(self._unit, self._prepared)
        elif self._action in ("stop", "restart"):
            self._submit()
        elif self._action == "meta-data":
            self._finish(Result(OK, DONE, output=units.metadata(self._unit)))
        else:
            self._finish(Result(UNIMPLEMENTED, FAILED, f"Action {self._action} not implemented for systemd resources"))

    def _prepared(self, error: DBusError | None) -> None:
        if error is not None:
            self._failed(error)
        else:
            self._submit()

    def _submit(self) -> None:
        if self._done is _nobody:
            return
        method = {"start": "StartUnit", "stop": "StopUnit", "restart": "RestartUnit"}[self._action]
        self._call = self._systemd.manager(method, "ss", (self._unit, "replace"), self._submitted)

    def _submitted(self, values: list[object], error: DBusError | None) -> None:
        if self._done is _nobody:
            return
        if error is not None:
            if error.name in _NO_UNIT and self._action == "stop":
                self._finish(Result(OK))  # what is not there does not run
            else:
                self._failed(error)
            return
        self._job = str(values[0]) if values else ""
        self._systemd.when_done(self._job, self._job_done)

    def _job_done(self, result: str) -> None:
        self._job = ""
        if result == "done" or self._action == "stop":
            self._check()
        else:
            self._finish(Result(ERROR, DONE, f"systemd job for {self._unit} ended with result '{result}'"))

    def _check(self) -> None:
        if self._done is not _nobody:
            self._call = self._systemd.unit_property(self._unit, _UNIT, "ActiveState", self._state)

    def _state(self, value: object, error: DBusError | None) -> None:
        if self._done is _nobody:
            return
        if error is not None:
            self._failed(error)
            return
        state = str(value)
        if state in ("activating", "deactivating", "maintenance", "refreshing"):
            # In between: ask again soon, then less often, until it settles or time is up.
            self._loop.later(self._wait, self._check)
            self._wait = min(self._wait * 1.5, 1.0)
            return
        running = state in ("active", "reloading")
        if self._action == "stop":
            self._finish(Result(ERROR, DONE, f"{self._unit} is {state} after its stop") if running else Result(OK))
        elif running:
            if self._action in ("monitor", "status"):
                self._adopt()
            self._finish(Result(OK))
        elif self._action in ("monitor", "status"):
            self._finish(Result(NOT_RUNNING, DONE, state))
        else:
            self._finish(Result(ERROR, DONE, f"{self._unit} is {state} after its start"))

    def _adopt(self) -> None:
        """A service that runs already, started by somebody else: its own restart rules must go, too."""

        def ready(error: DBusError | None) -> None:
            if error is not None:
                log(4, f"{self._unit}: {error}")

        if self._parameters.get("CRM_meta_interval", "0") != "0":
            self._systemd.prepare(self._id, self._unit, None, ready)

    def _failed(self, error: DBusError) -> None:
        if error.name in _NO_UNIT:
            self._finish(Result(NOT_INSTALLED, ABSENT, f"systemd unit {self._unit} not found"))
        else:
            self._finish(Result(ERROR, FAILED, str(error)))

    def _on_timeout(self) -> None:
        self._finish(
            Result(ERROR, TIMEOUT, f"{self._action} action for systemd unit {self._unit} did not complete in time")
        )

    def _finish(self, result: Result) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._systemd.abandon(self._call)
        if self._job:
            self._systemd.forget_job(self._job)
        done, self._done = self._done, _nobody
        done(result)


def _nobody(_result: Result) -> None:
    """Stands where the callback was after it has been called."""
