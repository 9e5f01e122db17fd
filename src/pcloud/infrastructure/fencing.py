"""Fence agents: programs that switch machines, asked as the fence-agents API has it.

An agent reads `key=value` lines from its standard input, `action=` among them, and answers with its exit code: 0 is done
(for `status`: on), 2 is off (for `status` alone), anything else a failure. `metadata` prints XML. Source: the FenceAgentAPI
page of ClusterLabs' fence-agents. Secrets go through standard input only.

Concurrency: one agent at a time for each device, other processes' included. A lock file is inherited by the agent: when we
are killed, the next engine waits for the agent that we left running, so that no older order is carried out after a newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
from lxml import etree

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.host import held
from pcloud.infrastructure.hosts_settings import FenceSettings, secret_parameters
from pcloud.model.errors import PcloudError

OFF = 2
"""Exit code of `status`: the machine is off."""
_AGAIN = 0.5
"""Seconds between two looks until an action is confirmed."""
_SECRET = re.compile(r"passw|secret|token|community", re.IGNORECASE)
"""Names of parameters whose values are not repeated, wherever they were written."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself."""

    name: str
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    actions: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How an action of an agent ended."""

    code: int
    output: bytes
    said: str
    """The end of what it wrote to standard error, without secrets."""


class FenceDevice:
    """One host's fence device."""

    def __init__(self, host: str, settings: FenceSettings, lock: Path) -> None:
        self._host = host
        self._settings = settings
        self._lock = lock

    async def on(self) -> bool:
        """Tell whether the host is switched on; InfrastructureError when the device does not say."""
        answer = await self.run("status", self._settings.status_timeout)
        if answer.code not in (0, OFF):
            raise self._failed("status", answer)
        return answer.code == 0

    async def switch(self, *, on: bool) -> None:
        """Switch the host, and return when the device has confirmed it; InfrastructureError else."""
        action = "on" if on else "off"
        answer = await self.run(action, self._settings.timeout)
        if answer.code:
            raise self._failed(action, answer)
        await self._confirmed(action, wanted=on)

    async def isolate(self) -> bool:
        """End everything in the host: it is off, or was; tell whether it is left on. InfrastructureError when that is
        not confirmed."""
        if self._settings.isolation == "off":
            await self.switch(on=False)
            return False
        answer = await self.run("reboot", self._settings.timeout)
        if answer.code:
            raise self._failed("reboot", answer)
        return await self.on()  # an agent whose reboot succeeded saw the host off; it may have failed to switch it on

    async def _confirmed(self, action: str, *, wanted: bool) -> None:
        if not await self.until(self._settings.timeout, wanted=wanted):
            raise InfrastructureError(f"the fence device of {self._host} said {action} was done, but status denies it")

    async def until(self, timeout: float, *, wanted: bool) -> bool:
        """Wait until the host is on, or off, as `wanted`; tell whether it is after so many seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            if await self.on() is wanted:
                return True
            if loop.time() > deadline:
                return False
            await asyncio.sleep(_AGAIN)

    async def run(self, action: str, timeout: float) -> Answer:
        """Have the agent do something; InfrastructureError when it can not be run or does not end in time."""
        program, lines, secrets = self._prepared(action)
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InfrastructureError(f"host {self._host}: no lock at {self._lock}: {error.strerror}") from error
        # An agent that an earlier engine left gets as long as it may take, and is gone past then: it hangs.
        async with held(fd, patience=max(timeout, self._settings.timeout) * 2):
            return await self._ask(program, action, lines, secrets, timeout, fd)

    def _prepared(self, action: str) -> tuple[str, bytes, Sequence[str]]:
        program = find(self._settings.agent)
        if not program:
            raise InfrastructureError(f"host {self._host}: the fence agent {self._settings.agent} is not installed")
        try:
            secret = secret_parameters(self._host, self._settings)
        except PcloudError as error:
            raise InfrastructureError(error.problems[0].message) from error
        plain = self._settings.parameters
        given = {"action": action} if action == "metadata" else {"action": action, **plain, **secret}
        hidden = [*secret.values(), *(value for key, value in plain.items() if value and _SECRET.search(key))]
        return program, "".join(f"{key}={value}\n" for key, value in given.items()).encode(), hidden

    async def _ask(
        self, program: str, action: str, lines: bytes, secrets: Sequence[str], timeout: float, fd: int
    ) -> Answer:
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd="/",
                env={"PATH": _PATH, "LANG": "C.UTF-8"},
                pass_fds=(fd,),
                start_new_session=True,
            )
        except OSError as error:
            raise InfrastructureError(f"host {self._host}: {program} can not be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(timeout):
                output, errors = await process.communicate(lines)
        except TimeoutError as error:
            raise InfrastructureError(
                f"host {self._host}: the fence agent did not end {action} within {timeout:g} s"
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        said = errors.decode(errors="replace").strip()
        for secret in secrets:
            said = said.replace(secret, "***")
        return Answer(code=process.returncode or 0, output=output, said=" ".join(said.split())[-300:])

    def _failed(self, action: str, answer: Answer) -> InfrastructureError:
        said = f": {answer.said}" if answer.said else ""
        return InfrastructureError(
            f"the fence device of {self._host} failed to {action} (exit code {answer.code}){said}"
        )


def find(agent: str) -> str:
    """Return the path of an agent; empty when it is not installed."""
    return shutil.which(agent, path=f"{os.environ.get('PATH', '')}:{_PATH}") or ""


def parse_metadata(document: bytes) -> Metadata:
    """Read what an agent's `metadata` prints; ValueError when it is no such document."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(document, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"its metadata is no XML: {error}") from error
    if root.tag != "resource-agent":
        raise ValueError(f"its metadata is a document <{root.tag}>, not <resource-agent>")
    parameters = root.findall("parameters/parameter")
    return Metadata(
        name=root.get("name", ""),
        parameters=tuple(each.get("name", "") for each in parameters),
        required=tuple(each.get("name", "") for each in parameters if each.get("required") in ("1", "true")),
        actions=tuple(each.get("name", "") for each in root.findall("actions/action")),
    )
