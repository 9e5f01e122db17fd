"""Dry runs and replays: asked of a process of its own, so that the daemon's loop never waits for virtual time.

Concurrency: at most `AT_ONCE` such processes; the others wait. A process ends with the request that asked for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

import msgspec

from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.model.deployable import Deployable
from pcloud.model.errors import InvalidDocument, PcloudError, Problem, Unavailable
from pcloud.simulator.__main__ import Answer, Request
from pcloud.simulator.dryrun import Report
from pcloud.simulator.replay import Verdict

AT_ONCE = 2
LONGEST = 120.0
"""Seconds after which a process that does not answer is ended."""
COMMAND = (sys.executable, "-m", "pcloud.simulator")


class Foresight:
    """What would happen, and whether it would be decided so again."""

    def __init__(self, engine: CloudPolicyEngine) -> None:
        self._engine = engine
        self._places = asyncio.Semaphore(AT_ONCE)

    async def simulate(self, name: str, faults: Sequence[str], files: Mapping[str, tuple[bytes, str]]) -> Report:
        """Return what faults and changes would do to a running deployable. `files` holds (content, form) of what `apply
        FILE` names. InvalidDocument with every problem; Unavailable when its engine does not answer."""
        changes = {file: await self._read(name, file, *given) for file, given in files.items()}
        snapshot = await self._engine.command(name, "snapshot", {})
        request = Request(snapshot=msgspec.msgpack.encode(snapshot), faults=list(faults), changes=changes)
        answer = await self._ask(request)
        if answer.report is None:
            raise _unusable("it holds no report")
        return answer.report

    async def replay(self, name: str, *, limit: int) -> tuple[Verdict, ...]:
        """Decide the newest journalled decisions again, newest first."""
        return (await self._ask(Request(records=await self._engine.decisions(name, limit=limit)))).verdicts

    async def _read(self, name: str, file: str, content: bytes, form: str) -> Deployable:
        deployable = await self._engine.read(content, form, file=file)
        if deployable.name != name:
            what = f"the document is of {deployable.name}, the dry run of {name}"
            raise InvalidDocument(Problem(code="OTHER_DEPLOYABLE", message=what, file=file))
        return deployable

    async def _ask(self, request: Request) -> Answer:
        async with self._places:
            process = await asyncio.create_subprocess_exec(
                *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            try:
                async with asyncio.timeout(LONGEST):
                    out, err = await process.communicate(msgspec.msgpack.encode(request))
            except TimeoutError:
                raise _unusable(f"it did not come to an end within {LONGEST:g} s") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode:
            raise _unusable(err.decode(errors="replace")[-300:])
        answer = msgspec.json.decode(out, type=Answer)
        if answer.problems:
            error: type[PcloudError] = InvalidDocument if answer.status == InvalidDocument.status else PcloudError
            raise error(*answer.problems)
        return answer


def _unusable(why: str) -> Unavailable:
    return Unavailable(Problem(code="SIMULATION_FAILED", message=f"the simulation gave no answer: {why}"))


def form_of(file: str, content: str) -> str:
    """Tell YAML, XML and JSON apart."""
    if file.endswith((".xml", ".json")):
        return file.rpartition(".")[2]
    begins = content.lstrip()[:1]
    return {"<": "xml", "{": "json"}.get(begins, "yaml")
