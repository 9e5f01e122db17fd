"""Programs that build images: run in mount and PID namespaces of their own, so that nothing of them outlives them.

Mounts are private to the namespace and vanish with its last process; every process in it ends when the first one does; the
first one ends when we do (`setpriv --pdeathsig`), though some time later, and not at all when we are killed before it could
ask for that: whatever the programs work on is locked by a descriptor that they inherit. Cancelling `run` kills the lot and
waits for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from pcloud.model.errors import PcloudError

Progress = Callable[[float, str], None]
"""Called with the finished fraction (0 to 1, never falling) and a short sentence."""
BASE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
LOCK = "PCLOUD_BUILD_LOCK"
"""Environment variable that says which descriptor is the lock's."""
LONGEST = 4096
"""Bytes of a line that are looked at."""
ENTER = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--propagation",
    "private",
)


class BuildFailed(PcloudError):
    """A program that builds an image failed; the message ends with its last words."""

    status = 500


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None],
    log: Callable[[bytes], object] = len,
    what: str,
    lock: int,
) -> None:
    """Run a program in a namespace of its own, each line of its output given to `on_line`. BuildFailed when it fails.

    `lock` is the descriptor of a file lock: it is held until the program is gone, whatever becomes of us.
    """
    process = await asyncio.create_subprocess_exec(
        *ENTER, *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**BASE, LOCK: str(lock), **(environment or {})},
        pass_fds=(lock,),
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=15)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()
        rest = b""
        while chunk := await process.stdout.read(65536):
            log(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-LONGEST:]
            for raw in lines:
                line = raw[:LONGEST].decode(errors="replace").rstrip()
                if line:
                    last.append(line)
                    on_line(line)
        returncode = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if returncode:
        words = [line for line in last if line.startswith(("E:", "error:", "dpkg: error"))] or list(last)[-5:]
        raise BuildFailed.of("BUILD_FAILED", f"{what} failed (status {returncode}): {' | '.join(words)}"[:2000])
