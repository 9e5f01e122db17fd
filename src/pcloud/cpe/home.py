"""Where everything lives under `$PCLOUD_HOME`, who may read it, and that one daemon at a time owns it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

from pcloud.model.errors import Conflict, Problem, Unavailable

DEFAULT_HOME = "/var/lib/pcloud"
SYSTEM_SETTINGS = Path("/etc/pcloud/pcloud.toml")
LATE = ".late"
"""Ending of spools that were written before another daemon owned the store."""
_SPOOL = re.compile(rf"spool-(?P<slot>.+)-(?P<process>[^-]+)\.(?:bin|{LATE[1:]})")


class Home:
    """Paths of one installation; made on first use, for the owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    @classmethod
    def default(cls) -> Home:
        """Return `$PCLOUD_HOME`, or the system's folder."""
        return cls(Path(os.environ.get("PCLOUD_HOME") or DEFAULT_HOME))

    @property
    def run(self) -> Path:
        """Sockets, locks and spools."""
        return self.path / "run"

    @property
    def socket(self) -> Path:
        """Where engine processes connect to."""
        return self.run / "cped.sock"

    @property
    def keys(self) -> Path:
        """Private keys, a folder a deployable."""
        return self.path / "keys"

    @property
    def token(self) -> Path:
        """The first token, readable by the owner only."""
        return self.path / "token"

    @property
    def database(self) -> Path:
        """The embedded store."""
        return self.path / "pcloud.db"

    @property
    def settings(self) -> Path:
        """The settings file, optional: the home's own; where the system's home has none, the one in /etc."""
        own = self.path / "pcloud.toml"
        return SYSTEM_SETTINGS if self.path == Path(DEFAULT_HOME) and not own.exists() else own

    @property
    def logs(self) -> Path:
        """Logs of processes that nobody else keeps."""
        return self.path / "log"

    def engine_lock(self, slot: str) -> Path:
        """The file that an engine process of this slot holds locked, with its process id in it, as long as it lives."""
        return self.run / f"dped-{slot}.lock"

    def spools(self) -> list[tuple[Path, str, str]]:
        """Return (file, slot, process) of every spool of unacknowledged records."""
        found = []
        for path in sorted(self.run.glob("spool-*")):
            parts = _SPOOL.fullmatch(path.name)
            if parts:
                found.append((path, parts["slot"], parts["process"]))
        return found

    def mark_late(self) -> None:
        """Mark every spool as written before another daemon owned the store: its engine states count no longer. Blocking."""
        for path in self.run.glob("spool-*.bin"):
            path.rename(path.with_suffix(LATE))

    def prepare(self) -> None:
        """Make the folders; Unavailable when that is not possible."""
        try:
            for folder in (self.path, self.run, self.keys, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.run, self.keys):
                folder.chmod(0o700)
        except OSError as error:
            raise Unavailable(
                Problem(
                    code="HOME_UNUSABLE",
                    message=f"{self.path} can not be used: {error.strerror}",
                    hint="run as root, or choose another folder with --home or $PCLOUD_HOME",
                )
            ) from error

    def lock(self) -> None:
        """Become this home's only daemon; Conflict when another one lives. Released when the process ends."""
        path = self.run / "cped.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise Conflict(
                Problem(
                    code="ALREADY_RUNNING",
                    message=f"a daemon (process {holder or 'unknown'}) already runs on {self.path}",
                    hint="stop it with `pcloud down`, or choose another --home",
                )
            ) from error
        with contextlib.suppress(OSError):  # a full disk, and no daemon wrote here before: the lock holds all the same
            os.pwrite(handle, f"{os.getpid():<20}\n".encode(), 0)  # over what is there: that needs no room
        self._lock = handle

    def unlock(self) -> None:
        """Let another daemon have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner's eyes only: whole or not at all, also after a crash. OSError when it can not be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
