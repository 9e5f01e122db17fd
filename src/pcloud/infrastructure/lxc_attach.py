"""Commands in a guest through lxc-attach: bounded in time and output, killed with everything they started.

Concurrency: no state; any number at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import ExecResult, InfrastructureError

MAX_OUTPUT = 1024 * 1024
_INSIDE = """
[ "$(stat -c %d:%i /)" != "$0" ] || exit
echo "$1" >&2
shift
exec "$@"
"""
"""Runs a command and says so before, with a word, unless its root is this host's (`$0`): lxc-attach leaves out what a guest
whose first process is being killed has no more, and then runs commands here."""
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def attach(
    lxc_path: Path, name: str, argv: Sequence[str], *, stdin: bytes, timeout: float, wait_killed: bool = True
) -> ExecResult:
    """Run a command in a running guest. InfrastructureError when that can not be entered, TimeoutError after `timeout`
    seconds, when the command has been killed."""
    here, word = os.stat("/"), secrets.token_hex(8)  # noqa: PTH116 - never blocks
    command = [
        "lxc-attach",
        "-P",
        str(lxc_path),
        "-n",
        name,
        "--clear-env",
        "-v",
        PATH,
        "-v",
        "HOME=/root",
        "--",
        "/bin/sh",
        "-c",
        _INSIDE,
        f"{here.st_dev}:{here.st_ino}",
        word,
        *argv,
    ]
    result = await run(command, stdin=stdin, timeout=timeout, wait_killed=wait_killed)
    refusal, inside, stderr = result.stderr.partition(f"{word}\n".encode())
    if not inside:
        reason = refusal.decode(errors="replace").strip().rpartition(" - ")[2] or "it is ending"
        raise InfrastructureError(f"nothing can be run in guest {name}: {reason}")
    return msgspec.structs.replace(result, stderr=stderr)


async def run(command: Sequence[str], *, stdin: bytes = b"", timeout: float, wait_killed: bool = True) -> ExecResult:
    """Run a command in a process group of its own. TimeoutError after `timeout` seconds, when the group was killed;
    `wait_killed` False does not wait for its end (a process in a frozen guest can not die)."""
    if any("\0" in argument for argument in command):
        raise InfrastructureError("an argument holds a NUL character", permanent=True)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise InfrastructureError(f"{command[0]} can not be run: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    done = False
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr, _ = await asyncio.gather(
                _drain(process.stdout), _drain(process.stderr), _feed(process.stdin, stdin)
            )
            returncode = await process.wait()
            done = True
    finally:
        if not done:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if wait_killed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 5.0)
    return ExecResult(returncode=returncode, stdout=stdout, stderr=stderr)


async def _drain(stream: asyncio.StreamReader) -> bytes:
    """Read to the end, keep the first MAX_OUTPUT bytes: a chatty command must not fill our memory nor block."""
    kept = bytearray()
    while chunk := await stream.read(65536):
        if len(kept) < MAX_OUTPUT:
            kept += chunk[: MAX_OUTPUT - len(kept)]
    return bytes(kept)


async def _feed(stream: asyncio.StreamWriter | None, content: bytes) -> None:
    if stream is None:
        return
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the command need not read it
            stream.write(content)
            await stream.drain()
    finally:
        stream.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await stream.wait_closed()
