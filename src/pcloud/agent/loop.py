"""The agent's event loop: file descriptors, timers, children, signals. One thread; callbacks must not wait.

Owns: epoll, the timers, the wake-up pipe of signals and the reaping of every child (also of orphans, as process 1).
Why not asyncio or `selectors`: they would double the agent's memory and start-up time.
"""

from __future__ import annotations

import bisect
import os
import select
import sys
import time

from pcloud.agent import system

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable, Container

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """A callback at a moment of the monotonic clock."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None] | None) -> None:
        self.when = when
        self.callback = callback

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when

    def cancel(self) -> None:
        """Never call back; may be called twice, and after the fact."""
        self.callback = None


class Loop:
    """Waits for everything at once."""

    __slots__ = ("_cancelled", "_children", "_epoll", "_fds", "_ready", "_signals", "_stopping", "_timers", "_wakeup")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fds: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._ready: list[Callable[[], None]] = []
        self._children: dict[int, Callable[[int], None]] = {}
        self._signals: dict[int, Callable[[], None]] = {}
        self._stopping = False
        self._wakeup, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        system.set_wakeup_fd(writer)
        system.handle(system.SIGCHLD, _note)
        self.watch(self._wakeup, READ, self._on_wakeup)

    # --- file descriptors

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call back with the ready events; a descriptor has one callback, the newest counts."""
        if fd in self._fds:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._fds[fd] = callback

    def forget(self, fd: int) -> None:
        """Stop watching; unknown descriptors are ignored. Call before closing it."""
        if self._fds.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def rest(self, listener: system.socket, callback: Callable[[int], None], seconds: float = 1.0) -> None:
        """Do not watch a listening socket for a while: no descriptor is left for its connections, and it stays ready."""
        self.forget(listener.fileno())
        self.later(seconds, lambda: self.watch(listener.fileno(), READ, callback) if listener.fileno() >= 0 else None)

    # --- time

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, after that many seconds."""
        timer = Timer(time.monotonic() + seconds, callback)
        bisect.insort(self._timers, timer)
        return timer

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back after the current callback has returned."""
        self._ready.append(callback)

    # --- children and signals

    def on_exit(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call back with the wait status when that child ends."""
        self._children[pid] = callback

    @property
    def children(self) -> Container[int]:
        """The children that `on_exit` waits for."""
        return self._children.keys()

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call back, in the loop, for that signal."""
        system.handle(number, _note)
        self._signals[number] = callback

    def _on_wakeup(self, _events: int) -> None:
        try:
            numbers = os.read(self._wakeup, 4096)
        except BlockingIOError:
            return
        for number in set(numbers):
            callback = self._signals.get(number)
            if callback is not None:
                callback()
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            callback = self._children.pop(pid, None)
            if callback is not None:
                callback(status)

    # --- running

    def stop(self) -> None:
        """Return from `run` after the current callback."""
        self._stopping = True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            self.once()

    def once(self) -> None:
        """Wait for something, and handle what is there."""
        timers = self._timers
        while timers and timers[0].callback is None:
            del timers[0]
        if len(timers) > 256 and sum(timer.callback is None for timer in timers) > len(timers) // 2:
            self._timers = timers = [timer for timer in timers if timer.callback is not None]
        if self._ready:
            wait = 0.0
        elif timers:
            wait = max(0.0, timers[0].when - time.monotonic())
        else:
            wait = -1
        for fd, events in self._epoll.poll(wait):
            callback = self._fds.get(fd)
            if callback is not None:
                callback(events)
        now = time.monotonic()
        while timers and timers[0].when <= now:
            due = timers.pop(0).callback
            if due is not None:
                due()
        ready, self._ready = self._ready, []
        for action in ready:
            action()


def _note(_number: int, _frame: object) -> None:
    """A signal handler that does nothing: the wake-up pipe tells the loop."""


def log(level: int, message: str) -> None:
    """Write one line to standard error, with syslog's level (3 error, 4 warning, 5 notice, 6 info, 7 debug) as journald
    reads it. Parameters and keys never get here."""
    if level <= _threshold[0]:
        try:
            sys.stderr.write(f"<{level}>pcloud-remoted: {message}\n" if _journal else f"pcloud-remoted: {message}\n")
            sys.stderr.flush()
        except OSError:
            pass  # nobody reads our log any more; that must not end the agent


_threshold = [5]
_journal = "JOURNAL_STREAM" in os.environ


def set_log_level(level: int) -> None:
    """Log messages of that level and of the more important ones."""
    _threshold[0] = level
