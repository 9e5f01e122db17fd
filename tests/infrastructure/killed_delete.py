"""Deletes an LXC guest's folder by a process killed at its first, second … change of the disk, and again by a second one.

    python -m tests.infrastructure.killed_delete FOLDER

Prints a JSON list: after each kill and the second delete, what is left besides the other guest of that state folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pcloud.environment.infrastructure import GuestSpec, Identity, Image
from pcloud.infrastructure import lxc_rootfs
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_network import Leases
from pcloud.infrastructure.lxc_settings import LxcSettings

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate"}


def spec(name: str) -> GuestSpec:
    return GuestSpec(
        guest_id=name,
        deployable=name.partition(".")[0],
        assembly=name.partition(".")[2],
        image=Image(name="x", digest="1"),
        identity=Identity(hostname="x", agent_key=b"k"),
        digest="1",
    )


def make(state: Path, name: str) -> None:
    guests = state / "guests"
    lxc_rootfs.create(guests, spec(name))
    (guests / name / "config").write_text("lxc.uts.name = x\n")
    Leases(state).take(name, 256)


def delete(state: Path, name: str) -> None:
    async def work() -> None:
        driver = LxcInfrastructure(LxcSettings(state=str(state)))
        await driver.delete(name)
        await driver.close()

    asyncio.run(work())


def killed_at(number: int, state: Path, name: str) -> None:
    """Delete; die by SIGKILL before the disk's change of that number."""
    left = number

    def hook(event: str, arguments: object) -> None:
        nonlocal left
        if event in CHANGES:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    delete(state, name)


def forked(work: Callable[[], None]) -> bool:
    """Do it in a process of its own; tell whether that came to its end."""
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def main() -> None:
    root = Path(sys.argv[1])
    found = []
    for number in range(1, 200):
        state = root / str(number)
        make(state, "other.one")
        make(state, "gone.one")
        done = forked(lambda number=number, state=state: killed_at(number, state, "gone.one"))  # type: ignore[misc]
        assert forked(lambda state=state: delete(state, "gone.one")), "the second delete failed"  # type: ignore[misc]
        left = [str(path.relative_to(state)) for path in state.rglob("*") if "gone" in str(path.relative_to(state))]
        left += [name for name in Leases(state).all() if name != "other.one"]
        left += [] if (state / "guests/other.one/guest.json").exists() else ["the other guest is damaged"]
        found.append(sorted(left))
        if done:
            print(json.dumps(found))
            return
    raise AssertionError("a delete that never ends")


if __name__ == "__main__":
    main()
