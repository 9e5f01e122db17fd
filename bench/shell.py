"""How soon a command answers: `pcloud --help`, which asks nobody, and `pcloud get` of a daemon that runs.

Against the start of the same interpreter, in turns, so that a busy machine is busy for both; the median of the turns counts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.ports import free_port

from bench import Row

TURNS = 15
BIN = Path(sys.executable).parent
BARE = (sys.executable, "-c", "pass")
BUDGETS = {"shell-help": 10.0, "shell-get": 25.0}
"""Not of the design: a tenth and a quarter of a second where the interpreter takes a hundredth to start."""


def run() -> Iterator[Row]:
    """Yield `shell-help` and `shell-get`, in seconds."""
    with tempfile.TemporaryDirectory(prefix="pcloud-bench-") as home:
        environment = os.environ | {"PCLOUD_HOME": home, "PCLOUD_URL": f"http://127.0.0.1:{free_port()}"}
        pcloud = str(BIN / "pcloud")
        subprocess.run([pcloud, "up", "--detach"], env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            for name, words in {"shell-help": ["--help"], "shell-get": ["get"]}.items():
                ours, bare = _turns([pcloud, *words], environment)
                yield Row.of(name, ours, bare, BUDGETS[name])
        finally:
            subprocess.run([pcloud, "down"], env=environment, check=True, stdout=subprocess.DEVNULL)


def _turns(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    ours, bare = [], []
    for _ in range(TURNS):
        bare.append(_seconds(BARE, environment))
        ours.append(_seconds(command, environment))
    return statistics.median(ours), statistics.median(bare)


def _seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun
