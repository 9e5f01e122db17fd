"""Whether programs run in a host: its sshd's banner, and a login with the key of its configuration.

A kernel answers pings, and accepts connections, for programs that hang: only what a program says counts. Keeps nothing but
the file of pinned keys. Concurrency: any number of calls at once; each may be cancelled at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from pathlib import Path

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.host import write_atomically
from pcloud.infrastructure.hosts_settings import HostSettings

_AGAIN = 0.5
_LOGIN_SECONDS = 30.0
_NEVER = ("permission denied", "host key verification failed", "invalid format", "error in libcrypto")
"""What ssh says when trying again can not help."""


class Voice(Enum):
    """What a new connection to a host met."""

    SPEAKS = "speaks"
    """A program answered, if only by closing."""
    REFUSES = "refuses"
    """Its kernel answers, and no program listens there."""
    SILENT = "silent"
    """Nothing was said in the time given, or nothing of it was reached."""


async def voice(host: HostSettings) -> Voice:
    """Connect to a host's sshd and wait for what it says first, `silence` seconds at most."""
    try:
        async with asyncio.timeout(host.silence):
            reader, writer = await asyncio.open_connection(host.address, host.ssh_port, limit=1024)
            try:
                await reader.read(1)
                return Voice.SPEAKS
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except ConnectionRefusedError:
        return Voice.REFUSES
    except ConnectionResetError:
        return Voice.SPEAKS
    except (OSError, TimeoutError):
        return Voice.SILENT


async def reached(name: str, host: HostSettings, folder: Path, timeout: float) -> None:
    """Wait until a host lets us in: by ssh where a key is configured, else until its agent takes connections.
    InfrastructureError when it does not, permanent when it refuses the key or is not the host that was pinned."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        why = await _refusal(name, host, folder)
        if not why:
            return
        if loop.time() > deadline:
            raise InfrastructureError(f"host {name} at {host.address} can not be reached: {why}")
        await asyncio.sleep(_AGAIN)


async def _refusal(name: str, host: HostSettings, folder: Path) -> str:
    if host.key_file:
        code, _, said = await _ssh(name, host, folder, "true")
        if code and any(word in said.lower() for word in _NEVER):
            raise InfrastructureError(f"host {name} at {host.address}: {said}", permanent=True)
        return said or f"exit code {code}" if code else ""
    if not host.agent_key_file:
        return ""  # nothing in it is ours to reach
    try:
        async with asyncio.timeout(host.silence):
            _, writer = await asyncio.open_connection(host.address, host.agent_port)
    except (OSError, TimeoutError) as error:
        return str(error) or "no answer"
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def boot_of(name: str, host: HostSettings, folder: Path) -> str:
    """Return what changes with every boot of a host; empty where it can not be asked. Of a container, which has its host's
    kernel, the time when its first process started changes."""
    if not host.key_file or await voice(host) is not Voice.SPEAKS:
        return ""
    code, printed, _ = await _ssh(name, host, folder, "cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat")
    boot, _, stat = printed.decode(errors="replace").partition("\n")
    fields = stat.rpartition(")")[2].split()
    return f"{boot.strip()} {fields[19]}" if code == 0 and len(fields) > 19 else ""


async def power_off(name: str, host: HostSettings, folder: Path) -> None:
    """Ask a host to shut down; what comes of it, its fence device tells."""
    if host.key_file:
        await _ssh(name, host, folder, "systemctl", "--no-block", "poweroff")


async def _ssh(name: str, host: HostSettings, folder: Path, *words: str) -> tuple[int, bytes, str]:
    """Run a command of plain words in a host as root; return its exit code, what it printed and the end of what ssh said."""
    known = folder / f"{name}.known_hosts"
    try:
        write_atomically(known, f"{name} {host.host_key}\n".encode())
    except OSError as error:
        raise InfrastructureError(f"host {name}: {known} can not be written: {error.strerror}") from error
    options = {
        "BatchMode": "yes", "IdentitiesOnly": "yes", "IdentityFile": host.key_file, "HostKeyAlias": name,
        "UserKnownHostsFile": str(known), "GlobalKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no", "ConnectTimeout": "15", "ServerAliveInterval": "5", "LogLevel": "ERROR",
    }  # fmt: skip
    arguments = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    target = ["-p", str(host.ssh_port), "-l", "root", "--", host.address, *words]
    try:
        process = await asyncio.create_subprocess_exec(
            "ssh",
            "-F",
            "none",
            *arguments,
            *target,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise InfrastructureError(f"ssh can not be run: {error.strerror} (apt-get install openssh-client)") from error
    try:
        async with asyncio.timeout(_LOGIN_SECONDS):
            printed, said = await process.communicate()
    except TimeoutError:
        return 255, b"", f"no login within {_LOGIN_SECONDS:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, printed, " ".join(said.decode(errors="replace").split())[-300:]
