"""Runs one command by its resource's class; the executor's only way to agents and services.

Owns: the choice between `ocf`, `lsb`, `systemd` and `service`. `done` is called exactly once, from the loop, never at once.
"""

from __future__ import annotations

from pcloud.agent import programs, watch
from pcloud.agent.commands import Command, Resource, refuse_stonith
from pcloud.agent.loop import Loop
from pcloud.agent.operation import ABSENT, ERROR, FAILED, FAILED_FATAL, NOT_INSTALLED, Child, Result, failed_to_start

TYPE_CHECKING = False  # `typing` itself would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

    Done = Callable[[Result], None]
    from typing import Union

    from pcloud.agent.systemd import Systemd
    from pcloud.agent.units import Run

    Running = Union[Child, Run, "_Service"]


class Runner:
    """Starts operations."""

    __slots__ = ("_loop", "_systemd")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._systemd: Systemd | None = None

    @property
    def systemd(self) -> Systemd:
        """Who talks to systemd. Made at first use: it takes 0.1 MB, for nothing where there is no systemd."""
        if self._systemd is None:
            from pcloud.agent.systemd import Systemd

            self._systemd = Systemd(self._loop)
        return self._systemd

    def run(self, resource: Resource, command: Command, done: Done) -> Running | None:
        """Start an operation. None when its result is already known (and on its way)."""
        kind = resource.resource_class.lower()
        if kind == "service":
            return _Service(self, resource, command, done)
        return self.run_as(kind, resource, command, done)

    def run_as(self, kind: str, resource: Resource, command: Command, done: Done) -> Running | None:
        """Start an operation as one of the real classes."""
        if kind == "systemd":
            return self._unit(resource, command, done)
        if kind == "ocf":
            return self._ocf(resource, command, done)
        if kind == "lsb":
            return self._lsb(resource, command, done)
        if kind == "stonith":
            return self._known(refuse_stonith(command), done)
        if not kind or not resource.type:
            return self._known(Result(ERROR, FAILED_FATAL, "Required agent or action information missing"), done)
        return self._known(Result(NOT_INSTALLED, ABSENT, f"{resource.type}: No such file or directory"), done)

    def _known(self, result: Result, done: Done) -> Running | None:
        """The result is known at once; nothing runs."""
        self._loop.soon(lambda: done(result))
        return None

    def _unit(self, resource: Resource, command: Command, done: Done) -> Running:
        from pcloud.agent.units import Run  # here: a guest that manages no unit does not pay for it

        timeout, parameters = command.timeout / 1000, command.parameters
        return Run(self.systemd, self._loop, resource.id, resource.type, command.action, parameters, timeout, done)

    def release(self, resource: Resource) -> None:
        """The resource is managed no more: leave nothing of ours with its unit."""
        if resource.resource_class in ("systemd", "service"):
            from pcloud.agent.units import release

            release(self.systemd, resource.id, resource.type)

    def _ocf(self, resource: Resource, command: Command, done: Done) -> Running | None:
        if not resource.provider:
            return self._known(Result(ERROR, FAILED_FATAL, "Required agent or action information missing"), done)
        path = programs.find_ocf(resource.provider, resource.type)
        if path is None:
            return self._known(Result(NOT_INSTALLED, ABSENT, f"{resource.type}: No such file or directory"), done)
        environment = programs.ocf_environment(resource.id, resource.provider, resource.type, command.parameters)
        return self._start(
            [path, command.action], environment, command, lambda result: done(programs.ocf_result(result))
        )

    def _lsb(self, resource: Resource, command: Command, done: Done) -> Running | None:
        action = "status" if command.action == "monitor" else command.action
        path = programs.find_lsb(resource.type)
        if path is None:
            missing = f"{programs.LSB_ROOT}/{resource.type}: No such file or directory"
            return self._known(Result(NOT_INSTALLED, ABSENT, missing), done)
        if action == "meta-data":
            return self._known(programs.lsb_metadata(path, resource.type), done)
        environment = programs.lsb_environment(resource.id, command.parameters)
        return self._start(
            [path, action], environment, command, lambda result: done(programs.lsb_result(action, result))
        )

    def _start(self, argv: list[str], environment: dict[str, str], command: Command, done: Done) -> Running | None:
        leave = command.parameters.get("CRM_meta_on_fail", "").lower() == "block"
        try:
            return Child(self._loop, argv, environment, command.timeout / 1000, done, leave_group=leave)
        except OSError as error:
            return self._known(failed_to_start(argv[0], error), done)
        except ValueError as error:  # a NUL in a parameter, say
            return self._known(Result(ERROR, FAILED, str(error)), done)

    def resolve(self, resource: Resource, reply: Callable[[str], None]) -> None:
        """Tell which real class a `service` is: systemd where systemd knows the unit, else an init script."""

        def answer(known: bool) -> None:
            reply("systemd" if known else "lsb")

        self.systemd.exists(resource.type, answer)

    def find_processes(
        self, resource: Resource, parameters: dict[str, str], found: Callable[[list[int]], None]
    ) -> None:
        """Find the main processes of a running service."""

        def as_class(kind: str) -> None:
            if kind != "systemd" or parameters.get(watch.PROCESSES):
                found(watch.find(kind, resource.id, parameters, self._loop.children))
            else:
                self.systemd.main_process(resource.type, on_main)

        def on_main(pid: int, group: str) -> None:
            found([pid] if pid else watch.by_control_group(group))

        if resource.resource_class == "service":
            self.resolve(resource, as_class)
        elif resource.resource_class in ("ocf", "lsb", "systemd"):
            as_class(resource.resource_class)


class _Service:
    """An operation of class `service`, whose real class is asked for first."""

    __slots__ = ("_command", "_done", "_killed", "_resource", "_runner", "_running")

    def __init__(self, runner: Runner, resource: Resource, command: Command, done: Done) -> None:
        self._runner, self._resource, self._command, self._done = runner, resource, command, done
        self._running: Running | None = None
        self._killed = False
        runner.resolve(resource, self._resolved)

    def _resolved(self, kind: str) -> None:
        self._running = self._runner.run_as(kind, self._resource, self._command, self._done)
        if self._killed:
            self.kill()

    def kill(self) -> None:
        """End it at once, or as soon as it has begun."""
        self._killed = True
        if self._running is not None:
            self._running.kill()
