"""A process of its own that is killed at one line of some modules: what `kill -9` leaves, wherever it comes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any


def killed_at_every_line(modules: list[ModuleType], work: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Kill a process at its first step, at its second …, until one comes to its end; a step is the first time that a line is
    reached. `work` prepares in this process and returns what the other one does. Yields after each death."""
    files = {str(module.__file__) for module in modules}
    for point in range(10_000):
        doomed = work()
        process = multiprocessing.get_context("fork").Process(target=_run, args=(doomed, files, point))
        process.start()
        process.join()
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        yield point
    raise AssertionError("it never came to its end")


def _run(doomed: Callable[[], object], files: set[str], point: int) -> None:
    seen: set[tuple[str, int]] = set()

    def traced(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) > point:
                os.kill(os.getpid(), signal.SIGKILL)
        return traced

    sys.settrace(traced)
    doomed()
    sys.settrace(None)
