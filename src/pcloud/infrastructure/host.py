"""This host's programs, files and locks, as the rooms of LXC use them.

Concurrency: the functions that block say so; they are for threads. What waits otherwise may be cancelled at any moment, and
leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from pcloud.environment.infrastructure import InfrastructureError

_SECONDS = 120.0
"""For one program: a network that goes holds up all that come, as long as this host is busy."""


def run_tool(*words: str, given: str = "") -> str:
    """Run a program with `given` as its input, and return what it prints; blocks. InfrastructureError with its last words
    when it fails."""
    try:
        done = subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{' '.join(words[:6])}: {error}") from error
    if done.returncode:
        raise InfrastructureError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


async def ip(*arguments: str) -> None:
    """Run ip(8); InfrastructureError with what it said when it fails."""
    await carry_out("ip", *arguments)


async def carry_out(*words: str, name: str = "", environment: Mapping[str, str] | None = None) -> None:
    """Run a program for what it does; InfrastructureError with its last words when it fails, under `name` if that says more
    than its command line. `environment` takes the place of ours."""
    process = await asyncio.create_subprocess_exec(
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode:
        raise InfrastructureError(f"{name or ' '.join(words)}: {stderr.decode(errors='replace').strip()[-300:]}")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that a crash leaves the old or the new one, on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made where there is none, against other threads and processes; blocks."""
    with _alone(_lock_file(path)):
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder itself, against other threads and processes; blocks."""
    with _alone(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)):
        yield


@contextlib.contextmanager
def _alone(fd: int) -> Iterator[None]:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock of a file, made where there is none, against other processes."""
    async with held(_lock_file(path)):
        yield


@contextlib.asynccontextmanager
async def held(fd: int, patience: float = math.inf) -> AsyncIterator[None]:
    """Hold the lock of an open file, and close that; polled, for a thread that waits could not be cancelled. After
    `patience` seconds it is gone on without: who has it was stopped."""
    deadline = asyncio.get_running_loop().time() + patience
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() >= deadline:
                    break
                await asyncio.sleep(0.02)
            else:
                break
        yield
    finally:
        os.close(fd)


def _lock_file(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
