"""Resource class `systemd`: units are started, stopped and asked for.

Owns: one action on a unit, and when systemd reads its configuration again. Callbacks in the loop. `systemd` talks to
systemd, `unit_files` writes the files. Imported when a unit is first managed.
"""

from __future__ import annotations

import os

from pcloud.agent import unit_files
from pcloud.agent.dbus import DBusError
from pcloud.agent.loop import Loop, Timer, log
from pcloud.agent.operation import (
    ABSENT,
    CANCELLED,
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
from pcloud.agent.systemd import UNIT, Systemd, unit_name

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

_NO_UNIT = (
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.systemd1.LoadFailed",
    "org.freedesktop.DBus.Error.InvalidArgs",
    "org.freedesktop.systemd1.InvalidName",
)


def _prepare(
    systemd: Systemd,
    resource_id: str,
    unit: str,
    parameters: dict[str, str] | None,
    ready: Callable[[DBusError | None], None],
) -> None:
    """Write drop-in and environment, let systemd read them if they changed, then `ready`."""
    path = unit_files.drop_in_path(unit)
    new = not os.path.exists(path)
    try:
        changed = unit.endswith(".service") and unit_files.write_files(resource_id, unit, parameters)
    except (OSError, ValueError) as error:
        ready(DBusError("", f"{unit} can not be prepared: {error}"))
        return
    if not changed:
        ready(None)
    elif new:
        _read_if_unread(systemd, unit, path, ready)
    else:
        _reload(systemd, ready)


def _read_if_unread(systemd: Systemd, unit: str, path: str, ready: Callable[[DBusError | None], None]) -> None:
    """Let systemd read its configuration again, unless it reads the unit only now, and the new drop-in with it. That is
    so after a boot, when reading all anew would take longer than most services take to start."""

    def on_paths(value: object, _error: DBusError | None) -> None:
        known = isinstance(value, list) and path in value
        systemd.unit_property(unit, UNIT, "NeedDaemonReload", lambda stale, _failure: on_stale(known, stale))

    def on_stale(known: bool, stale: object) -> None:
        if known and stale == 0:
            ready(None)
        else:
            _reload(systemd, ready)

    systemd.unit_property(unit, UNIT, "DropInPaths", on_paths)


def _reload(systemd: Systemd, ready: Callable[[DBusError | None], None]) -> None:
    """Let systemd read its configuration again, then `ready`."""
    systemd.manager("Reload", "", (), lambda _values, error: ready(error))


def _unorder(systemd: Systemd, unit: str, ready: Callable[[DBusError | None], None]) -> None:
    """Take a service out of the order with the agent, then `ready`."""
    try:
        changed = unit_files.remove_order(unit)
    except (OSError, ValueError) as error:
        ready(DBusError("", f"{unit} can not be taken out of its order: {error}"))
        return
    if changed:
        _reload(systemd, ready)
    else:
        ready(None)


def release(systemd: Systemd, resource_id: str, agent: str) -> None:
    """Remove what `_prepare` wrote; systemd's own restart rules count again."""
    if unit_files.remove_files(resource_id, unit_name(agent)):
        _reload(systemd, lambda _error: None)


class Run:
    """One action on a unit."""

    __slots__ = (
        "_action",
        "_call",
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
        agent: str,
        action: str,
        parameters: dict[str, str],
        timeout: float,
        done: Callable[[Result], None],
    ) -> None:
        self._systemd, self._loop, self._id, self._action = systemd, loop, resource_id, action
        self._unit = unit_name(agent)
        self._parameters, self._done = parameters, done
        self._call, self._job = 0, ""
        self._wait = 0.02
        self._timer: Timer | None = loop.later(timeout, self._on_timeout) if timeout > 0 else None
        loop.soon(self._begin)

    def kill(self) -> None:
        """Give up: `done` follows with a time-out's or cancellation's result; systemd's own job goes on."""
        self._finish(Result(OK, CANCELLED))

    def _begin(self) -> None:
        if self._action in ("monitor", "status"):
            self._check()
        elif self._action == "start":
            _prepare(self._systemd, self._id, self._unit, self._parameters, self._prepared)
        elif self._action == "stop" and self._systemd.ending:
            _unorder(self._systemd, self._unit, self._prepared)
        elif self._action in ("stop", "restart"):
            self._submit()
        elif self._action == "limit":
            from pcloud.agent.bounds import LIMITS, bound  # here: hardly anybody limits services

            bound(self._systemd, self._unit, self._parameters.get(LIMITS, ""), self._bounded)
        elif self._action == "meta-data":
            self._finish(Result(OK, DONE, output=unit_files.metadata(self._unit)))
        else:
            self._finish(Result(UNIMPLEMENTED, FAILED, f"Action {self._action} not implemented for systemd resources"))

    def _bounded(self, why_not: str) -> None:
        if self._done is not _nobody:
            self._finish(Result(ERROR, DONE, why_not) if why_not else Result(OK))

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
            self._call = self._systemd.unit_property(self._unit, UNIT, "ActiveState", self._state)

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
            _prepare(self._systemd, self._id, self._unit, None, ready)

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
