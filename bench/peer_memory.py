"""The private memory of a policy engine in C (`memory_peer/peer.c`): what the `memory` bench compares ours with.

Builds the program with gcc, starts it many times at once, each with one calculated decision and three idle ssh sessions to a
server in this process, and reads what the kernel says is private to each.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncssh

from bench import packages
from bench.cibs import three_assemblies

HERE = Path(__file__).resolve().parent
BINDING = HERE.parent / "src" / "pcloud" / "scheduler" / "pacemaker.c"
LIBRARIES = (
    *("libpacemaker", "pacemaker-pe_status", "pacemaker", "libqb", "glib-2.0"),
    *("libxml-2.0", "libxslt", "libssh2", "libcurl"),
)
USER = "root"
STARTS = 8
"""Peers that open their sessions at once."""


def build(folder: Path) -> Path:
    """Install what is needed, compile the peer into a folder, and return its path."""
    packages.install()
    asked = subprocess.run(["pkg-config", "--cflags", "--libs", *LIBRARIES], check=True, capture_output=True, text=True)
    program = folder / "peer"
    sources = [str(HERE / "memory_peer" / "peer.c"), str(BINDING)]
    subprocess.run(["gcc", "-O2", "-o", str(program), *sources, *asked.stdout.split()], check=True)
    return program


def measure(n: int = 50) -> int:
    """Return the private memory of one peer in bytes: the mean over `n` that run at once."""
    with tempfile.TemporaryDirectory(prefix="pcloud-peer-") as name:
        folder = Path(name)
        return asyncio.run(_measure(build(folder), folder, n))


def private(pid: int) -> int:
    """Return the private memory of a process in bytes (clean and dirty pages that no other process maps)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(number) for number in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.MULTILINE)) * 1024


async def _measure(program: Path, folder: Path, n: int) -> int:
    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    (folder / "cib.xml").write_bytes(three_assemblies())
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(key.export_private_key("pkcs8-pem"))
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[asyncssh.generate_private_key("ecdsa-sha2-nistp256")],
        authorized_client_keys=asyncssh.import_authorized_keys(key.export_public_key().decode()),
    )
    gate = asyncio.Semaphore(STARTS)
    running: list[asyncio.subprocess.Process] = []

    async def start() -> None:
        async with gate:
            process = await asyncio.create_subprocess_exec(
                *(str(program), str(folder / "cib.xml"), str(server.get_port()), USER, str(folder / "key")),
                stdout=asyncio.subprocess.PIPE,
            )
            running.append(process)
            if process.stdout is None or await asyncio.wait_for(process.stdout.readline(), 60) != b"ready\n":
                raise RuntimeError("a peer did not come up")

    try:
        await asyncio.gather(*(start() for _ in range(n)))
        return round(statistics.mean(private(process.pid) for process in running))
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
            await process.wait()
        server.close()
        await server.wait_closed()


if __name__ == "__main__":
    print(f"{measure(int(sys.argv[1]) if len(sys.argv) > 1 else 50) / 1e6:.3f} MB")
