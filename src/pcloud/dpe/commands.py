"""What the daemon asks of one loaded deployable: recover, run a command, show the console, a snapshot, a fault for a drill.

Concurrency: any number at once, each in a task of its own; every one is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from pcloud.dpe import injection
from pcloud.dpe.entering import run_by_ssh
from pcloud.dpe.environment import Environment
from pcloud.dpe.loop import DeployableEngine
from pcloud.dpe.messages import Command, Reply
from pcloud.environment.infrastructure import Capability, ExecResult, InfrastructureError
from pcloud.environment.transport import Transport, TransportError
from pcloud.policy.observation import Recover, Restart
from pcloud.policy.standstill import standstill


class Commands:
    """Answers to commands."""

    def __init__(
        self,
        engines: Mapping[str, DeployableEngine],
        environment: Callable[[str], Environment],
        transports: Mapping[str, Transport],
        send: Callable[[Reply], None],
    ) -> None:
        """`environment` returns where a deployable's engine works."""
        self._engines = engines
        self._environment = environment
        self._transports = transports
        self._send = send

    async def carry_out(self, command: Command) -> None:
        """Do what is asked and answer, whatever comes of it."""
        engine = self._engines.get(command.name)
        if engine is None:
            self._send(Reply(request=command.request, error=not_loaded(command.name)))
            return
        try:
            result = await self._answer(engine, command)
        except InfrastructureError as error:
            self._send(Reply(request=command.request, error=f"INFRASTRUCTURE: {error}"))
        except TransportError as error:
            self._send(Reply(request=command.request, error=f"{error.code}: {error}"))
        except (KeyError, TypeError, ValueError) as error:
            self._send(Reply(request=command.request, error=f"BAD_COMMAND: {error}"))
        else:
            self._send(Reply(request=command.request, result=result))

    async def _answer(self, engine: DeployableEngine, command: Command) -> Any:
        arguments = command.arguments
        infrastructure = self._environment(engine.state.deployable.name).infrastructure
        match command.action:
            case "recover":
                engine.post(Recover(subject=arguments.get("subject", "")))
                return None
            case "restart":
                engine.post(Restart(assembly=str(arguments["assembly"]), why=str(arguments["reason"])))
                return None
            case "execute":
                argv = [str(word) for word in arguments["argv"]]
                stdin, timeout = arguments.get("stdin", b""), float(arguments.get("timeout", 60.0))
                done = await self._execute(engine, arguments["assembly"], argv, stdin=stdin, timeout=timeout)
                return {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
            case "inject":
                return await self._inject(engine, arguments["fault"], arguments["assembly"], arguments["resource"])
            case "console":
                return await infrastructure.console(f"{command.name}.{arguments['assembly']}")
            case "standstill":
                now = self._environment(command.name).clock.time()
                return msgspec.to_builtins(standstill(engine.state, now, engine.braked))
            case "snapshot":
                return msgspec.to_builtins(engine.state)
            case _:
                raise ValueError(f"there is no command {command.action}")

    async def _execute(
        self, engine: DeployableEngine, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest: by its infrastructure, or by ssh where that has no way in."""
        infrastructure = self._environment(engine.state.deployable.name).infrastructure
        guest_id = f"{engine.state.deployable.name}.{assembly}"
        if Capability.EXECUTE in infrastructure.capabilities:
            return await infrastructure.execute(guest_id, argv, stdin=stdin, timeout=timeout)
        ssh, material = self._transports["ssh"], engine.material(assembly)
        return await run_by_ssh(infrastructure, ssh, guest_id, material, argv, stdin=stdin, timeout=timeout)

    async def _inject(self, engine: DeployableEngine, fault: str, assembly: str, resource: str) -> str:
        """Do a fault of a drill; return what was done."""
        match fault:
            case "service-killed":
                run = partial(self._execute, engine, assembly)
                return await injection.kill_service(engine.state, assembly, resource, run)
            case "guest-killed":
                infrastructure = self._environment(engine.state.deployable.name).infrastructure
                return await injection.kill_guest(engine.state, assembly, infrastructure)
            case "link-cut":
                await engine.cut_link(assembly)
                return f"the connection to the guest {assembly} was torn"
            case _:
                raise ValueError(f"there is no fault {fault}")


def not_loaded(name: str) -> str:
    """Return the error about a deployable that is not here."""
    return f"NOT_LOADED: {name} is not loaded here"
