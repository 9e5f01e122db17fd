"""`pcloud-dped`: the engine process. Started by the daemon in a session of its own, so that it outlives it."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import resource
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from pcloud.dpe.deadline import Deadline
from pcloud.dpe.host import Host
from pcloud.dpe.messages import MAX_FRAME, Hello
from pcloud.dpe.spool import Spool
from pcloud.environment.clock import SystemClock
from pcloud.environment.infrastructure import Capability, Infrastructure
from pcloud.images.machine import MachineImages
from pcloud.infrastructure.capabilities import CAPABILITIES
from pcloud.infrastructure.registry import open_infrastructure
from pcloud.scheduler.opening import open_scheduler
from pcloud.transport.opening import open_transports


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pcloud-dped", description="The engine process of pacemaker-cloud; the daemon starts it."
    )
    parser.add_argument("--home", type=Path, required=True, help="the daemon's state folder ($PCLOUD_HOME)")
    parser.add_argument("--socket", type=Path, required=True, help="the daemon's Unix socket")
    parser.add_argument("--slot", required=True, help="which of the daemon's engine processes this is")
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    return parser.parse_args(argv)


async def _work(home: Path, socket: Path, slot: str) -> None:
    process = uuid.uuid4().hex
    spool = Spool(home / "run" / f"spool-{slot}-{process}.bin")

    def infrastructure(name: str, settings: dict[str, Any]) -> Infrastructure:
        return open_infrastructure(name, settings, state=home / "infrastructure" / name, machines=MachineImages())

    host = Host(
        clock=SystemClock(),
        spool=spool,
        scheduler=open_scheduler(),
        transports=open_transports(),
        open_infrastructure=infrastructure,
        users=lambda name: Capability.USERS in CAPABILITIES.get(name, ()),
        deadline=Deadline().move,
        hello=lambda loaded: Hello(process=process, slot=slot, pid=os.getpid(), loaded=loaded),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, host.end)
    try:
        await host.serve(lambda: asyncio.open_unix_connection(str(socket), limit=MAX_FRAME))
    finally:
        await host.close()
        spool.close()


def main(argv: list[str] | None = None) -> int:
    """Run the engine process; returns the exit status."""
    arguments = _arguments(argv)
    logging.basicConfig(
        level=arguments.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # A guest is a connection, and a connection is a file descriptor: take as many as we may.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run = arguments.home / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One engine process a slot: the lock is held for as long as this process lives, and tells the daemon its pid.
    lock = os.open(run / f"dped-{arguments.slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"pcloud-dped: another process serves slot {arguments.slot}\n")
        return 1
    try:
        os.pwrite(lock, f"{os.getpid():<20}\n".encode(), 0)  # over what is there: that needs no room
    except OSError as error:
        # A full disk must not keep guests from being recovered; the daemon then finds us by our command line.
        os.ftruncate(lock, 0)
        logging.getLogger(__name__).warning("the lock of slot %s can not be written: %s", arguments.slot, error)
    asyncio.run(_work(arguments.home, arguments.socket, arguments.slot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
