"""Groups of LXC guests that firewall rules name: who is in a group, at which addresses, and in whose rules it stands.

`groups/NAME/members/GUEST` holds a member's addresses, `groups/NAME/followers/GUEST` says that the rules of a guest name the
group, and `groups/NAME/elements.nft` fills the group's nftables set in each of those guests; NAME is a digest of the group's
name. A guest that comes to be, or has other addresses, changes the sets of running followers before it starts; one that is
removed leaves them before its address can be another's.

Concurrency: functions block and run in threads, of the daemon and of engine processes. A lock lets one of them change groups
at a time; a starting guest loads its sets while it shares that lock, so that it loads a change or is told of it. Each
function may be called again after a crash: a group that was not told to all followers is marked `stale` until it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pcloud.infrastructure import lxc_process
from pcloud.infrastructure.host import alone, write_atomically

_log = logging.getLogger(__name__)
LOADED = "firewall.pid"
"""In a guest's folder: process id and start time of the init whose network has the guest's rules."""
RULES = "firewall.nft"
_AT_ONCE = 8
_SECONDS = 60.0


def set_name(group: str) -> str:
    """Return the name of a group's nftables set."""
    return "g" + hashlib.sha256(group.encode()).hexdigest()[:24]


class Groups:
    """The groups of the guests of one state folder."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "groups"
        self._guests = state / "guests"
        self.lock = state / "groups.lock"

    def elements(self, group: str) -> Path:
        """Return the file that fills a group's set."""
        return self._folder / set_name(group) / "elements.nft"

    def follow(self, guest_id: str, groups: Iterable[str]) -> None:
        """Note that the rules of a guest name these groups and no others."""
        wanted = {set_name(group) for group in groups}
        if not wanted and not self._folder.is_dir():
            return
        with alone(self.lock):
            for group in self._all(wanted):
                mine = group / "followers" / guest_id
                if group.name in wanted:
                    _make(group)
                    mine.touch()
                    if not (group / "elements.nft").exists():
                        self._write(group)
                elif mine.exists():
                    mine.unlink()
                    self._tidy(group)

    def join(self, guest_id: str, groups: Iterable[str], addresses: Sequence[str]) -> None:
        """Make a guest with these addresses a member of these groups and no others, and tell the running followers."""
        wanted = {set_name(group) for group in groups}
        if not wanted and not self._folder.is_dir():
            return
        content = "".join(f"{address.partition('/')[0]}\n" for address in addresses).encode()
        with alone(self.lock):
            for group in self._all(wanted):
                mine = group / "members" / guest_id
                before = mine.read_bytes() if mine.exists() else None
                now = content if group.name in wanted else None
                stale = group / "stale"
                if before == now and not stale.exists():
                    continue
                _make(group)
                stale.touch()
                if now is None:
                    mine.unlink(missing_ok=True)
                else:
                    write_atomically(mine, now)
                self._write(group)
                self._tell(group)
                stale.unlink()
                self._tidy(group)

    def forget(self, guest_id: str) -> None:
        """Take a guest that is being removed out of all groups."""
        self.join(guest_id, (), ())
        self.follow(guest_id, ())

    def _all(self, wanted: set[str]) -> list[Path]:
        names = set(os.listdir(self._folder)) if self._folder.is_dir() else set()  # noqa: PTH208 - names only
        return [self._folder / name for name in sorted(names | wanted)]

    def _write(self, group: Path) -> None:
        found = {line for file in _names(group / "members") for line in file.read_text().split()}
        lines = [f"flush set inet pcloud {group.name}"]
        if found:
            lines.append(f"add element inet pcloud {group.name} {{ {', '.join(sorted(found))} }}")
        write_atomically(group / "elements.nft", "".join(f"{line}\n" for line in lines).encode())

    def _tell(self, group: Path) -> None:
        """Fill the set anew in every follower that runs."""
        running = []
        for follower in _names(group / "followers"):
            folder = self._guests / follower.name
            process = _loaded(folder)
            if process is not None:
                running.append((folder, process))
        for start in range(0, len(running), _AT_ONCE):
            batch = [
                (folder, process, _nft(process, group / "elements.nft"))
                for folder, process in running[start : start + _AT_ONCE]
            ]
            for folder, process, command in batch:
                if not _ended(command) and lxc_process.is_alive(process) and not _ended(_nft(process, folder / RULES)):
                    # Root in a guest may have changed its own firewall: that must not keep others from starting.
                    _log.warning("%s: its firewall does not take who is in a group", folder.name)

    def _tidy(self, group: Path) -> None:
        if not any(_names(group / "members")) and not any(_names(group / "followers")):
            shutil.rmtree(group)
            with contextlib.suppress(OSError):  # there are other groups
                self._folder.rmdir()


def _make(group: Path) -> None:
    for part in ("members", "followers"):
        (group / part).mkdir(parents=True, exist_ok=True)


def _names(folder: Path) -> Iterator[Path]:
    """The files of a folder but for half-written ones."""
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def _loaded(folder: Path) -> lxc_process.Process | None:
    """The process whose network has a guest's rules; None when it is gone."""
    try:
        pid, start = (folder / LOADED).read_text().split()
        process = lxc_process.Process(int(pid), int(start))
    except (FileNotFoundError, ValueError):
        return None
    return process if lxc_process.is_alive(process) else None


def _nft(process: lxc_process.Process, file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["nsenter", f"--net=/proc/{process.pid}/ns/net", "nft", "-f", str(file)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _ended(command: subprocess.Popen[bytes]) -> bool:
    """Wait for a command's end; False when it failed or did not end."""
    try:
        return command.wait(_SECONDS) == 0
    except subprocess.TimeoutExpired:
        command.kill()
        command.wait()
        return False
