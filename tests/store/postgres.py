"""A PostgreSQL server of the tests' own: in a temporary folder, as its own user, on a Unix socket only."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

_numbers = itertools.count(1)


def programs() -> Path | None:
    """Return the folder of the newest installed server's programs, None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def missing() -> str:
    """Say what this machine lacks for a server; empty when nothing."""
    if programs() is None:
        return "no PostgreSQL server is installed (package postgresql; tools/setup-tests installs it)"
    return ""


class Server:
    """See the module. PostgreSQL refuses to run as root: then it runs as the user that its package made."""

    def __init__(self) -> None:
        bin_folder = programs()
        assert bin_folder is not None
        self.bin = bin_folder
        self.folder = Path(tempfile.mkdtemp(prefix="pcloud-pg-", dir="/tmp"))  # a socket's path must be short
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run(
            "initdb", "-D", str(self.data), "-U", "pcloud", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"
        )
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*self._as, str(self.bin / program), *words], capture_output=True, text=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c max_connections=30"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-o", options, "-l", log, "-s", "-w", "-t", "300", "start")

    def kill(self) -> None:
        """End it as a crash would: no transaction is finished, the next start recovers from the log."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-s", "-w", "-t", "300", "stop")

    def database(self) -> str:
        """Make an empty database and return its address for SQLAlchemy."""
        name = f"pcloud{next(_numbers)}"
        self._run("createdb", "-h", str(self.folder), "-U", "pcloud", name)
        return f"postgresql+psycopg://pcloud@/{name}?host={self.folder}"

    def close(self) -> None:
        """End it and remove everything."""
        if (self.data / "postmaster.pid").exists():
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
