"""The moment at which a process must have ended: kept by the kernel, whatever the process does or does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcloud.dpe.deadline import Deadline

PATIENCE = 120
BEGINNING = """
import math, sys, time
from pcloud.dpe.deadline import Deadline
deadline = Deadline()
now = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGINNING + program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_a_process_that_hangs_ends() -> None:
    done = run("deadline.move(now() + 0.2)\nwhile True: pass\n")
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize("moment", ["now() - 1", "0.0", "-5.0", "now()"])
def test_one_that_is_past_takes_effect_at_once(moment: str) -> None:
    done = run(f"deadline.move({moment})\ntime.sleep({PATIENCE * 2})\n")
    assert done.returncode == -signal.SIGALRM


def test_it_can_be_moved_and_taken_away() -> None:
    done = run("deadline.move(now() + 3600)\ndeadline.move(now() + 7200)\ndeadline.move(math.inf)\nprint('alive')\n")
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_it_is_gone_after_an_exec() -> None:
    timers = Path("/proc/self/timers")
    if not timers.exists():
        pytest.skip("this kernel does not list timers (/proc/PID/timers)")
    program = f"import os\nread = \"print(len(open('{timers}').read()))\"\ndeadline.move(now() + 3600)\n"
    assert run(program + "exec(read)\n").stdout != "0\n"
    assert run(program + "os.execv(sys.executable, [sys.executable, '-c', read])\n").stdout == "0\n"


def test_one_that_was_stopped_over_it_does_nothing_more() -> None:
    """It stops itself at once, so that whatever it writes was written after it was continued."""
    program = (
        "import os, signal\ndeadline.move(now() + 1)\nos.kill(os.getpid(), signal.SIGSTOP)\nos.write(1, b'alive')\n"
    )
    with subprocess.Popen([sys.executable, "-c", BEGINNING + program], stdout=subprocess.PIPE) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        stopped = time.clock_gettime(time.CLOCK_BOOTTIME)
        while time.clock_gettime(time.CLOCK_BOOTTIME) < stopped + 1.1:
            time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert process.returncode == -signal.SIGALRM


def test_nothing_happens_before_it_is_set() -> None:
    Deadline().move(float("inf"))
