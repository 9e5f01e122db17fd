"""A moment at which this process must have stopped to act, kept by the kernel.

A timer of the system raises SIGALRM at an absolute time of CLOCK_BOOTTIME. Where nobody handles that signal the process ends
there and then: with its event loop hanging; stopped (SIGSTOP) over that moment, before it runs one instruction of its own
again; and after the machine slept. An exec takes the timer away. From timer_create(2), by ctypes: Python offers only timers
that stand still while the machine sleeps.
"""

from __future__ import annotations

import ctypes
import math
import os
import time

_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Deadline:
    """One process's; making it has no effect until `move`."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "timer_create"):
            library = ctypes.CDLL("librt.so.1", use_errno=True)  # glibc before 2.34
        self._library = library
        self._timer: ctypes.c_void_p | None = None

    def move(self, until: float) -> None:
        """Set it to a CLOCK_BOOTTIME moment, in seconds; infinite takes it away. One that is past takes effect at once.

        OSError when the system gives no timer.
        """
        if self._timer is None:
            if math.isinf(until):
                return
            made = ctypes.c_void_p()
            self._call(self._library.timer_create(ctypes.c_int(time.CLOCK_BOOTTIME), None, ctypes.byref(made)))
            self._timer = made
        value = _Itimerspec()
        if not math.isinf(until):
            seconds = max(0, math.floor(until))
            # Never nothing at all: that would take the timer away.
            value.value = _Timespec(seconds, max(1, int((until - seconds) * 1e9)) if until > 0 else 1)
        self._call(self._library.timer_settime(self._timer, ctypes.c_int(_TIMER_ABSTIME), ctypes.byref(value), None))

    def _call(self, result: int) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, f"no timer: {os.strerror(number)}")
