"""One guest's live ssh connection: operations, recurring monitors driven from this side, health.

Owns everything that happens on the connection after the handshake. Concurrency: operations of one resource run strictly
in sequence (as Pacemaker's executor does it), different resources at once up to `SshSettings.sessions`. Every operation
runs in a task of the connection, so that a caller that is cancelled does not cancel it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import asyncssh
import msgspec

from pcloud.environment.infrastructure import ExecResult
from pcloud.environment.transport import (
    Endpoint,
    ExitCode,
    Operation,
    OperationResult,
    OperationStatus,
    TransportError,
)
from pcloud.transport import ssh_commands as commands
from pcloud.transport.settings import SshSettings
from pcloud.transport.ssh_channel import LinkLost, run
from pcloud.transport.ssh_exits import ExitWatch

_MARGIN = 3.0
"""Seconds beyond an operation's time-out until this side gives up on the guest's own enforcement of it."""

_EXECUTE_LIMIT = 1024 * 1024


class _Recurring:
    """A recurring operation: its task and what was last reported of it."""

    def __init__(self, operation: Operation, resource_class: str) -> None:
        self.operation = operation
        self.resource_class = resource_class
        self.task: asyncio.Task[None] | None = None
        self.reported: tuple[int, int] | None = None
        self.ended = asyncio.Event()
        self.trigger = asyncio.Event()


class SshConnection:
    """Implements `pcloud.environment.transport.Connection`."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        endpoint: Endpoint,
        settings: SshSettings,
        *,
        on_result: Callable[[OperationResult], None],
        on_lost: Callable[[TransportError], None],
    ) -> None:
        self._ssh = connection
        self._username = endpoint.username
        self._guest = endpoint.guest_id
        self._settings = settings
        self._on_result = on_result
        self._on_lost = on_lost
        self._error: TransportError | None = None
        self._closed = False
        self._sessions = asyncio.Semaphore(settings.sessions)
        self._locks: dict[str, asyncio.Lock] = {}
        self._recurring: dict[tuple[str, str, float], _Recurring] = {}
        self._classes: dict[str, str] = {}
        self._units: dict[str, str] = {}
        self._calls = 0
        self._proof = asyncio.get_running_loop().time()
        """When the guest last proved, by the end of any command, that it answers (event loop's time)."""
        self._tasks: set[asyncio.Task[object]] = set()
        self._watch = ExitWatch(connection, self._exited, poll=settings.exit_poll, username=endpoint.username)
        self._health = asyncio.create_task(self._check_health(), name=f"ssh health {self._guest}")

    # --- the interface

    async def execute(self, operation: Operation) -> OperationResult:
        """Run an operation; see `Connection.execute`. A name that can not be right gives status INVALID, unsent."""
        self._alive()
        try:
            commands.validate(operation)
        except commands.InvalidOperation as error:
            return _result(
                operation, commands.Outcome(rc=ExitCode.ERROR, status=OperationStatus.INVALID, exit_reason=str(error))
            )
        task = asyncio.create_task(self._first(operation), name=f"ssh {operation.resource} {operation.action}")
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return await asyncio.shield(task)

    async def cancel(self, resource: str, action: str, interval: float) -> None:
        """Stop repeating an operation; one that is running just now ends by itself and is not reported."""
        self._alive()
        self._stop_recurring((resource, action, interval))

    async def forget(self, resource: str) -> None:
        """End the resource's recurring operations and give its systemd unit, if it has one, its own restart policy back."""
        self._alive()
        for key in [key for key in self._recurring if key[0] == resource]:
            self._stop_recurring(key)
        self._locks.pop(resource, None)
        unit = self._units.pop(resource, "")
        if unit:
            with contextlib.suppress(asyncssh.ChannelOpenError):
                await self._run([*commands.as_root(self._username), *commands.systemd_forget(unit)], 20.0)

    async def check(self, *, timeout: float) -> None:
        """Make the guest run a command; TransportError when it does not within `timeout` seconds."""
        self._alive()
        try:
            end = await run(self._ssh, "exec true", timeout=timeout)
        except asyncssh.ChannelOpenError:
            return  # sshd answered: it is alive, only short of sessions
        except (LinkLost, asyncssh.Error, OSError) as error:
            raise self._lost_error(error) from error
        if end.timed_out:
            raise TransportError("SILENT", f"{self._guest} did not run a command within {timeout:g} seconds")
        self._proof = asyncio.get_running_loop().time()
        if end.returncode != 0:
            raise TransportError("UNHEALTHY", f"{self._guest} can not run commands: exit status {end.returncode}")

    async def close(self) -> None:
        """Close in order. Recurring operations end: over ssh nothing of ours stays in the guest to repeat them."""
        self._closed = True
        self._end()
        self._ssh.close()
        try:
            async with asyncio.timeout(2.0):
                await self._ssh.wait_closed()
        except TimeoutError:
            self._ssh.abort()

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> ExecResult:
        """Run a command in the guest as root, without a shell reading any word of it. Output is bounded to 1 MiB a stream.

        TransportError when the guest is lost, or `timeout` seconds pass (then the command's process group is killed).
        """
        self._alive()
        words = [*commands.as_root(self._username), "env", f"PATH={commands.PATH}", *argv]
        async with self._sessions:
            try:
                line = commands.command_line(words)
                end = await run(self._ssh, line, stdin=stdin, timeout=timeout, limit=_EXECUTE_LIMIT)
            except (LinkLost, asyncssh.Error, OSError) as error:
                raise self._lost_error(error) from error
        if end.timed_out:
            raise TransportError("TIMEOUT", f"{self._guest}: the command did not end within {timeout:g} seconds")
        return ExecResult(returncode=end.returncode, stdout=end.stdout, stderr=end.stderr)

    # --- called by the transport

    def lost(self, error: TransportError) -> None:
        """Note that the connection is gone; tells `on_lost` once, and not after `close`."""
        if self._error is not None or self._closed:
            return
        self._error = error
        self._end()
        self._ssh.abort()
        self._on_lost(error)

    # --- operations

    async def _first(self, operation: Operation) -> OperationResult:
        self._calls += 1
        call, queued = self._calls, time.monotonic()
        resource_class = await self._resource_class(operation)
        if not resource_class:
            late = commands.RemoteExit(timed_out=True)
            return _result(operation, commands.interpret(operation, commands.ServiceClass.LSB, late), call_id=call)
        if resource_class == commands.ServiceClass.SYSTEMD and operation.action == "start":
            self._units[operation.resource] = operation.type
        if operation.action == "stop":  # as the executor in a guest does it: what is being stopped is not watched
            for key in [key for key in self._recurring if key[0] == operation.resource]:
                self._stop_recurring(key)
        recurring = None
        if operation.interval > 0:
            key = (operation.resource, operation.action, operation.interval)
            self._stop_recurring(key)
            recurring = self._recurring[key] = _Recurring(operation, resource_class)
        if operation.start_delay:  # nothing of the resource's waits behind it meanwhile
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(operation.start_delay):
                    await (asyncio.Event() if recurring is None else recurring.ended).wait()
            self._alive()
            queued = time.monotonic()
            if recurring is not None and recurring.ended.is_set():
                cancelled = commands.Outcome(rc=ExitCode.OK, status=OperationStatus.CANCELLED)
                return _result(operation, cancelled, call_id=call)
        result = await self._perform(operation, resource_class, queued=queued, call=call)
        if recurring is not None and self._recurring.get(key) is recurring:
            recurring.reported = (result.rc, result.status)
            recurring.task = asyncio.create_task(self._repeat(recurring), name=f"ssh repeat {operation.resource}")
        return result

    async def _perform(
        self, operation: Operation, resource_class: str, *, queued: float, call: int = 0, signal: str = "request"
    ) -> OperationResult:
        """Run one operation to its end, in sequence with the resource's others."""
        async with self._locks.setdefault(operation.resource, asyncio.Lock()), self._sessions:
            began, started = time.monotonic(), time.time()
            outcome = await self._settle(operation, resource_class)
            ended = time.monotonic()
        if outcome.rc == ExitCode.OK and self._has_monitor(operation.resource):
            await self._watch_processes(operation, outcome.pid)
        return _result(
            operation,
            outcome,
            call_id=call,
            started=started,
            exec_seconds=ended - began,
            queue_seconds=began - queued,
            signal=signal,
        )

    async def _settle(self, operation: Operation, resource_class: str) -> commands.Outcome:
        """Run the operation and, while the service is between two states, ask again until its time-out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + operation.timeout
        try:
            words = commands.operation_words(operation, resource_class, username=self._username)
        except commands.InvalidOperation as error:
            return commands.Outcome(
                rc=ExitCode.UNIMPLEMENTED, status=OperationStatus.NOT_SUPPORTED, exit_reason=str(error)
            )
        data = commands.operation_input(operation, resource_class)
        end = await self._run(words, operation.timeout + _MARGIN, stdin=data)
        outcome = commands.interpret(operation, resource_class, end)
        delay = 0.1
        while outcome.pending:
            if loop.time() + delay >= deadline:
                late = commands.RemoteExit(timed_out=True)
                return commands.interpret(operation, resource_class, late)
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 2.0)
            show = [*commands.as_root(self._username), *commands.systemd_show(operation.type)]
            end = await self._run(show, deadline - loop.time() + _MARGIN)
            outcome = commands.interpret(operation, resource_class, end)
        return outcome

    async def _run(self, words: Sequence[str], timeout: float, *, stdin: bytes = b"") -> commands.RemoteExit:
        """Run words, trying again for a while when sshd grants no session; TransportError when the guest is lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        line = commands.command_line(words)
        while True:
            try:
                end = await run(self._ssh, line, stdin=stdin, timeout=max(0.1, deadline - loop.time()))
                self._proof = self._proof if end.timed_out else loop.time()
                return end
            except asyncssh.ChannelOpenError:
                if loop.time() + 0.5 >= deadline:
                    return commands.RemoteExit(timed_out=True)
                await asyncio.sleep(0.5)
            except (LinkLost, asyncssh.Error, OSError) as error:
                raise self._lost_error(error) from error

    async def _resource_class(self, operation: Operation) -> str:
        """Return the operation's class, asking the guest what a `service` is there: a systemd unit, else an init
        script, as our agent has it. Empty when it did not say: that is not the same as none."""
        if operation.resource_class != commands.ServiceClass.SERVICE:
            return operation.resource_class
        if operation.type not in self._classes:
            end = await self._run(commands.find_class(operation.type), operation.timeout)
            found = end.stdout.decode("ascii", "replace").strip().rpartition("\n")[2]
            if found == "none":
                return commands.ServiceClass.LSB  # whose answer will be that it is not installed
            if found not in (commands.ServiceClass.LSB, commands.ServiceClass.SYSTEMD):
                return ""
            self._classes[operation.type] = found
        return self._classes[operation.type]

    # --- recurring operations

    def _has_monitor(self, resource: str) -> bool:
        return any(key[0] == resource for key in self._recurring)

    async def _repeat(self, recurring: _Recurring) -> None:
        """Repeat an operation, interval by interval from its start, or at once when its process ended; report changes."""
        operation, loop = recurring.operation, asyncio.get_running_loop()
        due = loop.time() + operation.interval
        while True:
            signal = "interval"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await recurring.trigger.wait()
                    signal = "exit"
            recurring.trigger.clear()
            began = loop.time()
            due = began + operation.interval
            try:
                result = await self._perform(
                    operation, recurring.resource_class, queued=time.monotonic(), signal=signal
                )
            except TransportError:
                return  # `lost` tells
            if self._error is None and not self._closed and (result.rc, result.status) != recurring.reported:
                recurring.reported = (result.rc, result.status)
                self._on_result(result)

    def _stop_recurring(self, key: tuple[str, str, float]) -> None:
        recurring = self._recurring.pop(key, None)
        if recurring is not None:
            recurring.ended.set()
            if recurring.task is not None:
                recurring.task.cancel()
        if not self._has_monitor(key[0]):
            self._watch.unwatch(key[0])

    async def _watch_processes(self, operation: Operation, pid: int) -> None:
        """Watch the service's processes, where they can be known, so that their exit triggers its monitor at once."""
        if self._settings.exit_poll <= 0:
            return
        if pid > 0:
            await self._watch.watch(operation.resource, [pid])
        elif operation.processes and not self._watch.watched(operation.resource):
            end = await self._run(commands.find_processes(operation.processes), 10.0)
            await self._watch.watch(operation.resource, [int(word) for word in end.stdout.split() if word.isdigit()])

    def _exited(self, resource: str) -> None:
        for key, recurring in self._recurring.items():
            if key[0] == resource:
                recurring.trigger.set()

    # --- health and end

    async def _check_health(self) -> None:
        """Check the guest whenever nothing else has just proved that it answers; a failed check ends the connection."""
        loop = asyncio.get_running_loop()
        interval = self._settings.health_interval
        while True:
            await asyncio.sleep(max(0.0, min(interval, self._proof + interval - loop.time())) or interval)
            if loop.time() < self._proof + interval:
                continue
            began = loop.time()
            try:
                await self.check(timeout=self._settings.health_timeout)
            except TransportError as error:
                if error.code == "SILENT" and self._proof > began:
                    continue  # other commands ended meanwhile: it is busy, not silent
                self.lost(error)
                return

    def _alive(self) -> None:
        if self._error is not None:
            raise TransportError(self._error.code, str(self._error))
        if self._closed:
            raise TransportError("CLOSED", f"the connection to {self._guest} was closed")

    def _lost_error(self, error: Exception) -> TransportError:
        known = self._error
        return (
            TransportError(known.code, str(known))
            if known
            else TransportError("CONNECTION_LOST", f"{self._guest}: {error}")
        )

    def _forget_task(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled does not fetch it

    def _end(self) -> None:
        current = asyncio.current_task()
        if self._health is not current:
            self._health.cancel()
        for recurring in self._recurring.values():
            recurring.ended.set()
            if recurring.task is not None and recurring.task is not current:
                recurring.task.cancel()
        self._recurring.clear()
        self._watch.close()


def _result(operation: Operation, outcome: commands.Outcome, **facts: object) -> OperationResult:
    return msgspec.structs.replace(
        OperationResult(
            resource=operation.resource,
            action=operation.action,
            interval=operation.interval,
            rc=outcome.rc,
            status=outcome.status,
            exit_reason=outcome.exit_reason,
            output=outcome.output,
        ),
        **facts,
    )
