"""`pcloud up` and `down` with a stand-in daemon program beside `pcloud`: start, failure to start, orderly end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.shell.conftest import BIN, PATIENCE, WaitFor
from tests.shell.fakeapi import TOKEN

ROOT = Path(__file__).resolve().parents[2]
DAEMON = f"""\
#!{sys.executable}
import fcntl, os, pathlib, signal, sys, threading
sys.path.insert(0, {str(ROOT)!r})
from tests.shell.fakeapi import Fleet, Running
home = pathlib.Path(sys.argv[sys.argv.index("--home") + 1])
(home / "run").mkdir(parents=True, exist_ok=True)
lock = os.open(home / "run" / "cped.lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, f"{{os.getpid()}}\\n".encode(), 0)
(home / "token").write_text({TOKEN!r})
print("hello log", flush=True)
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
fleet = Fleet(on_shutdown=ended.set)
running = Running(fleet, port=int(sys.argv[sys.argv.index("--listen") + 1].rpartition(":")[2]))
while not ended.wait(0.05):
    pass
running.stop()
(home / "asked").write_text(repr(fleet.shutdowns))
"""


class Place:
    """A folder with `pcloud` and a daemon program, and a free port."""

    def __init__(self, folder: Path, daemon: str) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "pcloud").symlink_to(BIN / "pcloud")
        (self.bin / "pcloud-cped").write_text(daemon)
        (self.bin / "pcloud-cped").chmod(0o755)
        self.home = folder / "home"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = {"PATH": os.environ["PATH"], "PCLOUD_HOME": str(self.home), "PCLOUD_URL": self.url}

    def pcloud(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "pcloud", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    @property
    def pid(self) -> int:
        return int((self.home / "run" / "cped.lock").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, DAEMON)
    yield place
    if (place.home / "run" / "cped.lock").exists() and not (place.home / "asked").exists():
        os.kill(place.pid, signal.SIGKILL)


def executes(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_up_detached_and_down(place: Place) -> None:
    ended = place.pcloud("up", "--detach")
    assert ended.returncode == 0, ended.stderr
    assert f"the daemon answers at {place.url}" in ended.stdout
    assert "hello log" in (place.home / "log" / "cped.log").read_text()
    assert os.getsid(place.pid) == place.pid, "it must outlive the terminal"
    again = place.pcloud("up", "--detach")
    assert (again.returncode, again.stdout) == (0, f"the daemon answers at {place.url} already\n")
    assert place.pcloud("up").returncode == 4
    assert place.pcloud("get").returncode == 0

    pid = place.pid
    ended = place.pcloud("down")
    assert (ended.returncode, ended.stdout) == (0, "the daemon has ended; guests go on\n"), ended.stderr
    assert (place.home / "asked").read_text() == "[{'engines': True, 'guests': False}]"
    assert executes(pid) is False, "it has ended (init may not have noticed yet)"
    ended = place.pcloud("down")
    assert (ended.returncode, ended.stdout) == (0, "no daemon runs\n")


@pytest.mark.parametrize(
    ("option", "asked"),
    [("--keep-engines", {"engines": False, "guests": False}), ("--guests", {"engines": True, "guests": True})],
)
def test_down_says_how_much_to_end(place: Place, option: str, asked: dict[str, bool]) -> None:
    assert place.pcloud("up", "--detach").returncode == 0
    assert place.pcloud("down", option).returncode == 0
    assert (place.home / "asked").read_text() == repr([asked])


def test_up_in_the_foreground_is_the_daemon_itself(place: Place, wait_for: WaitFor) -> None:
    with subprocess.Popen([place.bin / "pcloud", "up"], env=place.environment, stdout=subprocess.DEVNULL) as child:
        wait_for(lambda: place.pcloud("get").returncode == 0)
        assert place.pid == child.pid
        child.terminate()
        assert child.wait(PATIENCE) == 0


def test_down_does_not_end_a_daemon_with_another_state_folder(place: Place, tmp_path: Path) -> None:
    assert place.pcloud("up", "--detach").returncode == 0
    place.environment["PCLOUD_HOME"] = str(tmp_path / "elsewhere")
    ended = place.pcloud("down")
    assert ended.returncode == 4
    assert "keeps its state elsewhere" in ended.stderr
    os.kill(place.pid, 0)


@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_up_beside_a_daemon_with_another_state_folder(place: Place, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert place.pcloud("up", "--detach").returncode == 0
    place.environment["PCLOUD_HOME"] = str(tmp_path / "elsewhere")
    ended = place.pcloud("up", *options)
    assert ended.returncode == 4
    assert "another daemon answers" in ended.stderr
    place.environment["PCLOUD_HOME"] = str(place.home)
    assert "already" in place.pcloud("up", "--detach").stdout


def test_a_lock_file_without_a_daemon_kills_nobody(place: Place) -> None:
    (place.home / "run").mkdir(parents=True)
    (place.home / "run" / "cped.lock").write_text(f"{os.getpid()}\n")
    ended = place.pcloud("down")
    assert (ended.returncode, ended.stdout) == (0, "no daemon runs\n")
    (place.home / "run" / "cped.lock").unlink()


def test_a_daemon_that_can_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    place = Place(tmp_path, "#!/bin/sh\necho 'the port is taken'\nexit 3\n")
    ended = place.pcloud("up", "--detach")
    assert ended.returncode == 5
    assert "ended at once with exit code 3" in ended.stderr
    assert "the port is taken" in ended.stderr


def test_a_daemon_that_never_answers(tmp_path: Path, wait_for: WaitFor) -> None:
    place = Place(tmp_path, f"#!/bin/sh\necho $$ > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/pid\nexec sleep 900\n")
    ended = place.pcloud("up", "--detach", "--timeout", "500ms")
    wait_for((tmp_path / "pid").exists)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert ended.returncode == 6
    assert "does not answer after 0.5 s" in ended.stderr


def test_up_means_this_machine(place: Place) -> None:
    assert place.pcloud("--url", "http://192.0.2.1:8780", "up").returncode == 2


def test_doctor_without_a_daemon(place: Place) -> None:
    ended = place.pcloud("doctor")
    assert ended.returncode == 5
    assert "pcloud up --detach" in ended.stdout
