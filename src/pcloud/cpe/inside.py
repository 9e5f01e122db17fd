"""What is asked of a deployable's engine, and through it of a guest: recover, run a command, show the console.

Concurrency: every call waits for its own reply; none changes desired state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pcloud.cpe.link import new_request
from pcloud.cpe.parts import check_part
from pcloud.dpe import messages
from pcloud.environment.infrastructure import ExecResult
from pcloud.model.errors import Problem, Unavailable
from pcloud.model.status import DeployableStatus

if TYPE_CHECKING:
    from pcloud.cpe.engine import CloudPolicyEngine


class Inside:
    """Commands to engines."""

    def __init__(self, owner: CloudPolicyEngine) -> None:
        self._owner = owner

    async def recover(self, name: str, *, assembly: str = "", resource: str = "") -> DeployableStatus:
        """Take it (or one assembly or resource) up again after it was given up."""
        row = self._owner.desired.active(name)
        stranded = self._owner.reconciler.stranded
        if stranded.who is not None and not stranded.ours(row):
            await self._owner.take(name, stranded.who)
            return await self._owner.reload(name)
        if name in self._owner.desired.overlays and name not in self._owner.desired.statuses:
            return await self._owner.reload(name)  # what failed is its images
        await self._has(name, assembly, resource)
        subject = "/".join(part for part in (assembly, resource) if part)
        await self.command(name, "recover", {"assembly": assembly, "resource": resource, "subject": subject})
        return await self._owner.status(name)

    async def command(self, name: str, action: str, arguments: dict[str, Any], *, timeout: float = 30.0) -> Any:
        """Ask the deployable's engine for something."""
        row = self._owner.desired.active(name)
        slot = self._owner.fleet.slots.get(row.slot)
        link = slot.link if slot is not None else None
        if link is None or name not in link.loaded:
            raise Unavailable(
                Problem(
                    code="ENGINE_AWAY",
                    message=f"no engine process holds {name} at present",
                    hint="see the reason in `pcloud status`; ask again when it runs",
                )
            )
        message = messages.Command(name=name, action=action, request=new_request(), arguments=arguments)
        return await link.request(message, timeout=timeout)

    async def execute(
        self, name: str, assembly: str, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0
    ) -> ExecResult:
        """Run a command in a guest, without a shell."""
        await self._has(name, assembly)
        arguments = {"assembly": assembly, "argv": list(argv), "stdin": stdin, "timeout": timeout}
        result = await self.command(name, "execute", arguments, timeout=timeout + 30)
        try:
            return msgspec.convert(result, ExecResult)
        except msgspec.ValidationError as error:
            raise Unavailable(
                Problem(code="ENGINE_ANSWER", message=f"the engine's answer is not usable: {error}")
            ) from error

    async def console(self, name: str, assembly: str) -> bytes:
        """Return the newest part of a guest's console log."""
        await self._has(name, assembly)
        result = await self.command(name, "console", {"assembly": assembly})
        if isinstance(result, Mapping):
            result = result.get("console", b"")
        return result.encode() if isinstance(result, str) else bytes(result or b"")

    async def _has(self, name: str, assembly: str, resource: str = "") -> None:
        check_part((await self._owner.definition(name)).deployable, assembly, resource)
